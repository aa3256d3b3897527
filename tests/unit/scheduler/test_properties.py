"""What holds for every pool and every request."""

from __future__ import annotations

import random
from dataclasses import replace
from ipaddress import ip_network

from hypothesis import given, settings
from hypothesis import strategies as st

from pool.host import Host, HostView
from pool.offer import Blocked, Offer, Placement, Range, Request
from pool.scheduler.feasible import Ask, answer, idle, misses, take
from pool.scheduler.gang import compute_offers, place
from pool.scheduler.moves import moves
from pool.scheduler.sweep import sweep
from pool.states import HostStatus
from tests.unit.scheduler.pools import A100, H100, RTX4090, make_gpus, requests, views

nodes = st.integers(1, 6)

#: A loaded machine is slow, not wrong.
steady = settings(deadline=None)


@steady
@given(requests(), views(), st.sampled_from([H100, A100, RTX4090]))
def test_a_host_that_fits_fits_with_more(
    request: Request, pool: list[HostView], card: tuple[str, int, tuple[int, int]]
) -> None:
    """More GPUs, CPUs, memory or disk never make a host unfit; only `gpu: 0` asks for a host without GPUs."""
    host = pool[0]
    if misses(request, host) or (request.gpu and request.gpu.count == Range(0, 0)):
        return
    facts = host.host.facts
    assert facts is not None
    extra = tuple(replace(gpu, index=gpu.index + 90) for gpu in make_gpus("extra", card))
    more = replace(
        facts,
        gpus=facts.gpus + extra,
        cpus=facts.cpus + 1,
        memory_mib=facts.memory_mib + 1,
        disk_free_mib=facts.disk_free_mib + 1,
    )
    richer = replace(host, host=replace(host.host, facts=more))
    assert misses(request, replace(richer, free_gpus=host.free_gpus + extra)) == ()
    assert misses(request, replace(richer, free_cpus=host.free_cpus + 1)) == ()
    assert misses(request, replace(richer, free_memory_mib=host.free_memory_mib + 1)) == ()


@steady
@given(requests(), views())
def test_busy_means_that_it_fits_when_idle(request: Request, pool: list[HostView]) -> None:
    """A refusal is busy exactly when the same host with nothing on it would fit."""
    for host in pool:
        found = answer(Ask.of(request), host)
        fits_idle = isinstance(answer(Ask.of(request), idle(host)), Offer)
        assert isinstance(found, Offer) or (found.misses and found.busy == fits_idle)


@steady
@given(requests(), views())
def test_an_offer_is_what_was_asked(request: Request, pool: list[HostView]) -> None:
    """Every GPU is free, fits and is given once; a share is never more than what is free."""
    for host in pool:
        found = answer(Ask.of(request), host)
        if not isinstance(found, Offer):
            continue
        assert set(found.gpus) <= set(host.free_gpus)
        assert len(set(found.gpus)) == len(found.gpus)
        assert found.cpus <= max(host.free_cpus, 0)
        assert found.memory_mib <= max(host.free_memory_mib, 0)
        if request.gpu is None:
            assert not found.gpus
        else:
            assert len(found.gpus) in request.gpu.count
            assert found.gpus or request.gpu.count.min == 0


@steady
@given(requests(), nodes, views(least=2))
def test_all_ranks_or_none(request: Request, count: int, pool: list[HostView]) -> None:
    """A placement has every rank on ready hosts of one network and no GPU, CPU or byte twice."""
    found = place(request, count, pool)
    if isinstance(found, Blocked):
        assert found.reason.endswith(".")
        return
    assert len(found.offers) == count
    uuids = [gpu.uuid for offer in found.offers for gpu in offer.gpus]
    assert len(set(uuids)) == len(uuids)
    left = {view.host.id: view for view in pool}
    for offer in found.offers:
        assert offer.host.status is HostStatus.READY
        left[offer.host.id] = take(left[offer.host.id], offer)
    assert all(left[o.host.id].free_cpus >= 0 and left[o.host.id].free_memory_mib >= 0 for o in found.offers)
    if count > 1:
        assert len({_network(offer.host) for offer in found.offers}) == 1
        assert all(offer.host.ip for offer in found.offers)
        hosts = {offer.host.id for offer in found.offers}
        fitting = {o.host.id for o in compute_offers(request, pool)[0] if _same(o.host, found) and o.host.ip}
        assert len(hosts) == min(count, len(fitting)), "ranks share a host only when there are too few"


def _network(host: Host) -> tuple[str, str]:
    return ("network", str(ip_network(host.network))) if host.network else ("region", host.region)


def _same(host: Host, found: Placement) -> bool:
    return _network(host) == _network(found.offers[0].host)


@steady
@given(requests(), nodes, views(), st.randoms(use_true_random=False))
def test_the_order_of_hosts_does_not_matter(
    request: Request, count: int, pool: list[HostView], dice: random.Random
) -> None:
    """Nor does the order in which a host lists its free GPUs."""
    shuffled = [replace(host, free_gpus=tuple(dice.sample(host.free_gpus, len(host.free_gpus)))) for host in pool]
    dice.shuffle(shuffled)
    assert place(request, count, shuffled) == place(request, count, pool)
    assert compute_offers(request, shuffled) == compute_offers(request, pool)


@steady
@given(requests(), nodes, views())
def test_waiting_means_that_it_fits_when_nothing_runs(request: Request, count: int, pool: list[HostView]) -> None:
    """A blocked run waits exactly when it fits on the idle pool, and a pool that fits does so idle too."""
    found = place(request, count, pool)
    fits_idle = isinstance(place(request, count, [idle(host) for host in pool]), Placement)
    assert found.waits == fits_idle if isinstance(found, Blocked) else fits_idle


@steady
@given(requests(), views())
def test_every_move_ends_in_a_fit(request: Request, pool: list[HostView]) -> None:
    """What is suggested would really do, and every requirement by name is either movable or known not to be."""
    for host in pool:
        steps = moves(Ask.of(request), host)
        if steps:
            back = replace(host, host=replace(host.host, status=HostStatus.READY))
            assert misses(steps[-1].request, back) == ()


@steady
@given(st.lists(st.tuples(requests(), nodes), max_size=3), st.lists(st.integers(0, 2), max_size=12), views())
def test_a_pass_is_one_placement_after_the_other(
    kinds: list[tuple[Request, int]], order: list[int], pool: list[HostView]
) -> None:
    """The shared work of a pass changes no answer."""
    pending = [kinds[number % len(kinds)] for number in order] if kinds else []
    left = {view.host.id: view for view in pool}
    for (request, count), found in zip(pending, sweep(pending, pool), strict=True):
        expected = place(request, count, list(left.values()))
        assert isinstance(found, Placement) == isinstance(expected, Placement)
        if isinstance(expected, Placement):
            assert isinstance(found, Placement)
            assert found.offers == expected.offers
            for offer in expected.offers:
                left[offer.host.id] = take(left[offer.host.id], offer)
