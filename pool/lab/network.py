"""The network of one system lab: a bridge of its own with addresses of 198.18.0.0/16, which no one else has.

Its hosts reach each other, this machine, and through it the world. `cut` parts a host from this machine as a broken
cable does: nothing is refused, nothing arrives. Every firewall rule made here carries the name of its network.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Network, ip_network
from typing import Final

from pool.errors import PoolError
from pool.lab.engine import Engine

RANGE: Final = IPv4Network("198.18.0.0/16")  # set aside for tests by RFC 2544


@dataclass(frozen=True, slots=True)
class Network:
    """A lab's network."""

    name: str  #: of the network in Docker and of the bridge
    subnet: str

    def address(self, number: int) -> str:
        """The address of host `number`, from 1; the bridge itself has the first of the subnet."""
        return str(ip_network(self.subnet)[number + 1])


def make(engine: Engine, name: str, first: int) -> Network:
    """Make the network, with a subnet that is free; tried from number `first` on."""
    taken = list(_subnets())
    for offset in range(256):
        subnet = list(RANGE.subnets(new_prefix=24))[(first + offset) % 256]
        if any(subnet.overlaps(other) for other in taken):
            continue
        options = {"com.docker.network.bridge.name": name, "com.docker.network.driver.mtu": str(_mtu())}
        words = [word for key, value in options.items() for word in ("--opt", f"{key}={value}")]
        if engine("network", "create", "--subnet", str(subnet), *words, name, check=False).returncode == 0:
            return Network(name, str(subnet))
    raise PoolError(f"no subnet of {RANGE} is free")


def open_up(engine: Engine, network: Network) -> None:
    """Let its hosts reach the world, where the engine does not do that itself."""
    if engine.ours:
        for rule in _open_rules(network):
            _add(network, rule)


def remove(engine: Engine | None, network: Network) -> None:
    """Remove the network and its rules; nothing happens to what is gone already."""
    if engine and engine("network", "inspect", network.name, check=False).returncode == 0:
        engine("network", "rm", network.name)
    for table, chain in (("nat", "POSTROUTING"), ("filter", "FORWARD"), ("filter", "INPUT"), ("filter", "OUTPUT")):
        rules = _iptables("-t", table, "-S", chain).stdout.decode(errors="replace").splitlines()
        for rule in rules:
            words = rule.split()
            if words[:1] == ["-A"] and network.name in words:
                _iptables("-t", table, "-D", *words[1:])
    if os.path.exists(f"/sys/class/net/{network.name}"):  # left by an engine that was killed
        subprocess.run(["ip", "link", "delete", network.name], capture_output=True, timeout=30, check=False)


def cut(network: Network, address: str) -> None:
    """Drop every packet between this machine and the host, both ways."""
    for rule in _cut_rules(address):
        _add(network, rule)


def mend(network: Network, address: str) -> None:
    """Undo `cut`."""
    for rule in _cut_rules(address):
        while _iptables("-D", *rule, *_named(network)).returncode == 0:
            pass


def _open_rules(network: Network) -> list[list[str]]:
    return [
        ["POSTROUTING", "-t", "nat", "-s", network.subnet, "!", "-o", network.name, "-j", "MASQUERADE"],
        ["FORWARD", "-i", network.name, "-j", "ACCEPT"],
        ["FORWARD", "-o", network.name, "-j", "ACCEPT"],
    ]


def _cut_rules(address: str) -> list[list[str]]:
    return [["INPUT", "-s", address, "-j", "DROP"], ["OUTPUT", "-d", address, "-j", "DROP"]]


def _add(network: Network, rule: list[str]) -> None:
    """Put a rule first in its chain, unless it is there."""
    if _iptables("-C", *rule, *_named(network)).returncode == 0:
        return
    done = _iptables("-I", *rule, *_named(network))
    if done.returncode:
        raise PoolError(f"iptables {' '.join(rule)}: {done.stderr.decode(errors='replace').strip()}")


def _named(network: Network) -> list[str]:
    return ["-m", "comment", "--comment", network.name]


def _iptables(*words: str) -> subprocess.CompletedProcess[bytes]:
    argv = ["iptables", "--wait", "30", *words]
    return subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False)


def _subnets() -> Iterator[IPv4Network]:
    """Every IPv4 subnet this machine has a route to, but the default."""
    said = subprocess.run(["ip", "-json", "-4", "route"], capture_output=True, timeout=30, check=False).stdout
    for route in json.loads(said or b"[]"):
        if route["dst"] != "default":
            yield IPv4Network(route["dst"], strict=False)


def _mtu() -> int:
    """Of the interface to the world: larger packets of the hosts would be lost on their way."""
    said = subprocess.run(
        ["ip", "-json", "-4", "route", "show", "default"], capture_output=True, timeout=30, check=False
    )
    try:
        interface = json.loads(said.stdout)[0]["dev"]
        with open(f"/sys/class/net/{interface}/mtu", encoding="utf-8") as file:
            return min(int(file.read()), 1500)
    except (ValueError, LookupError, OSError):
        return 1500
