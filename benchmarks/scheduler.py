"""How long the scheduler takes: one request against many hosts, and a queue of pending requests in one pass.

Run: python benchmarks/scheduler.py [--hosts 500] [--runs 15] [--passes 3]
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from pool.host import Address, Gpu, Host, HostFacts, HostView
from pool.offer import GpuRequest, Placement, Range, Request
from pool.scheduler.gang import compute_offers, place
from pool.scheduler.sweep import sweep
from pool.states import HostStatus

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


def median_ms(work: Callable[[], Any], runs: int) -> tuple[float, Any]:
    """The median time of `work`, and its answer."""
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        answer = work()
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1000, answer


def one_request(hosts: int, runs: int) -> list[tuple[str, float]]:
    """Each way in which one request can go."""
    free, busy = make_views(hosts), make_views(hosts, busy=True)
    near = Range(40 * GIB, None)
    cases: list[tuple[str, Callable[[], object]]] = [
        ("offers, every host fits", lambda: compute_offers(gpu(2), free)),
        ("offers, by name and memory", lambda: compute_offers(gpu(2, ("A100", "H100"), near), free)),
        ("offers, every host busy", lambda: compute_offers(gpu(8), busy)),
        ("place 1 rank", lambda: place(gpu(2, (), near), 1, free)),
        ("place 1 rank without GPUs", lambda: place(Request(cpus=Range(4, 4)), 1, free)),
        ("place 16 ranks", lambda: place(gpu(8, ("H100",)), 16, free)),
        ("blocked, hosts busy", lambda: place(gpu(8), 1, busy)),
        ("blocked, no such card", lambda: place(gpu(2, ("B200",)), 1, free)),
        ("blocked, 64 ranks", lambda: place(gpu(8, ("H100",)), 64, free)),
    ]
    return [(f"{name}, {hosts} hosts × 8 GPUs", median_ms(work, runs)[0]) for name, work in cases]


def queue(length: int, kinds: int) -> list[tuple[Request, int]]:
    """`length` pending runs of `kinds` different requests, one in five a gang of four."""
    names = ((), ("H100",), ("A100",), ("RTX4090",), ("L40S", "A100"))
    asked = [(gpu(1 + number % 8, names[number % 5]), 4 if number % 5 == 0 else 1) for number in range(kinds)]
    asked = [(replace(request, max_price=1.0 + number), nodes) for number, (request, nodes) in enumerate(asked)]
    return [asked[number % kinds] for number in range(length)]


def one_pass(hosts: int, runs: int) -> list[tuple[str, float]]:
    """A pass over 10,000 pending runs: on an empty pool, on a busy one, on ten times the hosts."""
    rows = []
    for kinds in (20, 100):
        pending = queue(10_000, kinds)
        for number, busy in ((hosts, False), (hosts, True), (10 * hosts, False), (10 * hosts, True)):
            views = make_views(number, busy=busy)
            took, answers = median_ms(lambda: sweep(pending, views), runs)  # noqa: B023
            placed = sum(isinstance(found, Placement) for found in answers)
            state = "busy" if busy else "empty"
            rows.append((f"pass, 10,000 runs of {kinds} kinds, {number} {state} hosts, {placed} placed", took))
    return rows


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hosts", type=int, default=500)
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--passes", type=int, default=3)
    options = parser.parse_args()
    rows = one_request(options.hosts, options.runs) + one_pass(options.hosts, options.passes)
    print(f"{'what':<78} {'median ms':>10}")
    for name, took in rows:
        print(f"{name:<78} {took:>10.2f}")
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")


if __name__ == "__main__":
    main()
