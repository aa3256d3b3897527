"""Hosts for all ranks at once, in the right order, or none."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pool.host import Address, HostView
from pool.offer import Blocked, Placement, Range, Request
from pool.scheduler.gang import compute_offers, place
from pool.states import HostStatus
from tests.unit.scheduler.pools import A100, H100, RTX4090, gpu, least, view


def names(answer: Placement | Blocked) -> list[str]:
    """The host of each rank."""
    assert isinstance(answer, Placement), answer
    return [offer.host.name for offer in answer.offers]


def blocked(answer: Placement | Blocked) -> Blocked:
    """The answer, which must be a refusal."""
    assert isinstance(answer, Blocked), answer
    return answer


def best(request: Request, *views: HostView) -> str:
    """The first offer's host."""
    return compute_offers(request, views)[0][0].host.name


def test_without_gpu_hosts_without_gpus_are_preferred() -> None:
    """Then the least loaded host, then the larger one."""
    assert best(Request(), view("a", H100), view("b", free_cpus=1)) == "b"
    assert best(Request(), view("a", free_cpus=32), view("b", free_cpus=60)) == "b"
    assert best(Request(), view("a", cpus=8), view("b", cpus=16)) == "b"
    assert best(Request(), view("b"), view("a")) == "a"


def test_with_gpus_the_tightest_host_is_preferred() -> None:
    """Whole hosts stay free for those who need them."""
    assert best(gpu(2), view("a", A100), view("b", A100, free=3), view("c", A100, free=4)) == "b"
    assert best(gpu(8), view("a", A100, 8, free=7), view("b", A100)) == "b"


def test_of_equal_hosts_the_smaller_card_is_preferred() -> None:
    """Nobody who asks 24GB.. is given an H100 while a 4090 host is as free; sizes are those on the box."""
    assert best(gpu(1, memory_mib=least(24)), view("a", H100), view("b", RTX4090)) == "b"
    assert best(gpu(1), view("a", A100), view("b", H100)) == "a"


def test_one_rank_gets_the_best_host() -> None:
    """The others are told why not, by name."""
    answer = place(gpu(1, names=("H100",)), 1, [view("c"), view("b", H100), view("a", RTX4090)])
    assert names(answer) == ["b"]
    assert [refusal.host.name for refusal in answer.refusals] == ["a", "c"]


def test_ranks_spread_over_hosts() -> None:
    """One rank a host while there are hosts, even where all would fit on one."""
    hosts = [view(name, H100, ip=f"10.0.0.{number}") for number, name in enumerate("abcd", start=1)]
    assert names(place(gpu(1), 3, hosts)) == ["a", "b", "c"]


def test_ranks_share_hosts_only_when_there_are_too_few() -> None:
    """Then they are dealt out evenly, neighbours in rank on one host, and no GPU is given twice."""
    hosts = [view("a", H100, 4, ip="10.0.0.2"), view("b", H100, 4, ip="10.0.0.1")]
    answer = place(gpu(2), 4, hosts)
    assert names(answer) == ["b", "b", "a", "a"]
    assert isinstance(answer, Placement)
    assert len({card.uuid for offer in answer.offers for card in offer.gpus}) == 8
    assert names(place(gpu(1), 3, hosts)) in (["b", "b", "a"], ["b", "a", "a"])


def test_shares_count_cpus_and_memory() -> None:
    """Two ranks of 48 of 64 CPUs do not share a host."""
    hosts = [view("a", H100)]
    assert names(place(replace(gpu(1), cpus=Range(32, 32)), 2, hosts)) == ["a", "a"]
    assert blocked(place(replace(gpu(1), cpus=Range(48, 48)), 2, hosts)).suggestion == "nodes: 1 instead of 2"


def test_ranks_follow_addresses_numerically() -> None:
    """10.0.0.9 comes before 10.0.0.10, whatever the names."""
    hosts = [view("a", H100, ip="10.0.0.10"), view("b", H100, ip="10.0.0.9"), view("c", H100, ip="10.0.0.100")]
    assert names(place(gpu(8), 3, hosts)) == ["b", "a", "c"]


def test_equal_addresses_are_ordered_by_name() -> None:
    """Several hosts on one machine (other ports) have one address."""
    hosts = [view(name, H100, ip="127.0.0.1") for name in "cab"]
    assert names(place(gpu(8), 3, hosts)) == ["a", "b", "c"]


