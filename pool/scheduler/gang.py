"""What this decides: a host for every rank of a run at once, or none and why.

Ranks spread: one a host while enough hosts fit; only when there are fewer hosts than ranks do several ranks share one,
dealt out round by round, the best host first. Sharing now is preferred over waiting for more hosts.

The hosts of a gang are of one network. Hosts without a network are taken to reach one another inside one region, but a
loopback address reaches only others on loopback. Hosts whose ranks get the same GPU model are preferred over a mix.
Ranks follow the hosts' addresses, numerically, then their names.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from ipaddress import ip_address, ip_network

from pool.host import Host, HostView
from pool.offer import Blocked, Offer, Placement, Refusal, Request
from pool.scheduler.feasible import Ask, answer, idle, take
from pool.scheduler.score import Key, key
from pool.scheduler.suggest import reason, suggestion

#: A host that fits: the smaller the key, the better.
Candidate = tuple[Key, Offer, HostView]


def compute_offers(request: Request, views: Sequence[HostView]) -> tuple[list[Offer], list[Refusal]]:
    """Every host that could take one rank now, best first, and every other with why not, by name."""
    found, refusals = candidates(Ask.of(request), views)
    return [offer for _, offer, _ in found], refusals


def place(request: Request, nodes: int, views: Sequence[HostView]) -> Placement | Blocked:
    """A host for each of `nodes` ranks, or Blocked with the reason; the order of `views` does not matter."""
    ask = Ask.of(request, gang=nodes > 1)
    found, refusals = candidates(ask, views)
    seats = seat(ask, nodes, found)
    if len(seats) == nodes:
        return Placement(tuple(seats), tuple(refusals))
    return blocked(ask, nodes, views, seats, refusals)


def blocked(
    ask: Ask, nodes: int, views: Sequence[HostView], seats: Sequence[Offer], refusals: Sequence[Refusal]
) -> Blocked:
    """Why only `seats` of the `nodes` ranks have a host, and what would change that."""

    def room(changed: Request, among: Sequence[HostView]) -> int:
        asked = Ask.of(changed, gang=nodes > 1)
        return len(seat(asked, nodes, candidates(asked, among)[0]))

    waits = room(ask.request, [idle(view) for view in views]) == nodes
    why = reason(nodes, len(seats), len(views), refusals, waits)
    return Blocked(tuple(refusals), why, suggestion(ask, nodes, len(seats), views, refusals, waits, room), waits)


def candidates(ask: Ask, views: Sequence[HostView]) -> tuple[list[Candidate], list[Refusal]]:
    """The hosts that fit, best first, and the others by name."""
    found: list[Candidate] = []
    refusals: list[Refusal] = []
    for view in views:
        answered = answer(ask, view)
        if isinstance(answered, Offer):
            found.append((key(ask, answered, view), answered, view))
        else:
            refusals.append(answered)
    found.sort(key=_key)
    refusals.sort(key=lambda refusal: (refusal.host.name, refusal.host.id))
    return found, refusals


def seat(ask: Ask, nodes: int, found: Sequence[Candidate]) -> list[Offer]:
    """The offers of the ranks in order: `nodes` of them, or fewer when no network has room for all."""
    if nodes == 1:
        return [offer for _, offer, _ in found[:1]]
    networks: dict[tuple[str, str], list[Candidate]] = {}
    for candidate in found:
        networks.setdefault(_network(candidate[1].host), []).append(candidate)
    choices = [hosts for _, hosts in sorted(networks.items())]
    choices += [hosts for network in choices for hosts in _by_card(network) if len(hosts) >= nodes]
    best: list[Offer] = []
    for hosts in sorted(choices, key=lambda hosts: _preference(hosts, nodes)):
        dealt = _deal(ask, nodes, hosts)
        if len(dealt) > len(best):
            best = dealt
        if len(best) == nodes:
            break
    return sorted(best, key=_position)


def _deal(ask: Ask, nodes: int, hosts: Sequence[Candidate]) -> list[Offer]:
    """One offer a host, best host first, and round again while ranks are left and hosts take more."""
    offers: list[Offer] = []
    willing = [(offer, view) for _, offer, view in hosts]
    while willing and len(offers) < nodes:
        again: list[tuple[Offer, HostView]] = []
        for offer, view in willing[: nodes - len(offers)]:
            offers.append(offer)
            rest = take(view, offer)
            answered = answer(ask, rest)
            if isinstance(answered, Offer):
                again.append((answered, rest))
        willing = again
    return offers


def _preference(hosts: Sequence[Candidate], nodes: int) -> tuple[bool, int, tuple[Key, ...]]:
    """Enough hosts before too few, one card model before several, then the better hosts."""
    models = {gpu.name for _, offer, _ in hosts[:nodes] for gpu in offer.gpus}
    return (len(hosts) < nodes, len(models), tuple(map(_key, hosts[:nodes])))


def _by_card(hosts: Sequence[Candidate]) -> list[list[Candidate]]:
    """The hosts by the models they would give, where there are several."""
    models: dict[tuple[str, ...], list[Candidate]] = {}
    for candidate in hosts:
        names = tuple(sorted({gpu.name for gpu in candidate[1].gpus}))
        models.setdefault(names, []).append(candidate)
    return [models[names] for names in sorted(models)] if len(models) > 1 else []


def _key(candidate: Candidate) -> Key:
    return candidate[0]


@lru_cache(maxsize=1024)
def _spelled(network: str) -> str:
    """`10.0.0.7/24` and `10.0.0.0/24` are one network."""
    return str(ip_network(network, strict=False))


def _network(host: Host) -> tuple[str, str]:
    """What the hosts of one gang have in common."""
    if host.network is not None:
        return ("network", _spelled(host.network))
    loopback = host.ip is not None and ip_address(host.ip).is_loopback
    return ("loopback" if loopback else "region", host.region)


def _position(offer: Offer) -> tuple[int, int, str, str]:
    """Where a host stands in its network."""
    ip = offer.host.ip
    if ip is None:
        return (0, 0, offer.host.name, offer.host.id)
    address = ip_address(ip)
    return (address.version, int(address), offer.host.name, offer.host.id)
