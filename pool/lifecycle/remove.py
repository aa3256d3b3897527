"""Remove: undo on a host what adding did, and forget it. The logs of its finished jobs are fetched first."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from pool.errors import ConflictError, PoolError, RunnerError, UnreachableError
from pool.lifecycle import drain, stop
from pool.lifecycle.assemble import known_hosts, target_of
from pool.lifecycle.keys import forget_unused
from pool.lifecycle.visit import log_path, look_around
from pool.provision.inventory import runner_variables
from pool.provision.playbook import run_playbook
from pool.provision.progress import StepEvent
from pool.provision.survey import left_out
from pool.runner.frames import MAX_BODY
from pool.states import HostStatus, JobStatus

if TYPE_CHECKING:
    from collections.abc import Callable

    from pool.host import Host
    from pool.lifecycle.context import Context
    from pool.run import Job

#: How long jobs that are killed for a removal by force may take to end.
_KILL_S = 10.0


def remove(ctx: Context, name: str, on_step: Callable[[StepEvent], None], *, force: bool) -> bool:
    """Take the host `name` out of the pool and everything of ours off it; False when it was only forgotten.

    ConflictError while a job is on it. A host that cannot be reached or undone stays listed (HostError), unless
    `force`: then it is forgotten as it is, its jobs with it.
    """
    host = ctx.store.hosts.named(name)
    if host.status in (HostStatus.NEW, HostStatus.PROVISIONING):
        raise ConflictError(f"{name} is being added right now", hint="pool ps")
    drain.begin_removal(ctx, host)  # first of all, so that no job is placed on it from now on
    live = ctx.store.runs.on_host(host.id)
    if live and not force:
        _take_back(ctx, host)
        runs = sorted({ctx.store.runs.get(job.run_id).name for job in live})
        jobs = "a job" if len(live) == 1 else f"{len(live)} jobs"
        raise ConflictError(f"{name} has {jobs} going on, of {', '.join(runs)}", hint=f"pool stop {' '.join(runs)}")
    if live:
        _kill(ctx, host, live)
    undone = True
    try:
        _fetch_logs(ctx, host)
        _undo(ctx, host, on_step)
    except PoolError as error:
        if not force:
            _take_back(ctx, host)
            raise type(error)(
                error.message, hint=f"{error.hint or 'pool ps'}; to forget it as it is: pool rm {name} --force"
            ) from error
        on_step(StepEvent(name, "undo what adding did", "failed", 0.0, str(error)))
        undone = False
    ctx.keeper.drop(host.id)
    for job in ctx.store.runs.on_host(host.id):
        ctx.store.runs.move(job.id, JobStatus.INTERRUPTED, reason=f"{name} was removed from the pool by force")
    ctx.store.hosts.move(host.id, HostStatus.REMOVED)
    forget_unused(ctx, [host])
    ctx.bell.ring()
    return undone


def _take_back(ctx: Context, host: Host) -> None:
    """It stays in the pool after all; should its link not come back, the link's keeper says so."""
    if ctx.store.hosts.get(host.id).status == HostStatus.DRAINING:
        drain.settle(ctx, host, kept=True)


def _kill(ctx: Context, host: Host, live: list[Job]) -> None:
    """End the runs of these jobs, so that nothing of them stays on the host; a host that is silent is left as it is."""
    for run_id in {job.run_id for job in live}:
        stop.ask(ctx, run_id, abort=True)
    deadline = time.monotonic() + _KILL_S
    while True:
        seen = ctx.bell.count
        if not ctx.store.runs.on_host(host.id) or not ctx.keeper.is_up(host.id) or time.monotonic() > deadline:
            return
        ctx.bell.wait(seen, 1.0)


def _fetch_logs(ctx: Context, host: Host) -> None:
    """Keep here what `pool logs` would have asked the host for."""
    if not ctx.keeper.is_up(host.id):
        if host.status in (HostStatus.READY, HostStatus.UNREACHABLE, HostStatus.DRAINING):
            why = f": {host.reason}" if host.reason else ""
            raise UnreachableError(f"{host.name} does not answer{why}", hint="pool ps", host=host.name)
        return
    folder = os.path.join(ctx.folder, "logs")
    os.makedirs(folder, mode=0o700, exist_ok=True)
    for job_id in ctx.store.runs.finished_on(host.id):
        temporary = os.path.join(folder, job_id + ".part")
        with open(temporary, "wb") as file:
            try:
                _fetch(ctx, host, job_id, file.write)
            except RunnerError as error:
                if error.details.get("cause") != "no_such_job":
                    raise
        os.rename(temporary, os.path.join(folder, job_id))


def _fetch(ctx: Context, host: Host, job_id: str, write: Callable[[bytes], object]) -> None:
    offset, size = 0, 1
    while offset < size:
        head, data = ctx.keeper.request(host.id, "read_log", job=job_id, offset=offset, max=MAX_BODY)
        size = int(head["size"])
        write(data)
        offset += len(data)


def _undo(ctx: Context, host: Host, on_step: Callable[[StepEvent], None]) -> None:
    seen = look_around(ctx, host)
    ctx.keeper.drop(host.id)
    outcome = run_playbook(
        "remove.yml",
        [target_of(host)],
        known_hosts=known_hosts(ctx),
        log=log_path(ctx, "rm"),
        variables={host.name: runner_variables(seen, zipapp="")},
        on_event=on_step,
        skip=left_out(seen),
    )[host.name]
    if outcome.error is not None:
        ctx.keeper.keep(host)
        raise outcome.error