def in_network(name: str, third: int, last: int) -> HostView:
    """A host with its address in 10.<third>.0.0/16 beside the one SSH uses."""
    made = view(name, H100, ip=f"192.0.2.{last}", network=f"10.{third}.0.0/16")
    assert made.host.facts is not None
    address = Address(f"10.{third}.0.{last}", 16, "eth1")
    return replace(made, host=replace(made.host, facts=replace(made.host.facts, addresses=(address,))))


def test_a_gang_stays_in_one_network() -> None:
    """Two in one network and two in another do not make four; the network with room is found."""
    hosts = [in_network("a", 0, 1), in_network("b", 0, 2), in_network("c", 1, 1), in_network("d", 1, 2)]
    answer = blocked(place(gpu(8), 4, hosts))
    assert answer.reason == "Only 2 of 4 ranks can have a host of one network."
    assert answer.suggestion == "nodes: 2 instead of 4"
    assert not answer.waits
    assert names(place(gpu(8), 3, [*hosts, in_network("e", 1, 3)])) == ["c", "d", "e"]


def test_one_network_in_two_spellings() -> None:
    """10.0.0.7/16 is 10.0.0.0/16."""
    one, two = in_network("a", 0, 1), in_network("b", 0, 2)
    respelled = replace(two, host=replace(two.host, network="10.0.0.7/16"))
    assert names(place(gpu(8), 2, [one, respelled])) == ["a", "b"]


def test_hosts_without_a_network_are_grouped_by_region() -> None:
    """Inside a region they are taken to reach one another; loopback reaches only loopback."""
    eu, us = view("a", H100, region="eu"), view("b", H100, region="us", ip="10.0.0.2")
    assert isinstance(place(gpu(8), 2, [eu, us]), Blocked)
    assert names(place(gpu(8), 2, [eu, replace(us, host=replace(us.host, region="eu"))])) == ["a", "b"]
    local = view("c", H100, region="eu", ip="127.0.0.2")
    assert isinstance(place(gpu(8), 2, [eu, local]), Blocked)
    assert names(place(gpu(8), 2, [local, view("d", H100, region="eu", ip="127.0.0.3")])) == ["c", "d"]


def test_a_gang_needs_addresses_and_one_rank_does_not() -> None:
    """A host outside its own network says which address it lacks."""
    lost = view("a", H100, ip="192.0.2.1", network="10.0.0.0/16")
    answer = blocked(place(gpu(8), 2, [lost, view("b", H100)]))
    assert [str(miss) for miss in answer.refusals[0].misses] == [
        "address: asks one in 10.0.0.0/16 that its peers reach, has none"
    ]
    assert names(place(gpu(8), 1, [lost])) == ["a"]


def test_equal_cards_make_the_better_gang() -> None:
    """Two A100 hosts are preferred over a tighter mix, a mix over blocking."""
    hosts = [
        view("a", H100, free=1, ip="10.0.0.1"),
        view("b", A100, ip="10.0.0.2"),
        view("c", A100, ip="10.0.0.3"),
    ]
    assert names(place(gpu(1), 2, hosts)) == ["b", "c"]
    assert names(place(gpu(1), 3, hosts)) == ["a", "b", "c"]


def test_only_ready_hosts_get_work() -> None:
    """Every other status is refused, and waiting for jobs to end would not help."""
    for status in HostStatus:
        answer = place(gpu(1), 1, [view("a", H100, status=status)])
        assert isinstance(answer, Placement) == (status is HostStatus.READY)
        if isinstance(answer, Blocked):
            assert not answer.waits


@pytest.mark.parametrize("nodes", [1, 2])
def test_an_empty_pool(nodes: int) -> None:
    """No hosts at all: the next command is to add one."""
    answer = blocked(place(Request(), nodes, []))
    assert (answer.reason, answer.waits) == ("The pool has no hosts.", False)
    assert answer.suggestion == "add a host: pool add-ssh user@host -i KEY"


def test_a_gang_waits_for_the_hosts_that_are_busy() -> None:
    """It would fit if nothing ran: it waits, all of it."""
    hosts = [view("a", H100, ip="10.0.0.1"), view("b", H100, ip="10.0.0.2", free=4, jobs=2)]
    answer = blocked(place(gpu(8), 2, hosts))
    assert answer.waits
    assert answer.reason == "Only 1 of 2 ranks can have a host of one network now: 1 other host is busy."
    assert answer.suggestion is not None
    assert answer.suggestion.startswith("wait: b has 4 GPUs busy with 2 jobs, or ")
