"""A host's address for its peers, its type, and facts that are not what they should be."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pool.host import Host, facts_from_json

FACTS: dict[str, Any] = {
    "cpus": 8,
    "memory_mib": 1000,
    "disk_free_mib": 10,
    "disk_total_mib": 20,
    "ssh_ip": "192.0.2.5",
    "addresses": [
        {"ip": "127.0.0.1", "prefix": 8, "interface": "lo"},
        {"ip": "10.0.0.1", "prefix": 16, "interface": "docker0"},
        {"ip": "192.0.2.5", "prefix": 24, "interface": "eth0"},
        {"ip": "10.0.0.7", "prefix": 24, "interface": "ib0"},
        {"ip": "fd00::7", "prefix": 64, "interface": "ib0"},
    ],
    "gpus": [],
}


def host(**changes: Any) -> Host:
    """A host that has told its facts."""
    return replace(Host("1", "gpu1", "gpu1", 22, "me", None, facts=facts_from_json(FACTS)), **changes)


@pytest.mark.parametrize(
    ("changes", "ip", "interface"),
    [
        ({}, "192.0.2.5", "eth0"),
        ({"network": "10.0.0.0/24"}, "10.0.0.7", "ib0"),
        ({"network": "10.0.0.0/8"}, "10.0.0.7", "ib0"),
        ({"network": "fd00::/64"}, "fd00::7", "ib0"),
        ({"network": "192.0.2.0/24"}, "192.0.2.5", "eth0"),
        ({"network": "172.16.0.0/12"}, None, None),
        ({"internal_ip": "203.0.113.9"}, "203.0.113.9", None),
        ({"internal_ip": "10.0.0.7", "network": "192.0.2.0/24"}, "10.0.0.7", "ib0"),
        ({"facts": None}, None, None),
        ({"facts": None, "internal_ip": "10.0.0.7"}, "10.0.0.7", None),
    ],
)
def test_the_address_for_peers(changes: dict[str, Any], ip: str | None, interface: str | None) -> None:
    """By hand, else inside the network, else where SSH arrived; never a bridge."""
    found = host(**changes)
    assert (found.ip, found.interface) == (ip, interface)


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        ([], "cpu"),
        (["NVIDIA H100 80GB HBM3"] * 8, "8xH100"),
        (["NVIDIA A100-SXM4-40GB"], "1xA100"),
        (["NVIDIA GeForce RTX 4090"], "1x4090"),
        (["Tesla T4"], "1xT4"),
    ],
)
def test_instance_type(names: list[str], kind: str) -> None:
    """`<count>x<gpu>`, unless a label says otherwise."""
    gpus = [{"uuid": str(n), "name": name, "memory_mib": 1} for n, name in enumerate(names)]
    found = host(facts=facts_from_json(FACTS | {"gpus": gpus}))
    assert found.instance_type == kind
    assert replace(found, labels=(("type", "big"),)).instance_type == "big"


@pytest.mark.parametrize(
    "wrong",
    [
        {"cpus": "many"},
        {"memory_mib": None},
        {"ssh_ip": "$(id)"},
        {"addresses": [{"ip": "x", "prefix": 1, "interface": "lo"}]},
        {"addresses": [{}]},
        {"gpus": [{"uuid": "x"}]},
        {"gpus": 5},
    ],
)
def test_facts_that_make_no_sense(wrong: dict[str, Any]) -> None:
    """A host is not trusted to say what it should."""
    with pytest.raises((ValueError, TypeError, KeyError)):
        facts_from_json(FACTS | wrong)
