"""What this decides: how far each requirement must move before one host fits, host by host, in words.

A requirement moves just as far as the host needs, never further. Where no change of the request helps (no Docker on the
host, no GPU at all) there is no move.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

from pool.host import HostView
from pool.offer import GpuRequest, Range, Refusal, Request
from pool.scheduler.feasible import Ask, answer
from pool.scheduler.gpus import Cards, capability_of, spoken
from pool.scheduler.words import capability, count, distinct, number, size
from pool.states import HostStatus

#: A host that was ready and could be again.
LEFT: Final = frozenset({HostStatus.DRAINING, HostStatus.UNREACHABLE})


@dataclass(frozen=True, slots=True)
class Move:
    """One change: how large (1 = as much as doing without), in words, and the request after it."""

    size: float
    words: str
    request: Request


def moves(ask: Ask, view: HostView) -> list[Move]:
    """One move for each requirement the host misses, each on top of the one before; empty when there is no way."""
    found: list[Move] = []
    request, host = ask.request, view.host
    if host.status in LEFT:
        because = f"it is {host.status}" + (f": {host.reason}" if host.reason else "")
        found.append(Move(0.5, f"bring {host.name} back ({because})", request))
        view = ready(view)
    for _ in range(4):  # a move can uncover the next: cards of the size now asked may not be free
        answered = answer(Ask.of(request, gang=ask.gang), view)
        if not isinstance(answered, Refusal):
            return found
        for miss in answered.misses:
            move = _MOVES[miss.requirement](request, view) if miss.requirement in _MOVES else None
            if move is None:
                return []
            found.append(move)
            request = move.request
    return []


def ready(view: HostView) -> HostView:
    """The host as it would be if it were back."""
    return replace(view, host=replace(view.host, status=HostStatus.READY)) if view.host.status in LEFT else view


def _share(asked: float, has: float) -> float:
    """How large a step from `asked` to `has` is."""
    return abs(asked - has) / max(asked, has, 1e-9)


def _reach(asked: Range, has: float) -> Range:
    """The range with its nearer end moved to `has`; an exact number stays one."""
    if asked.min is not None and has < asked.min:
        return Range(has, has if asked.max == asked.min else asked.max)
    return Range(has if asked.max == asked.min else asked.min, has)


def _nearer(asked: Range, values: list[float]) -> float | None:
    """The value that is the smallest step away from the asked range."""
    ends = [end for end in (asked.min, asked.max) if end is not None]
    steps = [(min(_share(end, value) for end in ends), value) for value in values if value > 0]
    return min(steps)[1] if steps and ends else None


def _gpu(request: Request) -> GpuRequest:
    assert request.gpu is not None
    return request.gpu


def _with_gpu(request: Request, **fields: Any) -> Request:
    return replace(request, gpu=replace(_gpu(request), **fields))


def _without(words: str, step: float, **fields: Any) -> Callable[[Request, HostView], Move]:
    return lambda request, _view: Move(step, f"leave {words} out", replace(request, **fields))


def _gpus(request: Request, view: HostView) -> Move | None:
    cards = Cards(_gpu(request))
    if cards.forbidden:
        return Move(0.3, "leave gpu out instead of gpu: 0", replace(request, gpu=None))
    return _fewer(request, cards, len(cards.fitting(view.host.gpus)) or len(view.host.gpus))


def _gpus_free(request: Request, view: HostView) -> Move | None:
    cards = Cards(_gpu(request))
    free = cards.fitting(view.free_gpus)
    if len(free) >= cards.least and cards.asked.total_memory_mib:
        return _to_total(request, cards.totals(free))
    return _fewer(request, cards, len(free))


def _fewer(request: Request, cards: Cards, has: int) -> Move | None:
    if not 0 < has < cards.least:
        return None
    words = f"ask {count(has, 'GPU')} instead of {cards.least}"
    return Move(_share(cards.least, has), words, _with_gpu(request, count=_reach(cards.asked.count, has)))


def _gpu_name(request: Request, view: HostView) -> Move:
    names = tuple(dict.fromkeys(spoken(gpu) for gpu in view.host.gpus))
    return Move(1.0, f"also take {distinct(names)}", _with_gpu(request, names=_gpu(request).names + names))


def _gpu_memory(request: Request, view: HostView) -> Move | None:
    asked = _gpu(request).memory_mib
    cards = Cards(_gpu(request))
    named = [gpu for gpu in view.host.gpus if cards.is_named(gpu)] or list(view.host.gpus)
    has = _nearer(asked, [cards.size_mib(gpu) for gpu in named]) if asked else None
    if asked is None or has is None:
        return None
    changed = _with_gpu(request, memory_mib=_reach(asked, has))
    return _sized("gpu memory", asked, has, changed)


def _sized(what: str, asked: Range, has: float, changed: Request) -> Move:
    lower = asked.min is not None and has < asked.min
    end = asked.min if lower else asked.max
    return Move(_share(end or 0, has), f"{'lower' if lower else 'raise'} {what} to {size(has)}", changed)


def _total_memory(request: Request, view: HostView) -> Move | None:
    return _to_total(request, Cards(_gpu(request)).totals(view.host.gpus))


def _to_total(request: Request, totals: list[float]) -> Move | None:
    asked = _gpu(request).total_memory_mib
    has = _nearer(asked, totals) if asked else None
    if asked is None or has is None:
        return None
    return _sized("gpu total memory", asked, has, _with_gpu(request, total_memory_mib=_reach(asked, has)))


def _capability(request: Request, view: HostView) -> Move | None:
    asked = _gpu(request).compute_capability
    known = [found for gpu in view.host.gpus if (found := capability_of(gpu))]
    if asked is None or not known:
        return None
    has = max(known)
    step = _share(asked[0] + asked[1] / 10, has[0] + has[1] / 10)
    return Move(step, f"lower compute capability to {capability(has)}", _with_gpu(request, compute_capability=has))


def _cpus(request: Request, view: HostView) -> Move | None:
    asked, has = request.cpus, math.floor(view.free_cpus)
    if asked is None or asked.min is None or has < 1:
        return None
    return Move(_share(asked.min, has), f"lower cpu to {number(has)}", replace(request, cpus=_reach(asked, has)))


def _memory(request: Request, view: HostView) -> Move | None:
    asked, has = request.memory_mib, view.free_memory_mib // 1024 * 1024
    if asked is None or asked.min is None or has < 1024:
        return None
    return _sized("memory", asked, has, replace(request, memory_mib=_reach(asked, has)))


def _disk(request: Request, view: HostView) -> Move | None:
    asked, facts = request.disk_mib, view.host.facts
    has = facts.disk_free_mib // 1024 * 1024 if facts else 0
    if asked is None or asked.min is None or has < 1024:
        return None
    return _sized("disk", asked, has, replace(request, disk_mib=_reach(asked, has)))


def _price(request: Request, view: HostView) -> Move:
    asked, has = request.max_price or 0.0, view.host.price
    return Move(_share(asked, has), f"raise max_price to {has:g}", replace(request, max_price=has))


def _pool(request: Request, view: HostView) -> Move:
    return Move(0.8, f"use pool {view.host.pool} instead of {request.pool}", replace(request, pool=view.host.pool))


def _region(request: Request, view: HostView) -> Move:
    asked = (*request.regions, view.host.region)
    return Move(0.8, f"also take region {view.host.region}", replace(request, regions=asked))


def _instance_type(request: Request, view: HostView) -> Move:
    has = view.host.instance_type
    asked = (*request.instance_types, has)
    return Move(0.8, f"also take instance type {has}", replace(request, instance_types=asked))


#: By requirement, as `feasible` names it.
_MOVES: Final[dict[str, Callable[[Request, HostView], Move | None]]] = {
    "pool": _pool,
    "host": _without("instance_name", 0.8, host=None),
    "region": _region,
    "instance type": _instance_type,
    "backend": _without("backends", 0.3, backends=()),
    "spot policy": _without("spot_policy: spot", 0.3, spot=False),
    "price": _price,
    "cpus": _cpus,
    "cpus free": _cpus,
    "memory": _memory,
    "memory free": _memory,
    "disk free": _disk,
    "gpus": _gpus,
    "gpus free": _gpus_free,
    "gpu name": _gpu_name,
    "gpu memory": _gpu_memory,
    "gpu total memory": _total_memory,
    "compute capability": _capability,
}
