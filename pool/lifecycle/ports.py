"""The ports of a running job: which may be reached, whether the job listens there yet, and the way to one.

Only the run's owner comes to them, and only to ports that the task declares or that its owner names when attaching
(`attached`). The host has the last word: it connects to what the job itself listens on and to nothing else.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from pool.errors import ConflictError, InputError, RunnerError, UnreachableError
from pool.lifecycle.streams import job_of, open_in, own_run, running_job
from pool.task.options import merged_ports

if TYPE_CHECKING:
    from pool.lifecycle.context import Context
    from pool.run import Port, Run
    from pool.runner.streams import Stream
    from pool.task.options import RunOptions

_WAIT_MAX_S = 30.0
#: The host itself waits for the job to listen, so long at once.
_HOST_WAIT_S = 10.0
_PAUSE_S = 1.0


def forwarded(ctx: Context, user: str, name: str, rank: int, options: RunOptions) -> tuple[Port, ...]:
    """What to forward of that rank: what the task declares, and what the options add or put in its place."""
    run = own_run(ctx, user, name)
    job_of(run, rank)
    return merged_ports(run.spec.ports, options)


def standing(ctx: Context, user: str, head: dict[str, Any]) -> dict[str, Any]:
    """How a port stands: `state`, and `host` where the job has one. Waits up to `wait_s` for it to change.

    `waits`: it does not listen yet, or its host is not reached. `listens`. `taken`: another program of its host has the
    port. `ended`: the job has.
    """
    deadline = time.monotonic() + min(float(head.get("wait_s") or 0), _WAIT_MAX_S)
    while True:
        seen = ctx.bell.count
        found = _look(ctx, user, head, deadline - time.monotonic())
        left = deadline - time.monotonic()
        if found["state"] != "waits" or left <= 0:
            return found
        ctx.bell.wait(seen, min(left, _PAUSE_S))


def open_port(ctx: Context, user: str, head: dict[str, Any]) -> tuple[dict[str, Any], Stream]:
    """A connection to the port. ConflictError, RunnerError and UnreachableError say by their cause whether to wait."""
    run = own_run(ctx, user, str(head["run"]))
    return open_in(ctx, run, head, "port", port=_allowed(run, head))


def _look(ctx: Context, user: str, head: dict[str, Any], wait_s: float) -> dict[str, Any]:
    run = own_run(ctx, user, str(head["run"]))
    port = _allowed(run, head)
    try:
        job = running_job(run, int(head.get("rank") or 0))
    except ConflictError as error:
        return {"state": error.details["cause"], "host": None}
    wait_s = max(0.0, min(wait_s, _HOST_WAIT_S))
    found = {"state": "waits", "host": job.host_name}
    try:
        answer, _ = ctx.keeper.request(
            str(job.host_id), "port", job=job.id, port=port, wait_s=wait_s, timeout=wait_s + _WAIT_MAX_S
        )
    except (UnreachableError, RunnerError):  # it is reached again, or what has become of the job is known soon
        return found
    if answer["listens"] or answer["taken"]:
        found["state"] = "listens" if answer["listens"] else "taken"
    return found


def _allowed(run: Run, head: dict[str, Any]) -> int:
    """The port that is asked for, declared or named; InputError for any other."""
    port = int(head["port"])
    if not head.get("attached") and port not in {each.container for each in run.spec.ports}:
        raise InputError(f"{run.name} declares no port {port}", hint=f"pool attach {run.name} -p {port}")
    return port
