"""Hosts to schedule on, as a lab would have them, and a hypothesis strategy for pools and requests."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import strategies as st

from pool.host import Gpu, Host, HostFacts, HostView
from pool.offer import GpuRequest, Range, Request
from pool.states import HostStatus

GB = 1024
#: What nvidia-smi reports: name, MiB, compute capability.
H100 = ("NVIDIA H100 80GB HBM3", 81559, (9, 0))
A100 = ("NVIDIA A100-SXM4-80GB", 81920, (8, 0))
RTX4090 = ("NVIDIA GeForce RTX 4090", 24564, (8, 9))
L40S = ("NVIDIA L40S", 46068, (8, 9))


def make_gpus(host: str, *cards: tuple[str, int, tuple[int, int]]) -> tuple[Gpu, ...]:
    """One GPU a card, by index."""
    return tuple(
        Gpu(f"GPU-{host}-{index}", name, memory, compute_capability=capability, index=index)
        for index, (name, memory, capability) in enumerate(cards)
    )


def view(
    name: str,
    card: tuple[str, int, tuple[int, int]] | None = None,
    count: int = 8,
    *,
    cards: tuple[Any, ...] = (),
    free: int | None = None,
    cpus: int = 64,
    free_cpus: float | None = None,
    memory: float = 512,
    free_memory: float | None = None,
    disk: float = 1000,
    ip: str | None = "10.0.0.1",
    docker: str | None = "27.1",
    docker_problem: str | None = None,
    jobs: int = 0,
    **fields: Any,
) -> HostView:
    """A ready host; `free` GPUs are its last ones; sizes in GB; without a card it has no GPUs."""
    gpus = make_gpus(name, *(cards or ((card,) * count if card else ())))
    facts = HostFacts(
        cpus=cpus,
        memory_mib=int(memory * GB),
        disk_free_mib=int(disk * GB),
        disk_total_mib=int(disk * GB),
        gpus=gpus,
        ssh_ip=ip,
        docker=docker,
        docker_problem=docker_problem,
    )
    host = Host(f"id-{name}", name, name, 22, "ubuntu", None, status=HostStatus.READY, facts=facts)
    return HostView(
        replace(host, **fields),
        gpus if free is None else gpus[len(gpus) - free :],
        cpus if free_cpus is None else free_cpus,
        int((memory if free_memory is None else free_memory) * GB),
        jobs,
    )


def gpu(count: float | None = 1, most: float | None = None, **fields: Any) -> Request:
    """A request for exactly `count` GPUs, or for up to `most` (0 = no upper end)."""
    upper = count if most is None else most or None
    return Request(gpu=GpuRequest(Range(count, upper), **fields))


def least(gb: float) -> Range:
    """`<gb>GB..`."""
    return Range(gb * GB, None)


def exactly(gb: float) -> Range:
    """`<gb>GB`."""
    return Range(gb * GB, gb * GB)


_sizes = st.sampled_from([8, 16, 24, 48, 80])
_free_part = st.sampled_from([1.0, 1.0, 0.5, 0.0])
_CARDS = [H100, A100, RTX4090, L40S]


@st.composite
def views(draw: st.DrawFn, least: int = 1) -> list[HostView]:
    """A small pool: mixed cards, some of them taken, several networks and regions, some hosts not ready."""
    found = []
    for number in range(draw(st.integers(least, 5))):
        mixed = st.lists(st.sampled_from(_CARDS), max_size=4)
        alike = st.tuples(st.sampled_from(_CARDS), st.integers(2, 4)).map(lambda card: [card[0]] * card[1])
        cards = tuple(draw(st.one_of(alike, mixed)))
        network = draw(st.sampled_from(["10.0.0.0/16", "10.0.0.0/16", "10.1.0.0/16", None]))
        ip = f"10.{1 if network and network[3] == '1' else 0}.0.{draw(st.integers(1, 9)) * 10 + number}"
        host = view(
            f"h{number}",
            cards=cards,
            cpus=draw(st.sampled_from([4, 16, 64])),
            memory=draw(st.sampled_from([15.5, 62.5, 500])),
            ip=draw(st.sampled_from([ip] * 7 + [None])),
            docker=draw(st.sampled_from(["27.1", None])),
            network=network,
            region=draw(st.sampled_from(["eu", "us"])),
            status=draw(st.sampled_from([HostStatus.READY] * 7 + [HostStatus.DRAINING])),
        )
        taken = draw(st.one_of(st.just(set()), st.sets(st.integers(0, 3))))
        cpus, memory = draw(_free_part), draw(_free_part)
        assert host.host.facts is not None
        found.append(
            replace(
                host,
                free_gpus=tuple(card for card in host.free_gpus if card.index not in taken),
                free_cpus=host.host.facts.cpus * cpus,
                free_memory_mib=int(host.host.facts.memory_mib * memory),
                jobs=len(taken),
            )
        )
    return found


@st.composite
def gpu_requests(draw: st.DrawFn) -> GpuRequest:
    """Any GPU request a task file can make."""
    low = draw(st.sampled_from([1, 1, 2, 3, 4, 0]))
    high = draw(st.one_of(st.none(), st.integers(low, 4)))
    size = draw(st.one_of(st.none(), st.none(), _sizes))
    total = draw(st.one_of(st.none(), st.none(), st.sampled_from([24, 100, 200])))
    return GpuRequest(
        count=Range(low, high),
        names=draw(st.sampled_from([(), (), ("A100",), ("H100", "4090"), ("L40S",)])),
        memory_mib=None if size is None else draw(st.sampled_from([least(size), exactly(size)])),
        total_memory_mib=None if total is None else draw(st.sampled_from([least(total), Range(total * GB, 200 * GB)])),
        compute_capability=draw(st.sampled_from([None, None, (8, 9), (9, 0)])),
        vendor=draw(st.sampled_from([None, "nvidia"])),
    )


@st.composite
def requests(draw: st.DrawFn) -> Request:
    """Any request over what `views` has."""
    return Request(
        cpus=draw(st.sampled_from([None, None, Range(2, 2), Range(8, None), Range(None, 4)])),
        memory_mib=draw(st.sampled_from([None, None, least(8), least(64)])),
        disk_mib=draw(st.sampled_from([None, least(100)])),
        gpu=draw(st.one_of(gpu_requests(), gpu_requests(), st.none())),
        regions=draw(st.sampled_from([(), (), (), ("eu",)])),
        runtime=draw(st.sampled_from(["process", "process", "process", "docker"])),
    )
