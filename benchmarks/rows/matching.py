"""What the scheduler takes: one request against 500 hosts with 8 GPUs each, and 10,000 pending runs in one pass.

Nothing but this process is at work, so its CPU time is measured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from benchmarks.row import Measure, Row, Target, timed_cpu
from benchmarks.world import Worlds
from pool.host import Address, Gpu, Host, HostFacts, HostView
from pool.offer import GpuRequest, Range, Request
from pool.scheduler.gang import compute_offers, place
from pool.scheduler.sweep import sweep
from pool.states import HostStatus

HOSTS = 500
GIB = 1024
CARDS = (
    ("NVIDIA H100 80GB HBM3", 81559, (9, 0)),
    ("NVIDIA A100-SXM4-80GB", 81920, (8, 0)),
    ("NVIDIA GeForce RTX 4090", 24564, (8, 9)),
    ("NVIDIA L40S", 46068, (8, 9)),
)


def make_views(hosts: int, gpus: int = 8, *, busy: bool = False) -> list[HostView]:
    """A pool of `hosts` machines of four kinds, 125 to a network; `busy` leaves at most three GPUs free."""
    views = []
    for number in range(hosts):
        name, memory, capability = CARDS[number % len(CARDS)]
        cards = tuple(
            Gpu(f"GPU-{number:05}-{index}", name, memory, compute_capability=capability, index=index)
            for index in range(gpus)
        )
        ip = f"10.{number // 125}.0.{number % 125 + 1}"
        facts = HostFacts(
            cpus=128,
            memory_mib=1000 * GIB,
            disk_free_mib=4000 * GIB,
            disk_total_mib=7000 * GIB,
            gpus=cards,
            addresses=(Address(ip, 16, "eth0"),),
            ssh_ip=ip,
            docker="27.1",
        )
        host = Host(
            f"h{number}",
            f"gpu{number:05}",
            ip,
            22,
            "ubuntu",
            None,
            network=f"10.{number // 125}.0.0/16",
            status=HostStatus.READY,
            facts=facts,
        )
        free = cards[: number % 4] if busy else cards
        views.append(HostView(host, free, 128 - 8.0 * (gpus - len(free)), 900 * GIB, gpus - len(free)))
    return views


def gpu(count: int, names: tuple[str, ...] = (), memory: Range | None = None) -> Request:
    """A request for GPUs with a share of the host."""
    return Request(
        cpus=Range(8, 8),
        memory_mib=Range(32 * GIB, None),
        disk_mib=Range(100 * GIB, None),
        gpu=GpuRequest(Range(count, count), names, memory),
    )


def queue(length: int, kinds: int) -> list[tuple[Request, int]]:
    """`length` pending runs of `kinds` different requests, one in five a gang of four."""
    names = ((), ("H100",), ("A100",), ("RTX4090",), ("L40S", "A100"))
    asked = [(gpu(1 + number % 8, names[number % 5]), 4 if number % 5 == 0 else 1) for number in range(kinds)]
    asked = [(replace(request, max_price=1.0 + number), nodes) for number, (request, nodes) in enumerate(asked)]
    return [asked[number % kinds] for number in range(length)]


def rows(_: Worlds) -> Iterator[Row]:
    yield from one_request()
    pending = queue(10_000, 100)
    peers: dict[str, Measure] = {}
    for hosts in (HOSTS, 10 * HOSTS):
        views = make_views(hosts, busy=True)
        work = timed_cpu(lambda views=views: sweep(pending, views))  # type: ignore[misc]
        # Ten times the hosts may take ten times as long.
        target = Target(10) if peers else Target(limit=1000)
        what = f"CPU of a scheduling pass, 10,000 pending runs, {hosts} busy hosts × 8 GPUs"
        yield Row(what, work, peers, target, runs=3, warm_up=0)
        peers = {f"{hosts} hosts": work}


def one_request() -> Iterator[Row]:
    """Each way in which one request can go."""
    free, busy = make_views(HOSTS), make_views(HOSTS, busy=True)
    cases: dict[str, Callable[[], object]] = {
        "offers": lambda: compute_offers(gpu(2, ("A100", "H100"), Range(40 * GIB, None)), free),
        "place 16 ranks": lambda: place(gpu(8, ("H100",)), 16, free),
        "blocked, all busy": lambda: place(gpu(8), 1, busy),
    }
    for name, work in cases.items():
        yield Row(
            f"CPU of matching one request, {HOSTS} hosts × 8 GPUs: {name}", timed_cpu(work), target=Target(limit=5)
        )
