"""The smallest change that would make a blocked run fit."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pool.host import HostView
from pool.offer import Blocked, Range, Request
from pool.scheduler.gang import place
from pool.states import HostStatus
from tests.unit.scheduler.pools import A100, GB, H100, L40S, RTX4090, exactly, gpu, least, view

SINGLE: list[tuple[str, Request, HostView, str | None]] = [
    ("gpu memory", gpu(memory_mib=least(40)), view("a", RTX4090), "lower gpu memory to 24GB"),
    ("exact gpu memory", gpu(memory_mib=exactly(40)), view("a", H100), "raise gpu memory to 80GB"),
    ("gpu count", gpu(16), view("a", H100), "ask 8 GPUs instead of 16"),
    ("one gpu", gpu(2), view("a", H100, 1), "ask 1 GPU instead of 2"),
    ("name", gpu(names=("H100",)), view("a", RTX4090), "also take RTX4090"),
    ("capability", gpu(compute_capability=(9, 0)), view("a", L40S), "lower compute capability to 8.9"),
    (
        "total memory",
        gpu(1, 0, total_memory_mib=least(320)),
        view("a", RTX4090, 4),
        "lower gpu total memory to 96GB",
    ),
    ("no gpu: 0", gpu(0), view("a", H100), "leave gpu out instead of gpu: 0"),
    ("cpus", Request(cpus=Range(128, 128)), view("a"), "lower cpu to 64"),
    ("memory", Request(memory_mib=least(600)), view("a", memory=503.7), "lower memory to 503GB"),
    ("disk", Request(disk_mib=least(2000)), view("a"), "lower disk to 1000GB"),
    ("pool", Request(pool="vision"), view("a"), "use pool default instead of vision"),
    ("host", Request(host="b"), view("a"), "leave instance_name out"),
    ("region", Request(regions=("eu",)), view("a"), "also take region remote"),
    ("type", Request(instance_types=("8xA100",)), view("a", H100), "also take instance type 8xH100"),
    ("clouds", Request(backends=("aws",)), view("a"), "leave backends out"),
    ("spot", Request(spot=True), view("a"), "leave spot_policy: spot out"),
    ("price", Request(max_price=0.5), view("a", price=1.25), "raise max_price to 1.25"),
    (
        "two changes",
        gpu(4, memory_mib=least(40)),
        view("a", RTX4090, 2),
        "lower gpu memory to 24GB and ask 2 GPUs instead of 4",
    ),
    (
        "a change that uncovers another",
        gpu(4, memory_mib=least(40)),
        view("a", RTX4090, 4, free=1),
        "lower gpu memory to 24GB and ask 1 GPU instead of 4",
    ),
    (
        "draining",
        gpu(),
        view("a", H100, status=HostStatus.DRAINING),
        "bring a back (it is draining)",
    ),
    (
        "unreachable",
        gpu(),
        view("a", H100, status=HostStatus.UNREACHABLE, reason="timed out"),
        "bring a back (it is unreachable: timed out)",
    ),
    ("no GPU anywhere", gpu(), view("a"), None),
    ("no Docker", Request(runtime="docker"), view("a", docker=None), None),
    ("vendor", gpu(vendor="amd"), view("a", H100), None),
    ("broken", gpu(), view("a", H100, status=HostStatus.BROKEN), None),
]


@pytest.mark.parametrize(("request_", "host", "words"), [c[1:] for c in SINGLE], ids=[c[0] for c in SINGLE])
def test_the_change_one_host_needs(request_: Request, host: HostView, words: str | None) -> None:
    """Each requirement moves just as far as the host needs; where no change helps nothing is suggested."""
    answer = place(request_, 1, [host])
    assert isinstance(answer, Blocked)
    assert answer.suggestion == words


WAITS: list[tuple[str, Request, HostView, str]] = [
    (
        "gpus",
        gpu(2),
        view("gpu1", H100, free=1, jobs=3),
        "wait: gpu1 has 7 GPUs busy with 3 jobs, or ask 1 GPU instead of 2 to start now",
    ),
    ("no gpu free", gpu(2), view("gpu1", H100, free=0, jobs=1), "wait: gpu1 has 8 GPUs busy with 1 job"),
    (
        "cpus",
        Request(cpus=Range(8, 8)),
        view("cpu1", free_cpus=4.5, jobs=2),
        "wait: cpu1 is busy with 2 jobs, or lower cpu to 4 to start now",
    ),
    (
        "memory",
        Request(memory_mib=least(64)),
        view("cpu1", free_memory=20.5),
        "wait: cpu1 is busy, or lower memory to 20GB to start now",
    ),
    (
        "total memory",
        gpu(1, 0, total_memory_mib=least(160)),
        view("gpu1", H100, free=1, jobs=1),
        "wait: gpu1 has 7 GPUs busy with 1 job, or lower gpu total memory to 80GB to start now",
    ),
]


@pytest.mark.parametrize(("request_", "host", "words"), [c[1:] for c in WAITS], ids=[c[0] for c in WAITS])
def test_who_is_waited_for(request_: Request, host: HostView, words: str) -> None:
    """A run that only waits says for whom, and what it could ask to start now."""
    answer = place(request_, 1, [host])
    assert isinstance(answer, Blocked)
    assert (answer.waits, answer.suggestion) == (True, words)


def test_the_least_busy_hosts_are_named_first() -> None:
    """Three of them; the rest is counted."""
    hosts = [view(f"gpu{number}", H100, free=8 - number, jobs=number) for number in range(1, 6)]
    answer = place(gpu(8), 1, hosts)
    assert isinstance(answer, Blocked)
    assert answer.reason == "No host is free now: 5 hosts that could take it are busy."
    assert answer.suggestion == (
        "wait: gpu1 has 1 GPU busy with 1 job, gpu2 has 2 GPUs busy with 2 jobs, gpu3 has 3 GPUs busy with 3 jobs, "
        "2 more hosts are busy, or ask 7 GPUs instead of 8 to start now"
    )


def test_the_smallest_change_of_all_hosts_wins() -> None:
    """One change before two, a small step before a large one."""
    hosts = [view("a", RTX4090, 2), view("b", L40S, 8), view("c", RTX4090, 8)]
    answer = place(gpu(4, memory_mib=least(80)), 1, hosts)
    assert isinstance(answer, Blocked)
    assert answer.suggestion == "lower gpu memory to 48GB"


def test_a_gang_needs_the_change_for_every_rank() -> None:
    """48GB would do for one host only, 24GB for both."""
    hosts = [view("a", L40S, 1, ip="10.0.0.1"), view("b", RTX4090, 1, ip="10.0.0.2")]
    answer = place(gpu(1, memory_mib=least(80)), 2, hosts)
    assert isinstance(answer, Blocked)
    assert answer.suggestion == "lower gpu memory to 24GB"


def test_a_gang_may_also_shrink() -> None:
    """`nodes` competes with the other changes: two thirds of the ranks are a smaller step than an eighth of a card."""
    hosts = [
        view("a", H100, 1, ip="10.0.0.1"),
        view("b", H100, 1, ip="10.0.0.2"),
        view("c", ("NVIDIA GeForce GTX 1080", 8192, (6, 1)), 1, ip="10.0.0.3"),
    ]
    answer = place(gpu(1, memory_mib=least(80)), 3, hosts)
    assert isinstance(answer, Blocked)
    assert answer.suggestion == "nodes: 2 instead of 3"
    near = [*hosts[:2], view("c", ("NVIDIA H100 64GB", 65247, (9, 0)), 1, ip="10.0.0.3")]
    answer = place(gpu(1, memory_mib=least(80)), 3, near)
    assert isinstance(answer, Blocked)
    assert answer.suggestion == "lower gpu memory to 64GB"


def test_one_host_back_is_not_enough_for_two() -> None:
    """Bringing back a host is suggested to a gang only where it completes it."""
    away = view("b", H100, status=HostStatus.DRAINING, ip="10.0.0.2")
    answer = place(gpu(8), 2, [view("a", H100), away])
    assert isinstance(answer, Blocked)
    assert answer.suggestion == "bring b back (it is draining)"
    answer = place(gpu(8), 3, [view("a", H100), away])
    assert isinstance(answer, Blocked)
    assert answer.suggestion == "nodes: 1 instead of 3"


REASONS: list[tuple[str, Request, list[HostView], str]] = [
    (
        "one host",
        gpu(memory_mib=least(40)),
        [view("gpu1", RTX4090)],
        "No host fits: gpu1 misses gpu memory: asks ≥ 40GB, has 24GB.",
    ),
    (
        "several",
        replace(gpu(memory_mib=Range(200 * GB)), pool="x"),
        [view("a", A100, pool="x"), view("b", A100), view("c", pool="x")],
        "No host fits: 2 hosts miss gpu memory, 1 host misses gpus, 1 host misses pool.",
    ),
    ("busy", gpu(8), [view("a", A100, free=1)], "No host is free now: 1 host that could take it is busy."),
]


@pytest.mark.parametrize(("request_", "hosts", "words"), [c[1:] for c in REASONS], ids=[c[0] for c in REASONS])
def test_the_reason_is_one_sentence(request_: Request, hosts: list[HostView], words: str) -> None:
    """One host is told in full, several are counted by what they miss."""
    answer = place(request_, 1, hosts)
    assert isinstance(answer, Blocked)
    assert answer.reason == words
