"""Which devices the unit of a job may open."""

from __future__ import annotations

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
def proc(tmp_path: Path) -> str:
    """The /proc of a host with two cards, the second with minor 0."""
    for bus, (uuid, minor) in {"1b": ("GPU-1", 1), "2a": ("GPU-2", 0)}.items():
        folder = tmp_path / f"driver/nvidia/gpus/0000:{bus}:00.0"
        folder.mkdir(parents=True)
        (folder / "information").write_text(_INFORMATION.format(uuid=uuid, bus=bus, minor=minor))
    (tmp_path / "devices").write_text(_DEVICES)
    return str(tmp_path)


def _allowed(gpus: list[str], proc: str) -> set[str]:
    policy, *rules = devices.properties(gpus, proc)
    assert policy == "DevicePolicy=closed"
    assert all(rule.startswith("DeviceAllow=") and rule.endswith(" rwm") for rule in rules)
    return {rule[len("DeviceAllow=") : -len(" rwm")] for rule in rules}


def test_a_job_opens_its_own_cards_and_all_that_is_no_card(proc: str) -> None:
    """By UUID, whatever the order of the cards; a class that is not there yet may come."""
    one, both, none = (_allowed(gpus, proc) for gpus in (["GPU-1"], ["GPU-1", "GPU-2"], []))
    assert one - none == {"/dev/char/195:1"}
    assert both - none == {"/dev/char/195:0", "/dev/char/195:1"}
    assert {"block-*", "char-1", "char-4", "char-10", "char-231", "char-254"} <= none
    assert {"/dev/char/195:255", "/dev/char/195:254", "char-253", "char-238"} <= none
    assert not [each for each in both if each.startswith(("char-195", "char-*", "char-259"))]


@pytest.mark.parametrize("gpus", [["MIG-1"], ["GPU-1", "MIG-1"], ["GPU-3"]])
def test_a_card_that_is_not_known_leaves_all_open(proc: str, gpus: list[str]) -> None:
    """A part of a card, or one that hides its UUID: rather another's card than not its own."""
    assert devices.properties(gpus, proc) == []


def test_a_host_without_cards_has_no_rules(tmp_path: Path) -> None:
    """There is nothing to keep anybody from."""
    assert devices.properties([], str(tmp_path)) == []
    assert devices.properties(["GPU-1"], str(tmp_path)) == []
