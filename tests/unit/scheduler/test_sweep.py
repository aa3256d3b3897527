"""A whole queue in one pass."""

from __future__ import annotations

from dataclasses import replace

from pool.offer import Blocked, Placement
from pool.scheduler.feasible import Ask
from pool.scheduler.standing import Standing
from pool.scheduler.sweep import sweep
from tests.unit.scheduler.pools import H100, gpu, view


def test_the_first_in_the_queue_is_served_first() -> None:
    """Eight GPUs are three, three and two; the fourth waits, the smaller fifth does not."""
    answers = sweep([(gpu(3), 1), (gpu(3), 1), (gpu(3), 1), (gpu(2), 1), (gpu(1), 1)], [view("a", H100)])
    assert [isinstance(answer, Placement) for answer in answers] == [True, True, False, True, False]
    given = [gpu.index for answer in answers if isinstance(answer, Placement) for gpu in answer.offers[0].gpus]
    assert given == list(range(8))
    assert isinstance(answers[2], Blocked)
    assert answers[2].waits


def test_equal_runs_are_blocked_by_the_same_answer() -> None:
    """What did not fit once is not tried again in the pass."""
    answers = sweep([(gpu(16), 1)] * 3, [view("a", H100)])
    assert answers[0] is answers[1] is answers[2]


def test_a_gang_and_a_single_rank_of_one_request() -> None:
    """A gang needs addresses, one rank does not: equal requests are still told apart."""
    answers = sweep([(gpu(1), 2), (gpu(1), 1)], [view("a", H100, ip=None)])
    assert [isinstance(answer, Placement) for answer in answers] == [False, True]


def test_a_host_that_changes_moves_between_those_that_fit_and_those_that_do_not() -> None:
    """Both ways, and it is never in both."""
    free, full = view("a", H100), view("a", H100, free=0)
    other = view("b", H100, free=4, ip="10.0.0.2")
    standing = Standing(Ask.of(gpu(1), gang=True), [full, other])
    assert [refusal.host.name for refusal in standing.refusals] == ["a"]
    standing.update([free])
    assert [offer.host.name for _, offer, _ in standing.found] == ["b", "a"]
    assert standing.refusals == []
    standing.update([full, replace(other, free_gpus=())])
    assert standing.found == []
    assert [refusal.host.name for refusal in standing.refusals] == ["a", "b"]
    assert not any(standing.groups.values())
