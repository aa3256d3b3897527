"""What this decides: a host for every rank of a run at once, or none and why.

Ranks spread: one a host while enough hosts fit; only when there are fewer hosts than ranks do several ranks share one,
dealt out round by round so that no host carries two more than another that could take one. Waiting for more hosts
to become free is never preferred over sharing now.

The hosts of a gang are of one network. Hosts without a network are taken to reach one another inside one region, but a
loopback address reaches only others on loopback. Hosts whose ranks get the same GPU model are preferred over a mix.
Ranks follow the hosts' addresses, numerically, then their names.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_address, ip_network

from pool.host import Host, HostView
from pool.offer import Blocked, Offer, Placement, Refusal, Request
from pool.scheduler import suggest
from pool.scheduler.feasible import Ask, answer, idle, take
from pool.scheduler.score import Key, key

Candidate = tuple[Key, Offer, HostView]


def compute_offers(request: Request, views: Sequence[HostView]) -> tuple[list[Offer], list[Refusal]]:
    """Every host that could take one rank now, best first, and every other with why not, by name."""
    found, refusals = _candidates(Ask.of(request), views)
    return [offer for _, offer, _ in found], refusals


def place(request: Request, nodes: int, views: Sequence[HostView]) -> Placement | Blocked:
    """A host for each of `nodes` ranks, or Blocked with the reason; the order of `views` does not matter."""
    ask = Ask.of(request, gang=nodes > 1)
    found, refusals = _candidates(ask, views)
    seats = _seat(ask, nodes, found)
    if len(seats) == nodes:
        return Placement(tuple(seats), tuple(refusals))

    def room(changed: Request, among: Sequence[HostView]) -> int:
        asked = Ask.of(changed, gang=nodes > 1)
        return len(_seat(asked, nodes, _candidates(asked, among)[0]))

    waits = room(request, [idle(view) for view in views]) == nodes
    return Blocked(
        tuple(refusals),
        suggest.reason(nodes, len(seats), refusals, waits),
        suggest.suggestion(request, nodes, len(seats), views, refusals, waits, room),
        waits,
    )


def _candidates(ask: Ask, views: Sequence[HostView]) -> tuple[list[Candidate], list[Refusal]]:
    found: list[Candidate] = []
    refusals: list[Refusal] = []
    for view in views:
        answered = answer(ask, view)
        if isinstance(answered, Offer):
            found.append((key(answered, view), answered, view))
        else:
            refusals.append(answered)
    found.sort(key=lambda candidate: candidate[0])
    refusals.sort(key=lambda refusal: (refusal.host.name, refusal.host.id))
    return found, refusals


def _seat(ask: Ask, nodes: int, found: Sequence[Candidate]) -> list[Offer]:
    """The offers of the ranks in order: `nodes` of them, or fewer when no network has room for all."""
    if nodes == 1:
        return [offer for _, offer, _ in found[:1]]
    networks: dict[tuple[str, str], list[Candidate]] = {}
    for candidate in found:
        networks.setdefault(_network(candidate[1].host), []).append(candidate)
    choices = [candidates for _, candidates in sorted(networks.items())]
    choices += [cards for candidates in choices for cards in _by_card(candidates) if len(cards) >= nodes]
    if not choices:
        return []
    offers = _deal(ask, nodes, min(choices, key=lambda candidates: _preference(candidates, nodes)))
    if len(offers) < nodes:
        offers = max((_deal(ask, nodes, candidates) for candidates in choices), key=len)
    return sorted(offers, key=_position)


def _deal(ask: Ask, nodes: int, candidates: Sequence[Candidate]) -> list[Offer]:
    """One offer a host, best host first, and round again while ranks are left and hosts take more."""
    offers: list[Offer] = []
    round_ = [(offer, view) for _, offer, view in candidates]
    while round_ and len(offers) < nodes:
        next_round: list[tuple[Offer, HostView]] = []
        for offer, view in round_[: nodes - len(offers)]:
            offers.append(offer)
            rest = take(view, offer)
            again = answer(ask, rest)
            if isinstance(again, Offer):
                next_round.append((again, rest))
        round_ = next_round
    return offers


def _preference(candidates: Sequence[Candidate], nodes: int) -> tuple[bool, int, tuple[Key, ...]]:
    """Enough hosts before too few, one card model before several, then the better hosts."""
    chosen = candidates[:nodes]
    models = {gpu.name for _, offer, _ in chosen for gpu in offer.gpus}
    return (len(candidates) < nodes, len(models), tuple(place for place, _, _ in chosen))


def _by_card(candidates: Sequence[Candidate]) -> list[list[Candidate]]:
    """The candidates by the model of the cards they would give, where there are several models."""
    models: dict[tuple[str, ...], list[Candidate]] = {}
    for candidate in candidates:
        names = tuple(sorted({gpu.name for gpu in candidate[1].gpus}))
        models.setdefault(names, []).append(candidate)
    return [models[names] for names in sorted(models)] if len(models) > 1 else []


def _network(host: Host) -> tuple[str, str]:
    """What the hosts of one gang have in common."""
    if host.network is not None:
        return ("network", str(ip_network(host.network, strict=False)))
    loopback = host.ip is not None and ip_address(host.ip).is_loopback
    return ("loopback" if loopback else "region", host.region)


def _position(offer: Offer) -> tuple[int, int, str, str]:
    """Where a host stands in its network."""
    ip = offer.host.ip
    if ip is None:
        return (0, 0, offer.host.name, offer.host.id)
    address = ip_address(ip)
    return (address.version, int(address), offer.host.name, offer.host.id)
