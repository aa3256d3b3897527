"""Which devices the unit of a job may open."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pool.runner import devices

_INFORMATION = """\
Model: \t\t NVIDIA H100 80GB HBM3
IRQ:   \t\t 181
GPU UUID: \t {uuid}
Bus Type: \t PCIe
Bus Location: \t 0000:{bus}:00.0
Device Minor: \t {minor}
GPU Excluded:\t No
"""
_DEVICES = """\
Character devices:
  1 mem
  4 /dev/vc/0
 10 misc
195 nvidia
195 nvidia-modeset
195 nvidiactl
231 infiniband_verbs
254 nvidia-uvm

Block devices:
259 blkext
"""


@pytest.fixture
def root(tmp_path: Path) -> str:
    """A host with two cards, the second with minor 0."""
    for bus, (uuid, minor) in {"1b": ("GPU-1", 1), "2a": ("GPU-2", 0)}.items():
        folder = tmp_path / f"proc/driver/nvidia/gpus/0000:{bus}:00.0"
        folder.mkdir(parents=True)
        (folder / "information").write_text(_INFORMATION.format(uuid=uuid, bus=bus, minor=minor))
    (tmp_path / "proc/devices").write_text(_DEVICES)
    return str(tmp_path)


def _allowed(gpus: list[str], root: str) -> set[str]:
    policy, *rules = devices.properties(gpus, root)
    assert policy == "DevicePolicy=closed"
    assert all(rule.startswith("DeviceAllow=") and rule.endswith(" rwm") for rule in rules)
    return {rule[len("DeviceAllow=") : -len(" rwm")] for rule in rules}


def test_a_job_opens_its_own_cards_and_all_that_is_no_card(root: str) -> None:
    """By UUID, whatever the order of the cards; a class that is not there yet may come."""
    one, both, none = (_allowed(gpus, root) for gpus in (["GPU-1"], ["GPU-1", "GPU-2"], []))
    assert one - none == {"/dev/char/195:1"}
    assert both - none == {"/dev/char/195:0", "/dev/char/195:1"}
    assert {"block-*", "char-mem", "char-/dev/vc/0", "char-misc", "char-infiniband_verbs", "char-nvidia-uvm"} <= none
    assert {"/dev/char/195:255", "/dev/char/195:254", "char-253", "char-238"} <= none
    assert not {"char-nvidia", "char-nvidiactl", "char-195", "char-*"} & both


@pytest.mark.parametrize("gpus", [["MIG-1"], ["GPU-1", "MIG-1"], ["GPU-3"]])
def test_a_card_that_is_not_known_leaves_all_open(root: str, gpus: list[str]) -> None:
    """A part of a card, or one that hides its UUID: rather another's card than not its own."""
    assert devices.properties(gpus, root) == []


def test_a_host_without_cards_has_no_rules(tmp_path: Path) -> None:
    """There is nothing to keep anybody from."""
    assert devices.properties([], str(tmp_path)) == []
    assert devices.properties(["GPU-1"], str(tmp_path)) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes devices")
def test_a_device_is_known_by_its_file_where_that_is_the_device(root: str) -> None:
    """Which old versions of systemd need; another file of that name is not it."""
    os.mkdir(f"{root}/dev")
    for name, minor in (("nvidia1", 1), ("nvidia0", 7)):
        os.mknod(f"{root}/dev/{name}", 0o600 | 0o020000, os.makedev(195, minor))
    allowed = _allowed(["GPU-1", "GPU-2"], root)
    assert {"/dev/nvidia1", "/dev/char/195:0"} <= allowed
    assert not {"/dev/nvidia0", "/dev/char/195:1"} & allowed
