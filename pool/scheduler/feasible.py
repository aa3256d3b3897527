"""What this decides: whether one host could take one rank of a request, and else every requirement it misses, in words.

`answer` is the only judge: an `Offer` with the share the rank would get, or a `Refusal` with all misses. A refusal is
`busy` when every miss comes from running jobs: the same host with nothing on it would fit.

A host gives a share of itself, so the upper end of a range of cpus, memory or disk never makes it unfit; the upper end
of GPU memory does, as it tells one card from another.
"""

from __future__ import annotations

from dataclasses import dataclass

from pool.host import Gpu, Host, HostView
from pool.offer import Miss, Offer, Range, Refusal, Request
from pool.scheduler.gpus import Cards
from pool.scheduler.words import bounds, distinct, number, size
from pool.states import HostStatus

#: What a rank gets when it did not ask, as far as it is free.
PREFERRED_CPUS = 2.0
PREFERRED_MEMORY_MIB = 8 * 1024

#: A host satisfies a memory request from this share of it on: firmware and kernel keep the rest of the "64 GB" on the
#: label (MemTotal of such a machine is about 62.5 GiB).
MEMORY_TOLERANCE = 0.95

#: Backends that mean this pool's hosts.
OWN_BACKENDS = frozenset({"ssh", "remote"})


@dataclass(frozen=True, slots=True)
class Ask:
    """A request worked out once for many hosts; `gang` adds an address that peers can reach."""

    request: Request
    cards: Cards | None
    cpus: float  #: the least a rank can do with; 0 = whatever is free
    memory_mib: float
    gang: bool

    @classmethod
    def of(cls, request: Request, *, gang: bool = False) -> Ask:
        """The request, ready to be put to hosts."""
        return cls(
            request,
            Cards(request.gpu) if request.gpu else None,
            _least(request.cpus),
            _least(request.memory_mib),
            gang,
        )


def misses(request: Request, view: HostView) -> tuple[Miss, ...]:
    """Every requirement the host misses, lasting ones first; empty when it could take a rank now."""
    found = answer(Ask.of(request), view)
    return found.misses if isinstance(found, Refusal) else ()


def answer(ask: Ask, view: HostView) -> Offer | Refusal:
    """The share the host would give to one rank, or why it cannot."""
    lasting: list[Miss] = []
    passing: list[Miss] = []
    host = view.host
    _check_status(host, lasting)
    _check_labels(ask.request, host, lasting)
    if host.facts is None:
        return Refusal(host, tuple(lasting))
    if ask.gang and host.ip is None:
        lasting.append(Miss("address", f"one in {host.network or 'any network'} that its peers reach", "none"))
    _check_machine(ask, view, lasting, passing)
    gpus: tuple[Gpu, ...] | None = ()
    if ask.cards is not None and not (ask.cards.forbidden and not host.gpus):
        gpus = None if ask.cards.forbidden else ask.cards.choose(view.free_gpus)
        if gpus is None:
            _check_gpus(ask.cards, view, lasting, passing)
    if lasting or passing:
        return Refusal(host, tuple(lasting + passing), busy=not lasting)
    return Offer(host, gpus or (), _cpus(ask, view), _memory(ask, view))


def take(view: HostView, offer: Offer) -> HostView:
    """The host after a rank took `offer`."""
    given = {gpu.uuid for gpu in offer.gpus}
    return HostView(
        view.host,
        tuple(gpu for gpu in view.free_gpus if gpu.uuid not in given) if given else view.free_gpus,
        view.free_cpus - offer.cpus,
        view.free_memory_mib - offer.memory_mib,
        view.jobs + 1,
    )


def idle(view: HostView) -> HostView:
    """The host as it would be with nothing running on it."""
    facts = view.host.facts
    if facts is None:
        return view
    return HostView(view.host, facts.gpus, float(facts.cpus), facts.memory_mib)


def _least(asked: Range | None) -> float:
    return asked.min or 0 if asked else 0


def _cpus(ask: Ask, view: HostView) -> float:
    """What was asked at least; else the preference, as far as it is free and asked at most."""
    if ask.cpus:
        return ask.cpus
    most = ask.request.cpus.max if ask.request.cpus else None
    return max(0.0, min(PREFERRED_CPUS if most is None else min(PREFERRED_CPUS, most), view.free_cpus))


