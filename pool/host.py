"""What this holds: a host, its GPUs, what the runner reported about it, and what of it is free.

Frozen values. Memory and disk are in MiB (2**20 bytes) throughout, as nvidia-smi reports GPU memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from ipaddress import ip_address, ip_network
from typing import Any

from pool.states import HostStatus


@dataclass(frozen=True, slots=True)
class Gpu:
    """One card, as its host reports it."""

    uuid: str  #: the driver's UUID; the only identity used (an index changes over reboots)
    name: str  #: as reported, e.g. "NVIDIA H100 80GB HBM3"
    memory_mib: int  #: as reported, e.g. 81559
    vendor: str = "nvidia"  #: nvidia | amd
    compute_capability: tuple[int, int] | None = None  #: (9, 0) on an H100; None where unknown
    index: int = 0  #: position on the host, for display


@dataclass(frozen=True, slots=True)
class Address:
    """One IP address of a host's interface."""

    ip: str
    prefix: int
    interface: str


@dataclass(frozen=True, slots=True)
class HostFacts:
    """What the runner on the host reported (`runner/probe.py`)."""

    cpus: int
    memory_mib: int
    disk_free_mib: int  #: where jobs live
    disk_total_mib: int
    gpus: tuple[Gpu, ...] = ()
    addresses: tuple[Address, ...] = ()
    ssh_ip: str | None = None  #: the host's own address on the SSH connection
    hostname: str = ""
    os: str = ""
    kernel: str = ""
    arch: str = ""
    docker: str | None = None  #: engine version, None without a usable engine
    docker_problem: str | None = None  #: why an engine that is there cannot be used
    driver: str | None = None  #: NVIDIA driver version
    gpu_problem: str | None = None  #: why GPUs could not be listed, e.g. a hung nvidia-smi


@dataclass(frozen=True, slots=True)
class Jump:
    """A jump host: where and as whom to connect on the way to a host."""

    address: str  #: host name, IPv4 or IPv6
    port: int
    user: str
    key: str | None = None  #: path of the private key; None = the agent's keys

    def __str__(self) -> str:
        """As a person writes it: `user@bastion`, with the port where it is not 22."""
        address = f"[{self.address}]" if ":" in self.address and self.port != 22 else self.address
        return f"{self.user}@{address}" + (f":{self.port}" if self.port != 22 else "")


@dataclass(frozen=True, slots=True)
class Host:
    """One machine of a pool."""

    id: str
    name: str
    address: str  #: where SSH connects: host name, IPv4 or IPv6
    port: int
    user: str
    key: str | None  #: path of the private key on the server's machine; None = the agent's keys
    pool: str = "default"
    region: str = "remote"
    network: str | None = None  #: CIDR that hosts of one gang share
    internal_ip: str | None = None  #: set by hand; else found in `network`
    status: HostStatus = HostStatus.NEW
    reason: str | None = None  #: why it is broken or unreachable
    facts: HostFacts | None = None
    labels: tuple[tuple[str, str], ...] = ()
    price: float = 0.0  #: hourly, for `max_price`
    #: The jump hosts it is reached through, the nearest first; () = none; None, in a wish: as it was before.
    jumps: tuple[Jump, ...] | None = None
    python: str | None = None  #: path of the interpreter to use there; None = the first that is whole
    login: str | None = None  #: whom links log in as, with the server's own key; None = `user`, with `key`

    @property
    def gpus(self) -> tuple[Gpu, ...]:
        """Every GPU the host reported; empty before it was provisioned."""
        return self.facts.gpus if self.facts else ()

    @property
    def instance_type(self) -> str:
        """The type label: set by `--label type=…`, else `<count>x<gpu>` (`8xH100`), else `cpu`."""
        for key, value in self.labels:
            if key == "type":
                return value
        if not self.gpus:
            return "cpu"
        words = self.gpus[0].name.replace("NVIDIA", "").replace("GeForce", "").split()
        model = next((w for w in words if any(c.isdigit() for c in w)), words[0] if words else "gpu")
        return f"{len(self.gpus)}x{model.split('-')[0]}"

    @property
    def ip(self) -> str | None:
        """The address its peers in a gang use: set by hand, else inside `network`, else where SSH arrived.

        Bridges such as docker0 are never picked: only the SSH address or one inside `network` can be.
        """
        if self.internal_ip:
            return self.internal_ip
        if self.facts is None:
            return None
        if self.network is None:
            return self.facts.ssh_ip
        if self.facts.ssh_ip and _is_inside(self.facts.ssh_ip, self.network):
            return self.facts.ssh_ip
        found = [a.ip for a in self.facts.addresses if _is_inside(a.ip, self.network) and not _is_bridge(a.interface)]
        return found[0] if found else None

    @property
    def interface(self) -> str | None:
        """The interface that carries `ip`; None when it cannot be told."""
        for address in self.facts.addresses if self.facts else ():
            if address.ip == self.ip:
                return address.interface
            if self.ip and address.interface == "lo" and ip_address(self.ip).is_loopback:
                return address.interface
        return None


@dataclass(frozen=True, slots=True)
class HostView:
    """A host and what of it is free now: one row of the scheduler's snapshot."""

    host: Host
    free_gpus: tuple[Gpu, ...]
    free_cpus: float
    free_memory_mib: int
    jobs: int = 0  #: live jobs on it


@lru_cache(maxsize=65536)  # parsing took half the time of placing a gang among 500 hosts
def _is_inside(ip: str, network: str) -> bool:
    return ip_address(ip) in ip_network(network, strict=False)


def _is_bridge(interface: str) -> bool:
    return interface.startswith(("docker", "br-", "veth", "virbr", "cni", "flannel", "lxc", "podman"))


def facts_from_json(data: dict[str, Any]) -> HostFacts:
    """The facts a runner sent; raises ValueError, TypeError or KeyError when they are not shaped as promised."""
    gpus = tuple(
        Gpu(
            uuid=str(g["uuid"]),
            name=str(g["name"]),
            memory_mib=int(g["memory_mib"]),
            vendor=str(g.get("vendor", "nvidia")),
            compute_capability=tuple(g["compute_capability"]) if g.get("compute_capability") else None,
            index=int(g.get("index", 0)),
        )
        for g in data.get("gpus", [])
    )
    addresses = tuple(
        Address(ip=str(ip_address(a["ip"])), prefix=int(a["prefix"]), interface=str(a["interface"]))
        for a in data.get("addresses", [])
    )
    return HostFacts(
        cpus=int(data["cpus"]),
        memory_mib=int(data["memory_mib"]),
        disk_free_mib=int(data["disk_free_mib"]),
        disk_total_mib=int(data["disk_total_mib"]),
        gpus=gpus,
        addresses=addresses,
        ssh_ip=str(ip_address(data["ssh_ip"])) if data.get("ssh_ip") else None,
        hostname=str(data.get("hostname") or ""),
        os=str(data.get("os") or ""),
        kernel=str(data.get("kernel") or ""),
        arch=str(data.get("arch") or ""),
        docker=_word(data, "docker"),
        docker_problem=_word(data, "docker_problem"),
        driver=_word(data, "driver"),
        gpu_problem=_word(data, "gpu_problem"),
    )


def _word(data: dict[str, Any], key: str) -> str | None:
    return str(data[key]) if data.get(key) else None
