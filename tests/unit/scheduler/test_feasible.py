"""Which host fits, and what is said of one that does not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pool.host import HostView
from pool.offer import GpuRequest, Offer, Range, Refusal, Request
from pool.scheduler.feasible import Ask, answer, misses
from pool.states import HostStatus
from tests.unit.scheduler.pools import A100, GB, H100, L40S, RTX4090, exactly, gpu, least, view


def said(request: Request, host: HostView) -> list[str]:
    """The misses, in words."""
    return [str(miss) for miss in misses(request, host)]


def offer(request: Request, host: HostView) -> Offer:
    """What the host would give."""
    found = answer(Ask.of(request), host)
    assert isinstance(found, Offer), found
    return found


LASTING: list[tuple[str, Request, HostView, str]] = [
    ("draining", gpu(), view("a", H100, status=HostStatus.DRAINING), "status: asks ready, has draining"),
    (
        "unreachable with its reason",
        gpu(),
        view("a", H100, status=HostStatus.UNREACHABLE, reason="no route to host"),
        "status: asks ready, has unreachable (no route to host)",
    ),
    ("not provisioned", gpu(), view("a", status=HostStatus.NEW, facts=None), "status: asks ready, has new"),
    ("ready without a report", Request(), view("a", facts=None), "status: asks ready, has nothing reported yet"),
    ("pool", Request(pool="vision"), view("a", pool="default"), "pool: asks vision, has default"),
    ("host", Request(host="b"), view("a"), "host: asks b, has a"),
    ("region", Request(regions=("eu", "us")), view("a"), "region: asks eu, us, has remote"),
    ("type", Request(instance_types=("8xA100",)), view("a", H100), "instance type: asks 8xA100, has 8xH100"),
    ("clouds only", Request(backends=("aws", "gcp")), view("a"), "backend: asks aws, gcp, has ssh"),
    ("spot", Request(spot=True), view("a"), "spot policy: asks spot, has on-demand"),
    ("price", Request(max_price=0.5), view("a", price=1.25), "price: asks ≤ 0.5, has 1.25"),
    ("docker", Request(runtime="docker"), view("a", docker=None), "runtime: asks docker, has no Docker engine"),
    (
        "docker that cannot be used",
        Request(runtime="docker"),
        view("a", docker=None, docker_problem="the runner there is not run by root"),
        "runtime: asks docker, has no Docker engine (the runner there is not run by root)",
    ),
    ("cpus", Request(cpus=Range(16, 16)), view("a", cpus=8), "cpus: asks 16, has 8"),
    ("cpu range", Request(cpus=Range(16, None)), view("a", cpus=8), "cpus: asks ≥ 16, has 8"),
    ("cpu both ends", Request(cpus=Range(16, 32)), view("a", cpus=8), "cpus: asks 16..32, has 8"),
    ("memory", Request(memory_mib=least(128)), view("a", memory=62.5), "memory: asks ≥ 128GB, has 62.5GB"),
    ("disk", Request(disk_mib=least(500)), view("a", disk=120), "disk free: asks ≥ 500GB, has 120GB"),
    ("gpu: 0", gpu(0), view("a", H100), "gpus: asks 0, has 8"),
    ("no GPU", gpu(2), view("a"), "gpus: asks 2, has none"),
    ("vendor", gpu(vendor="amd"), view("a", H100), "gpu vendor: asks amd, has nvidia"),
    ("name", gpu(names=("A100", "A10")), view("a", L40S), "gpu name: asks A100, A10, has NVIDIA L40S"),
    ("name is exact", gpu(names=("L40",)), view("a", L40S), "gpu name: asks L40, has NVIDIA L40S"),
    ("gpu memory", gpu(memory_mib=least(40)), view("a", RTX4090), "gpu memory: asks ≥ 40GB, has 24GB"),
    ("gpu memory above", gpu(memory_mib=exactly(40)), view("a", H100), "gpu memory: asks 40GB, has 80GB"),
    ("capability", gpu(compute_capability=(9, 0)), view("a", L40S), "compute capability: asks ≥ 9.0, has 8.9"),
    ("count", gpu(16), view("a", H100), "gpus: asks 16, has 8"),
    (
        "count of those that fit",
        gpu(2, names=("H100",)),
        view("a", cards=(H100, RTX4090, RTX4090)),
        "gpus: asks 2, has 1 of 3 that fit",
    ),
    (
        "total memory too small",
        gpu(1, 0, total_memory_mib=least(320)),
        view("a", RTX4090, 4),
        "gpu total memory: asks ≥ 320GB, has 96GB",
    ),
    (
        "total memory between two counts",
        gpu(1, 0, total_memory_mib=Range(100 * GB, 150 * GB)),
        view("a", H100, 4),
        "gpu total memory: asks 100GB..150GB, has 80GB or 160GB",
    ),
]


@pytest.mark.parametrize(("request_", "host", "words"), [c[1:] for c in LASTING], ids=[c[0] for c in LASTING])
def test_a_miss_names_both_sides(request_: Request, host: HostView, words: str) -> None:
    """Each requirement a host cannot meet is said with what is asked and what is there, and is not busy."""
    found = answer(Ask.of(request_), host)
    assert isinstance(found, Refusal)
    assert [str(miss) for miss in found.misses] == [words]
    assert not found.busy


BUSY: list[tuple[str, Request, HostView, str]] = [
    ("gpus", gpu(2), view("a", H100, free=1), "gpus free: asks 2, has 1 of 8 free"),
    ("range of gpus", gpu(1, 0), view("a", H100, free=0), "gpus free: asks 1, has 0 of 8 free"),
    (
        "gpus of a name",
        gpu(1, names=("H100",)),
        view("a", cards=(H100, RTX4090), free=1),
        "gpus free: asks 1, has 0 of 1 free",
    ),
    ("cpus", Request(cpus=Range(16, 16)), view("a", free_cpus=4), "cpus free: asks 16, has 4 of 64 free"),
    (
        "memory",
        Request(memory_mib=least(64)),
        view("a", memory=128, free_memory=10),
        "memory free: asks ≥ 64GB, has 10GB of 128GB free",
    ),
    (
        "total memory",
        gpu(1, 0, total_memory_mib=least(160)),
        view("a", H100, free=1),
        "gpus free: asks 2, has 1 of 8 free",
    ),
]


@pytest.mark.parametrize(("request_", "host", "words"), [c[1:] for c in BUSY], ids=[c[0] for c in BUSY])
def test_what_running_jobs_hold_is_busy(request_: Request, host: HostView, words: str) -> None:
    """A host that would fit with nothing on it is busy, and says what is free of how much."""
    found = answer(Ask.of(request_), host)
    assert isinstance(found, Refusal)
    assert [str(miss) for miss in found.misses] == [words]
    assert found.busy


def test_every_miss_is_told() -> None:
    """One refusal lists all that is missing, and one lasting miss makes it more than busy."""
    host = view("a", RTX4090, 2, free=1, cpus=8, free_cpus=1, pool="old", docker=None)
    request = replace(gpu(4, names=("H100",), memory_mib=least(40)), cpus=Range(4, 4), pool="new", runtime="docker")
    assert said(request, host) == [
        "pool: asks new, has old",
        "runtime: asks docker, has no Docker engine",
        "gpu name: asks H100, has NVIDIA GeForce RTX 4090",
        "gpu memory: asks ≥ 40GB, has 24GB",
        "gpus: asks 4, has 2",
        "cpus free: asks 4, has 1 of 8 free",
    ]
    found = answer(Ask.of(request), host)
    assert isinstance(found, Refusal)
    assert not found.busy


def test_no_card_has_everything_asked() -> None:
    """Where each requirement is met by a different card, the cards are described."""
    host = view("a", cards=(("NVIDIA A100-PCIE-40GB", 40960, (8, 0)), H100))
    assert said(gpu(names=("A100",), compute_capability=(8, 9)), host) == [
        "compute capability: asks ≥ 8.9, has 8.0",
    ]
    two = view("a", cards=(("NVIDIA A100-PCIE-40GB", 40960, (8, 0)), ("NVIDIA A30", 24576, (8, 0))))
    assert said(gpu(names=("A100", "H100"), memory_mib=Range(60 * GB, 70 * GB)), two) == [
        "gpu memory: asks 60GB..70GB, has 40GB"
    ]
    third = view("a", cards=(A100, ("NVIDIA H100 PCIe 64GB", 65247, (9, 0))))
    assert said(gpu(memory_mib=least(70), compute_capability=(9, 0)), third) == [
        "gpu: asks one card with ≥ 70GB, compute capability ≥ 9.0, has NVIDIA A100-SXM4-80GB "
        "(80GB, compute capability 8.0), NVIDIA H100 PCIe 64GB (64GB, compute capability 9.0)"
    ]


def test_why_gpus_could_not_be_listed_is_told() -> None:
    """A host whose nvidia-smi hung says so instead of just having none."""
    host = view("a")
    assert host.host.facts is not None
    facts = replace(host.host.facts, gpu_problem="nvidia-smi did not answer in 20 s")
    hung = replace(host, host=replace(host.host, facts=facts))
    assert said(gpu(1), hung) == ["gpus: asks 1, has none (nvidia-smi did not answer in 20 s)"]


def test_what_was_not_written_is_no_requirement() -> None:
    """A bare request fits the smallest host, and gets the preference only as far as it is free."""
    tiny = view("a", cpus=1, memory=1, disk=0, docker=None, ip=None, price=9.0)
    assert said(Request(), tiny) == []
    assert (offer(Request(), tiny).cpus, offer(Request(), tiny).memory_mib) == (1, GB)
    full = view("b", free_cpus=-3, free_memory=0)
    assert (offer(Request(), full).cpus, offer(Request(), full).memory_mib) == (0, 0)


SHARES: list[tuple[str, Range | None, float]] = [
    ("4", Range(4, 4), 4),
    ("4..", Range(4, None), 4),
    ("4..8", Range(4, 8), 4),
    ("..8", Range(None, 8), 2),
    ("..1", Range(None, 1), 1),
    ("not written", None, 2),
]


@pytest.mark.parametrize(("cpus", "given"), [c[1:] for c in SHARES], ids=[c[0] for c in SHARES])
def test_the_share_of_cpus(cpus: Range | None, given: float) -> None:
    """A rank gets the least it asked, else two cores; the upper end of a range never makes a large host unfit."""
    assert offer(Request(cpus=cpus), view("a", cpus=128)).cpus == given


def test_the_share_of_memory() -> None:
    """A rank gets the least it asked, else 8 GB."""
    assert offer(Request(memory_mib=least(16)), view("a")).memory_mib == 16 * GB
    assert offer(Request(), view("a")).memory_mib == 8 * GB


def test_memory_that_firmware_keeps_is_forgiven() -> None:
    """A "64 GB" machine shows 62.5 GiB: it satisfies 64GB, and its share is what there is; 60 GiB does not."""
    found = offer(Request(memory_mib=least(64)), view("a", memory=62.5))
    assert found.memory_mib == int(62.5 * GB)
    assert said(Request(memory_mib=least(64)), view("a", memory=60)) == ["memory: asks ≥ 64GB, has 60GB"]


def test_sizes_are_those_on_the_box() -> None:
    """A 4090 (24564 MiB) has 24GB, an H100 (81559 MiB) has 80GB."""
    assert said(gpu(memory_mib=least(24)), view("a", RTX4090)) == []
    assert said(gpu(memory_mib=exactly(80)), view("a", H100)) == []


@pytest.mark.parametrize("backends", [("ssh",), ("remote",), ("aws", "SSH"), ()])
def test_backends_that_mean_the_pool(backends: tuple[str, ...]) -> None:
    """`ssh` and `remote` are this pool, also among clouds."""
    assert said(Request(backends=backends), view("a")) == []


def test_an_old_driver_that_reports_no_capability() -> None:
    """A known card has the compute capability of its model; an unknown one has none that would do."""
    assert said(gpu(compute_capability=(8, 9)), view("a", cards=((*L40S[:2], None),))) == []
    host = view("a", cards=(("NVIDIA Prototype", 24576, None),))
    assert said(gpu(compute_capability=(8, 0)), host) == ["compute capability: asks ≥ 8.0, has unknown"]


def test_gpus_are_a_share_of_the_host() -> None:
    """Two of eight are given, the first free ones by index; without `gpu` none is."""
    host = view("a", A100, free=5)
    shuffled = replace(host, free_gpus=host.free_gpus[::-1])
    assert [card.index for card in offer(gpu(2), shuffled).gpus] == [3, 4]
    assert offer(Request(), host).gpus == ()
    assert offer(gpu(0), view("b")).gpus == ()


COUNTS: list[tuple[str, dict[str, Any], list[int]]] = [
    ("1..", {"count": Range(1, None)}, [0]),
    ("2..4", {"count": Range(2, 4)}, [0, 1]),
    ("..4", {"count": Range(None, 4)}, [0]),
    ("0..4", {"count": Range(0, 4)}, []),
    ("total memory", {"count": Range(1, None), "total_memory_mib": least(160)}, [0, 1]),
    ("total memory of any number", {"count": Range(0, None), "total_memory_mib": least(60)}, [0]),
    ("total memory and more", {"count": Range(3, 3), "total_memory_mib": least(160)}, [0, 1, 2]),
]


@pytest.mark.parametrize(("fields", "indexes"), [c[1:] for c in COUNTS], ids=[c[0] for c in COUNTS])
def test_how_many_gpus(fields: dict[str, Any], indexes: list[int]) -> None:
    """The smallest number of the range that also meets the total memory."""
    assert [g.index for g in offer(Request(gpu=GpuRequest(**fields)), view("a", H100)).gpus] == indexes


def test_cards_of_one_rank_are_of_one_model_where_they_can_be() -> None:
    """The smallest model that suffices, and a mix only where no model has enough cards."""
    host = view("a", cards=(H100, RTX4090, H100, RTX4090))
    assert [g.index for g in offer(gpu(2), host).gpus] == [1, 3]
    assert [g.index for g in offer(gpu(2, memory_mib=least(40)), host).gpus] == [0, 2]
    assert [g.index for g in offer(gpu(3), host).gpus] == [0, 1, 3]
    assert [g.index for g in offer(gpu(1, 0, total_memory_mib=Range(100 * GB, 110 * GB)), host).gpus] == [0, 1]
