"""The lab itself: its hosts keep what they have, are as real machines are, and leave nothing."""

from __future__ import annotations

import json
import os

import pytest

from pool.errors import InputError, NotFoundError
from pool.lab import gpus
from pool.lab.system import SystemLab
from tests.conftest import Cli
from tests.system.conftest import left_of
from tests.system.site import Site


def test_up_again_keeps_the_hosts(site: Site) -> None:
    """The same hosts, with their keys, addresses and cards, running on since before."""
    again = site.lab.up(2)
    assert [(host.fingerprint, host.address) for host in again] == [
        (host.fingerprint, host.address) for host in site.hosts.values()
    ]
    assert all(host.pid for host in again)


def test_a_host_is_a_machine(site: Site) -> None:
    """systemd has booted all of it, and the login user may sudo."""
    for name in site.hosts:
        assert site.on(name, "systemctl is-system-running") == "running"
        assert site.on(name, "runuser -u debian -- sudo -n id -u") == "0"


def test_cards_can_be_changed(site: Site) -> None:
    """Other cards and sick ones are seen at once; a host without any has no nvidia-smi."""
    ask = "nvidia-smi --query-gpu=name --format=csv,noheader"
    try:
        site.lab.set_gpus("node1", 1, "A100")
        assert site.on("node1", ask) == gpus.MODELS["A100"][0]
        site.lab.set_gpus("node1", 1, "A100", fault="driver")
        assert site.lab.execute("node1", "sh", "-c", ask)[0] == 9
        site.lab.set_gpus("node1", 0)
        assert site.lab.execute("node1", "sh", "-c", "command -v nvidia-smi")[0] != 0
    finally:
        site.lab.set_gpus("node1", 2)
    assert site.on("node1", ask) == "\n".join([gpus.MODELS["H100"][0]] * 2)


def test_two_labs_do_not_meet(site: Site, cli: Cli) -> None:
    """As a person types it: another lab has other addresses, and apt; its end leaves the first and nothing else."""
    root = os.path.join(cli.env["POOL_STATE_DIR"], "system-lab")
    up = cli("lab", "up", "--system", "--hosts", "1", "--gpus", "0", timeout=300)
    assert up.rc == 0, up
    try:
        assert "pool add-ssh debian@198.18." in up.stdout
        (host,) = json.loads(cli("lab", "status", "--json").stdout)
        assert (host["name"], host["gpus"]) == ("node1", [])
        assert host["address"] not in {each.address for each in site.hosts.values()}
        assert "up (systemd" in cli("lab", "status").stdout
        update = "apt-get update --quiet 2>&1 && apt-cache policy docker.io"
        rc, said = SystemLab(root).execute("node1", "sh", "-c", update, timeout=300)
        assert (rc, "W:" in said, "Candidate: (none)" in said) == (0, False, False), said
        assert "Candidate:" in said
    finally:
        down = cli("lab", "down", timeout=120)
    assert (down.rc, down.stdout) == (0, "the lab is down: 1 hosts\n")
    assert not os.path.exists(root)
    assert left_of(SystemLab(root).network_name) == []
    assert all(host.pid for host in site.lab.hosts())
    assert cli("lab", "down").stdout == "no lab is up\n"


def test_what_cannot_be_is_refused(site: Site, tmp_path: object) -> None:
    """Numbers out of range, a folder that is something else, a host that is not there."""
    for number in (0, 65):
        with pytest.raises(InputError, match="1 to 64 hosts"):
            site.lab.up(number)
    with open(os.path.join(str(tmp_path), "mine"), "w", encoding="utf-8"):
        pass
    with pytest.raises(InputError, match="not a lab, and not empty"):
        SystemLab(str(tmp_path)).up(1)
    with pytest.raises(NotFoundError, match="no host node9"):
        site.lab.reboot("node9")