def _memory(ask: Ask, view: HostView) -> int:
    if ask.memory_mib:
        return int(min(ask.memory_mib, view.free_memory_mib))
    most = ask.request.memory_mib.max if ask.request.memory_mib else None
    wanted = PREFERRED_MEMORY_MIB if most is None else min(PREFERRED_MEMORY_MIB, most)
    return max(0, int(min(wanted, view.free_memory_mib)))


def _check_status(host: Host, lasting: list[Miss]) -> None:
    if host.status is not HostStatus.READY:
        lasting.append(Miss("status", "ready", f"{host.status} ({host.reason})" if host.reason else str(host.status)))
    elif host.facts is None:
        lasting.append(Miss("status", "ready", "nothing reported yet"))


def _check_labels(request: Request, host: Host, lasting: list[Miss]) -> None:
    """What the owner of the host said about it."""
    if request.pool is not None and request.pool != host.pool:
        lasting.append(Miss("pool", request.pool, host.pool))
    if request.host is not None and request.host != host.name:
        lasting.append(Miss("host", request.host, host.name))
    if request.regions and host.region not in request.regions:
        lasting.append(Miss("region", distinct(request.regions), host.region))
    if request.instance_types:
        kind = host.instance_type
        if kind.lower() not in {asked.lower() for asked in request.instance_types}:
            lasting.append(Miss("instance type", distinct(request.instance_types), kind))
    if request.backends and not any(name.lower() in OWN_BACKENDS for name in request.backends):
        lasting.append(Miss("backend", distinct(request.backends), "ssh"))
    if request.spot:
        lasting.append(Miss("spot policy", "spot", "on-demand"))
    if request.max_price is not None and host.price > request.max_price:
        lasting.append(Miss("price", f"≤ {request.max_price:g}", f"{host.price:g}"))


def _check_machine(ask: Ask, view: HostView, lasting: list[Miss], passing: list[Miss]) -> None:
    """Runtime, cpus, memory and disk."""
    facts, request = view.host.facts, ask.request
    assert facts is not None
    if request.runtime == "docker" and facts.docker is None:
        problem = f" ({facts.docker_problem})" if facts.docker_problem else ""
        lasting.append(Miss("runtime", "docker", f"no Docker engine{problem}"))
    if ask.cpus and request.cpus and view.free_cpus < ask.cpus:
        asked = bounds(request.cpus)
        if facts.cpus < ask.cpus:
            lasting.append(Miss("cpus", asked, number(facts.cpus)))
        else:
            passing.append(Miss("cpus free", asked, f"{number(max(0, view.free_cpus))} of {number(facts.cpus)} free"))
    if ask.memory_mib and request.memory_mib and view.free_memory_mib < ask.memory_mib * MEMORY_TOLERANCE:
        asked = bounds(request.memory_mib, size)
        if facts.memory_mib < ask.memory_mib * MEMORY_TOLERANCE:
            lasting.append(Miss("memory", asked, size(facts.memory_mib)))
        else:
            free = f"{size(max(0, view.free_memory_mib))} of {size(facts.memory_mib)} free"
            passing.append(Miss("memory free", asked, free))
    if request.disk_mib and request.disk_mib.min and facts.disk_free_mib < request.disk_mib.min:
        lasting.append(Miss("disk free", bounds(request.disk_mib, size), size(facts.disk_free_mib)))


def _check_gpus(cards: Cards, view: HostView, lasting: list[Miss], passing: list[Miss]) -> None:
    """Why the free GPUs do not suffice."""
    gpus, facts = view.host.gpus, view.host.facts
    if not gpus:
        problem = f" ({facts.gpu_problem})" if facts and facts.gpu_problem else ""
        lasting.append(Miss("gpus", bounds(cards.asked.count), f"none{problem}"))
        return
    whole = cards.whole(gpus)
    lasting.extend(whole.misses)
    if not whole.misses:
        free = len(cards.fitting(view.free_gpus))
        passing.append(Miss("gpus free", str(whole.given), f"{free} of {whole.fitting} free"))
