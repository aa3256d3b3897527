"""What this decides: the sentence that says why a run has no hosts, and the smallest change that would give it some."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pool.host import HostView
from pool.offer import Refusal, Request
from pool.scheduler.words import count

#: How many ranks a changed request could seat among these hosts.
Room = Callable[[Request, Sequence[HostView]], int]


def reason(nodes: int, seated: int, refusals: Sequence[Refusal], waits: bool) -> str:
    """One sentence: why not all ranks can have a host now."""
    if not refusals and not seated:
        return "The pool has no hosts."
    ranks = f"only {seated} of {nodes} ranks have a host" if nodes > 1 and seated else "no host fits"
    if waits:
        return f"{ranks.capitalize()} now: others run there."
    tally: dict[str, int] = {}
    for refusal in refusals:
        for miss in refusal.misses:
            tally[miss.requirement] = tally.get(miss.requirement, 0) + 1
    named = sorted(tally.items(), key=lambda item: (-item[1], item[0]))
    if len(refusals) == 1:
        why = f"{refusals[0].host.name} misses " + "; ".join(str(miss) for miss in refusals[0].misses)
    else:
        why = ", ".join(f"{requirement} ({count(hosts, 'host')})" for requirement, hosts in named)
    return f"{ranks.capitalize()}: {why}." if why else f"{ranks.capitalize()}."


def suggestion(
    request: Request,  # noqa: ARG001
    nodes: int,
    seated: int,
    views: Sequence[HostView],
    refusals: Sequence[Refusal],
    waits: bool,
    room: Room,  # noqa: ARG001
) -> str | None:
    """The smallest change that would give every rank a host; None where no one change would."""
    if not views:
        return "pool add-ssh user@host -i KEY"
    if waits:
        busy = [refusal.host.name for refusal in refusals if refusal.busy]
        return "wait: " + ", ".join(busy[:3]) + (" is" if len(busy) == 1 else " are") + " busy" if busy else "wait"
    if 0 < seated < nodes:
        return f"nodes: {seated} instead of {nodes}"
    return None
