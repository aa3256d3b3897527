"""Drain: a host keeps its jobs and gets no new ones. The host itself knows who drained it and why; this asks and hears.

What a host says makes it `draining` with that reason, for every server that has it. A host that is draining without a
reason is being removed: until that is done or given up, nobody else moves it.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from pool.errors import ConflictError, RunnerError, UnreachableError
from pool.states import HostStatus

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pool.host import Host
    from pool.lifecycle.context import Context

_REASON_MAX = 300
_SETTLED = (HostStatus.READY, HostStatus.DRAINING, HostStatus.UNREACHABLE, HostStatus.PROVISIONING)
#: How often the host is asked while its last jobs are waited for; an end that this server hears of wakes it at once.
_ASK_EVERY_S = 2.0


def drain(ctx: Context, name: str, *, by: str, reason: str) -> dict[str, Any]:
    """Have the host take no new jobs, for `by` and its `reason`; `{"changed", "jobs": how many are on it}`."""
    return _ask(ctx, name, "drain", by=by, reason=reason)


def undrain(ctx: Context, name: str) -> dict[str, Any]:
    """Have the host take jobs again, whoever drained it; as `drain`."""
    return _ask(ctx, name, "undrain")


def await_idle(ctx: Context, name: str, wait_s: float | None) -> Iterator[int]:
    """How many jobs are on the host, of any pool, again and again until there are none and this server has heard it.

    ConflictError after `wait_s` seconds. A host that is silent meanwhile is waited for like one with jobs.
    """
    host = ctx.store.hosts.named(name)
    deadline = time.monotonic() + (float("inf") if wait_s is None else wait_s)
    jobs = 1
    while True:
        seen = ctx.bell.count
        try:
            told = len(ctx.keeper.request(host.id, "standing")[0]["jobs"])
            jobs = max(told, len(ctx.store.runs.on_host(host.id)))
        except UnreachableError:
            jobs = max(jobs, 1)
        yield jobs
        if not jobs:
            return
        if time.monotonic() > deadline:
            many = "a job" if jobs == 1 else f"{jobs} jobs"
            raise ConflictError(
                f"{name} still has {many} after {wait_s:g} s; it stays drained", hint="pool runs --live"
            )
        ctx.bell.wait(seen, min(_ASK_EVERY_S, max(0.0, deadline - time.monotonic())))


def hear(ctx: Context, host: Host, told: dict[str, Any] | None) -> None:
    """Keep the host's word on its drain; one that is older than what it said before on this link is no news."""
    number, why = (int(told["number"]), _why(told)) if told else (0, None)
    with ctx.settling:
        known = ctx.drains.get(host.id)
        if known is None or known[0] <= number:
            ctx.drains[host.id] = (number, why)


def why(ctx: Context, host: Host) -> str | None:
    """Why the host takes no jobs, as it said itself; None for one that does."""
    return ctx.drains.get(host.id, (0, None))[1]


def settle(ctx: Context, host: Host, *, up: bool = False, kept: bool = False, provisioned: bool = False) -> None:
    """Let the host stand as it says, ready or draining.

    `up`: its link came up; `kept`: it is not removed after all; `provisioned`: it has all that it needs.
    """
    with ctx.settling:
        now = ctx.store.hosts.get(host.id)
        reason = why(ctx, host)
        removing = now.status == HostStatus.DRAINING and now.reason is None and not kept
        away = now.status == HostStatus.UNREACHABLE and not up
        unfinished = now.status == HostStatus.PROVISIONING and not provisioned
        if removing or away or unfinished or now.status not in _SETTLED:
            return
        to = HostStatus.DRAINING if reason else HostStatus.READY
        if now.status != to:
            ctx.store.hosts.move(host.id, to, reason)
        elif now.reason != reason:
            ctx.store.hosts.explain(host.id, reason)
    ctx.bell.ring()


def begin_removal(ctx: Context, host: Host) -> None:
    """No job is placed on the host from now on, whatever it says."""
    with ctx.settling:
        if host.status == HostStatus.READY:
            ctx.store.hosts.move(host.id, HostStatus.DRAINING)
        elif host.status == HostStatus.DRAINING:
            ctx.store.hosts.explain(host.id, None)


def _ask(ctx: Context, name: str, verb: str, **asked: Any) -> dict[str, Any]:
    host = ctx.store.hosts.named(name)
    if host.status not in (HostStatus.READY, HostStatus.DRAINING, HostStatus.UNREACHABLE):
        raise ConflictError(f"{name} is {host.status}: it gets no jobs", hint="pool ps")
    try:
        answer = ctx.keeper.request(host.id, verb, **asked)[0]
    except UnreachableError as error:
        raise UnreachableError(
            f"{name} does not answer: it gets no jobs until it does, and can be told then", hint="pool ps", host=name
        ) from error
    except RunnerError as error:
        if "unknown verb" not in error.message:
            raise
        raise RunnerError(
            f"{name}: its runner is too old for that", hint=f"pool add-ssh {host.user}@{host.address}, again", host=name
        ) from error
    hear(ctx, host, answer["drain"])
    settle(ctx, host)
    return {"changed": bool(answer["changed"]), "jobs": len(answer["jobs"])}


def _why(told: dict[str, Any]) -> str | None:
    """Why it takes no jobs, on one line that a terminal can show; a host is not trusted with more."""
    said = "; ".join(f"{drain['reason']} ({drain['by']})" for drain in told["by"])
    return "".join(c if c.isprintable() else "?" for c in said[:_REASON_MAX]) or None
