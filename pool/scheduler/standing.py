"""What this decides: which hosts fit one request, best first, and for a gang also network by network.

A standing is made once for a request and kept right while ranks take their shares: only the hosts concerned are judged
again.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable
from functools import lru_cache
from ipaddress import ip_address, ip_network

from pool.host import Host, HostView
from pool.offer import Offer, Refusal
from pool.scheduler.feasible import Ask, answer
from pool.scheduler.score import Key, key

#: A host that fits: the smaller the key, the better.
Candidate = tuple[Key, Offer, HostView]

#: Hosts that reach one another, and the GPU models they would give ((): any).
Group = tuple[str, str, tuple[str, ...]]


class Standing:
    """The hosts' places for one request."""

    def __init__(self, ask: Ask, views: Iterable[HostView]) -> None:
        self.ask = ask
        self.found: list[Candidate] = []  #: best first
        self.groups: dict[Group, list[Candidate]] = {}  #: the same hosts once a network and once a network and model
        self._refused: dict[str, Refusal] = {}
        self._places: dict[str, tuple[Key, tuple[Group, ...]]] = {}
        for view in views:
            self._judge(view, in_order=False)
        self.found.sort(key=rank)
        for hosts in self.groups.values():
            hosts.sort(key=rank)

    @property
    def refusals(self) -> list[Refusal]:
        """The hosts that do not fit, by name."""
        return sorted(self._refused.values(), key=lambda refusal: (refusal.host.name, refusal.host.id))

    def update(self, views: Iterable[HostView]) -> None:
        """Judge these hosts again."""
        for view in views:
            if view.host.id in self._places:
                place, groups = self._places.pop(view.host.id)
                for hosts in (self.found, *(self.groups[group] for group in groups)):
                    del hosts[bisect_left(hosts, place, key=rank)]
            self._refused.pop(view.host.id, None)
            self._judge(view, in_order=True)

    def _judge(self, view: HostView, *, in_order: bool) -> None:
        answered = answer(self.ask, view)
        if isinstance(answered, Refusal):
            self._refused[view.host.id] = answered
            return
        candidate = (key(self.ask, answered, view), answered, view)
        groups = _groups(answered) if self.ask.gang else ()
        self._places[view.host.id] = (candidate[0], groups)
        for hosts in (self.found, *(self.groups.setdefault(group, []) for group in groups)):
            if in_order:
                insort(hosts, candidate, key=rank)
            else:
                hosts.append(candidate)


def rank(candidate: Candidate) -> Key:
    """The place of a candidate among others."""
    return candidate[0]


def _groups(offer: Offer) -> tuple[Group, ...]:
    kind, name = _network(offer.host)
    models = tuple(sorted({gpu.name for gpu in offer.gpus}))
    return ((kind, name, ()), (kind, name, models)) if models else ((kind, name, ()),)


def _network(host: Host) -> tuple[str, str]:
    """What the hosts of one gang have in common."""
    if host.network is not None:
        return ("network", _spelled(host.network))
    loopback = host.ip is not None and ip_address(host.ip).is_loopback
    return ("loopback" if loopback else "region", host.region)


@lru_cache(maxsize=1024)
def _spelled(network: str) -> str:
    """`10.0.0.7/24` and `10.0.0.0/24` are one network."""
    return str(ip_network(network, strict=False))
