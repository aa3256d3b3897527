"""What this decides: the sentence that says why a run has no hosts, and the smallest change that would give it some.

Each host that does not fit is asked what it would need (`moves`); the fewest and smallest moves are the answer. For a
gang the changed request must have room for every rank.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from pool.host import HostView
from pool.offer import Refusal, Request
from pool.scheduler.feasible import Ask
from pool.scheduler.moves import moves, ready
from pool.scheduler.words import count

#: How many ranks a changed request could seat among these hosts.
Room = Callable[[Request, Sequence[HostView]], int]

#: What would make it fit: how large a change, in words, and the request and the hosts after it.
Change = tuple[float, str, Request, Sequence[HostView]]

#: Changes of a gang that are tried against all hosts before giving up.
MOST_TRIED = 8


def reason(nodes: int, seated: int, hosts: int, refusals: Sequence[Refusal], waits: bool) -> str:
    """One sentence: why not all ranks can have a host now."""
    if not hosts:
        return "The pool has no hosts."
    busy = sum(refusal.busy for refusal in refusals)
    if seated:
        start = f"Only {seated} of {nodes} ranks can have a host of one network"
        if waits:
            return f"{start} now" + (f": {count(busy, 'other host')} {_are(busy)} busy." if busy else ".")
    elif waits:
        return f"No host is free now: {count(busy, 'host')} that could take it {_are(busy)} busy."
    else:
        start = "No host fits"
    if not refusals:
        return f"{start}."
    if len(refusals) == 1:
        return f"{start}: {refusals[0].host.name} misses " + "; ".join(map(str, refusals[0].misses)) + "."
    tally: dict[str, int] = {}
    for refusal in refusals:
        for requirement in dict.fromkeys(miss.requirement for miss in refusal.misses):
            tally[requirement] = tally.get(requirement, 0) + 1
    most = sorted(tally.items(), key=lambda item: (-item[1], item[0]))
    counted = [f"{count(n, 'host')} {'misses' if n == 1 else 'miss'} {name}" for name, n in most]
    return f"{start}: {', '.join(counted)}."


def suggestion(
    ask: Ask,
    nodes: int,
    seated: int,
    views: Sequence[HostView],
    refusals: Sequence[Refusal],
    waits: bool,
    room: Room,
) -> str | None:
    """The smallest change that would give every rank a host, in words; None where none is known."""
    if not views:
        return "add a host: pool add-ssh user@host -i KEY"
    changes = sorted(_changes(ask, views, refusals), key=lambda change: change[:2])
    fewer = [((nodes - seated) / nodes, f"nodes: {seated} instead of {nodes}")] if 0 < seated < nodes else []
    smaller = [change for change in changes if not fewer or change[:2] < fewer[0]]
    enough = (change[:2] for change in smaller[:MOST_TRIED] if nodes == 1 or room(change[2], change[3]) >= nodes)
    best = [change for change in (next(enough, None),) if change] or fewer
    words = [word for _, word in best]
    if waits:
        words = [_wait(ask, views, refusals), *(f"{word} to start now" for word in words)]
    return ", or ".join(words) or None


def _are(number_of: int) -> str:
    return "is" if number_of == 1 else "are"


def _wait(ask: Ask, views: Iterable[HostView], refusals: Iterable[Refusal]) -> str:
    """Which hosts to wait for: the least busy first."""
    busy = {refusal.host.id for refusal in refusals if refusal.busy}
    awaited = sorted(
        (view for view in views if view.host.id in busy),
        key=lambda view: (len(view.host.gpus) - len(view.free_gpus) if ask.cards else 0, view.jobs, view.host.name),
    )
    words = []
    for view in awaited[:3]:
        gpus = len(view.host.gpus) - len(view.free_gpus)
        what = f"has {count(gpus, 'GPU')} busy" if ask.cards and gpus else "is busy"
        words.append(f"{view.host.name} {what}" + (f" with {count(view.jobs, 'job')}" if view.jobs else ""))
    more = len(awaited) - len(words)
    if more:
        words.append(f"{count(more, 'more host')} {_are(more)} busy")
    return "wait: " + ", ".join(words) if words else "wait for running jobs to end"


def _changes(ask: Ask, views: Sequence[HostView], refusals: Iterable[Refusal]) -> list[Change]:
    """For each way in which hosts do not fit, what one of these hosts would need; those of fewest moves only."""
    by_id = {view.host.id: view for view in views}
    kinds: dict[tuple[object, ...], HostView] = {}
    for refusal in refusals:
        view = by_id[refusal.host.id]
        kinds.setdefault((refusal.misses, len(view.free_gpus)), view)
    found = [(view, steps) for view in kinds.values() if (steps := moves(ask, view))]
    fewest = min((len(steps) for _, steps in found), default=0)
    return [
        (
            sum(move.size for move in steps),
            " and ".join(move.words for move in steps),
            steps[-1].request,
            [ready(each) if each is view else each for each in views],
        )
        for view, steps in found
        if len(steps) == fewest
    ]
