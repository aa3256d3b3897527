"""What this decides: a host for every rank of a run at once, or none and why.

Ranks spread: one a host while enough hosts fit; only when there are fewer hosts than ranks do several ranks share one,
dealt out round by round, the best host first. Sharing now is preferred over waiting for more hosts.

The hosts of a gang are of one network. Hosts without a network are taken to reach one another inside one region, but a
loopback address reaches only others on loopback. Hosts whose ranks get the same GPU model are preferred over a mix.
Ranks follow the hosts' addresses, numerically, then their names.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_address

from pool.host import HostView
from pool.offer import Blocked, Offer, Placement, Refusal, Request
from pool.scheduler.feasible import Ask, answer, idle, take
from pool.scheduler.score import Key
from pool.scheduler.standing import Candidate, Standing, rank
from pool.scheduler.suggest import reason, suggestion


def compute_offers(request: Request, views: Sequence[HostView]) -> tuple[list[Offer], list[Refusal]]:
    """Every host that could take one rank now, best first, and every other with why not, by name."""
    standing = Standing(Ask.of(request), views)
    return [offer for _, offer, _ in standing.found], standing.refusals


def place(request: Request, nodes: int, views: Sequence[HostView]) -> Placement | Blocked:
    """A host for each of `nodes` ranks, or Blocked with the reason; the order of `views` does not matter."""
    standing = Standing(Ask.of(request, gang=nodes > 1), views)
    seats = seat(standing, nodes)
    if len(seats) == nodes:
        return Placement(tuple(seats), tuple(standing.refusals))
    return blocked(standing, nodes, views, seats)


def blocked(standing: Standing, nodes: int, views: Sequence[HostView], seats: Sequence[Offer]) -> Blocked:
    """Why only `seats` of the `nodes` ranks have a host, and what would change that."""
    ask, refusals = standing.ask, standing.refusals

    def room(changed: Request, among: Sequence[HostView]) -> int:
        return len(seat(Standing(Ask.of(changed, gang=nodes > 1), among), nodes))

    if nodes == 1:
        waits = any(refusal.busy for refusal in refusals)
    else:
        waits = room(ask.request, [idle(view) for view in views]) == nodes
    why = reason(nodes, len(seats), len(views), refusals, waits)
    return Blocked(tuple(refusals), why, suggestion(ask, nodes, len(seats), views, refusals, waits, room), waits)


def seat(standing: Standing, nodes: int) -> list[Offer]:
    """The offers of the ranks in order: `nodes` of them, or fewer when no network has room for all."""
    if nodes == 1:
        return [offer for _, offer, _ in standing.found[:1]]
    best: list[Offer] = []
    for _, hosts in sorted(standing.groups.items(), key=lambda item: (_preference(item[1], nodes), item[0])):
        dealt = _deal(standing.ask, nodes, hosts)
        if len(dealt) > len(best):
            best = dealt
        if len(best) == nodes:
            break
    return sorted(best, key=_position)


def _preference(hosts: Sequence[Candidate], nodes: int) -> tuple[int, int, tuple[Key, ...]]:
    """Enough hosts, else as many as can be; then one GPU model before several; then the better hosts."""
    chosen = hosts[:nodes]
    models = {gpu.name for _, offer, _ in chosen for gpu in offer.gpus}
    return (nodes - len(chosen), len(models), tuple(map(rank, chosen)))


def _deal(ask: Ask, nodes: int, hosts: Sequence[Candidate]) -> list[Offer]:
    """One offer a host, best host first, and round again while ranks are left and hosts take more."""
    dealt = [(offer, view) for _, offer, view in hosts[:nodes]]
    offers = [offer for offer, _ in dealt]
    while dealt and len(offers) < nodes:
        again: list[tuple[Offer, HostView]] = []
        for offer, view in dealt:
            rest = take(view, offer)
            answered = answer(ask, rest)
            if isinstance(answered, Offer):
                again.append((answered, rest))
        dealt = again[: nodes - len(offers)]
        offers += [offer for offer, _ in dealt]
    return offers


def _position(offer: Offer) -> tuple[int, int, str, str]:
    """Where a host stands in its network."""
    address = ip_address(offer.host.ip or "::")
    return (address.version, int(address), offer.host.name, offer.host.id)
