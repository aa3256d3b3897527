"""What this decides: hosts for a whole queue of pending runs, in the order given, in one pass over one snapshot.

The answers are those of `gang.place` called one after the other, each on what the ones before have left; only the work
is shared. Equal requests share one list of hosts, and a host is judged again only after a rank took a share of it. As
hosts only get fuller during a pass, what did not fit once is not tried again: equal runs get the same Blocked.

A later run may take what an earlier, larger one was refused: whoever calls decides whom to ask for first.
"""

from __future__ import annotations

from collections.abc import Sequence

from pool.host import HostView
from pool.offer import Blocked, Placement, Request
from pool.scheduler.feasible import Ask, take
from pool.scheduler.gang import blocked, seat
from pool.scheduler.standing import Standing

#: What a run asks: its request and its number of nodes.
Pending = tuple[Request, int]


def sweep(pending: Sequence[Pending], views: Sequence[HostView]) -> list[Placement | Blocked]:
    """The answer for each run of the queue; placements carry no refusals."""
    left = {view.host.id: view for view in views}
    taken: list[str] = []
    standings: dict[tuple[Request, bool], tuple[Standing, int]] = {}
    refused: dict[Pending, Blocked] = {}
    answers: list[Placement | Blocked] = []
    for request, nodes in pending:
        known = refused.get((request, nodes))
        if known is not None:
            answers.append(known)
            continue
        gang = nodes > 1
        standing, seen = standings.get((request, gang), (None, 0))
        if standing is None:
            standing = Standing(Ask.of(request, gang=gang), left.values())
        else:
            standing.update(left[host] for host in set(taken[seen:]))
        standings[request, gang] = (standing, len(taken))
        seats = seat(standing, nodes)
        if len(seats) < nodes:
            refused[request, nodes] = blocked(standing, nodes, list(left.values()), seats)
            answers.append(refused[request, nodes])
            continue
        answers.append(Placement(tuple(seats)))
        for offer in seats:
            left[offer.host.id] = take(left[offer.host.id], offer)
            taken.append(offer.host.id)
    return answers
