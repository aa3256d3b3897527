"""What this holds: what a run needs (request), what a host could give (offer), and the scheduler's answer.

Frozen values. Sizes are in MiB (2**20 bytes); `8GB` in a task file is 8 * 1024 MiB.
"""

from __future__ import annotations

from dataclasses import dataclass

from pool.host import Gpu, Host


@dataclass(frozen=True, slots=True)
class Range:
    """`min..max`, both ends included; None is open."""

    min: float | None = None
    max: float | None = None

    def __contains__(self, value: float) -> bool:
        return (self.min is None or value >= self.min) and (self.max is None or value <= self.max)


@dataclass(frozen=True, slots=True)
class GpuRequest:
    """The GPUs of one rank."""

    count: Range = Range(1, 1)  #: what the rank gets; (0, 0) = only hosts without GPUs
    names: tuple[str, ...] = ()  #: as people call them ("A100", "RTX4090"); empty = any
    memory_mib: Range | None = None  #: of one card, against its marketing size
    total_memory_mib: Range | None = None  #: of all the rank's cards together
    compute_capability: tuple[int, int] | None = None  #: at least this
    vendor: str | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """What one rank needs. A field that is None was not written and never makes a host unfit."""

    cpus: Range | None = None
    memory_mib: Range | None = None
    disk_mib: Range | None = None
    gpu: GpuRequest | None = None  #: None: no GPU is visible, hosts without GPUs are preferred
    shm_mib: int | None = None  #: /dev/shm of a container; not a requirement on the host
    pool: str | None = None  #: None = any pool
    host: str | None = None  #: `instance_name`: this host only
    regions: tuple[str, ...] = ()
    instance_types: tuple[str, ...] = ()
    backends: tuple[str, ...] = ()
    spot: bool = False  #: spot_policy: spot, which no pool host satisfies
    max_price: float | None = None
    runtime: str = "process"  #: process | docker: what the host must be able to do


@dataclass(frozen=True, slots=True)
class Miss:
    """One requirement that one host does not meet, with both sides in words: `asks`, `has`."""

    requirement: str  #: e.g. "gpu memory"
    asks: str  #: e.g. ">= 40GB"
    has: str  #: e.g. "24GB"

    def __str__(self) -> str:
        return f"{self.requirement}: asks {self.asks}, has {self.has}"


@dataclass(frozen=True, slots=True)
class Offer:
    """A host that could take one rank, and the share it would give."""

    host: Host
    gpus: tuple[Gpu, ...]
    cpus: float
    memory_mib: int


@dataclass(frozen=True, slots=True)
class Refusal:
    """A host that cannot take a rank: every requirement it misses (`busy` when only for now)."""

    host: Host
    misses: tuple[Miss, ...]
    busy: bool = False  #: it would fit if nothing ran on it


@dataclass(frozen=True, slots=True)
class Placement:
    """All ranks have a host: `offers[rank]`, ordered stably."""

    offers: tuple[Offer, ...]
    refusals: tuple[Refusal, ...] = ()


@dataclass(frozen=True, slots=True)
class Blocked:
    """Not all ranks can have a host now."""

    refusals: tuple[Refusal, ...]
    reason: str  #: one sentence
    suggestion: str | None = None  #: the smallest change that would make it fit
    waits: bool = False  #: True when it would fit once running jobs end
