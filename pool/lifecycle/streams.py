"""Streams into a running job: found by run and rank, for its owner alone, over the link that its host has anyway."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pool.errors import ConflictError, NotFoundError, OwnerError
from pool.states import FINISHED, JobStatus

if TYPE_CHECKING:
    from pool.lifecycle.context import Context
    from pool.run import Job, Run
    from pool.runner.streams import Stream

_SUPERUSER = "root"


def own_run(ctx: Context, user: str, name: str) -> Run:
    """The run, for the user who submitted it and for root; OwnerError for all others."""
    run = ctx.store.runs.named(name)
    if user not in (run.user, _SUPERUSER):
        raise OwnerError(f"{run.name} is {run.user}'s", hint=f"ask {run.user}; pool logs {run.name}")
    return run


def job_of(run: Run, rank: int) -> Job:
    """The job of `rank`, however it stands; NotFoundError."""
    if not 0 <= rank < len(run.jobs):
        raise NotFoundError(f"{run.name} has no rank {rank}: it has {len(run.jobs)}", hint="--rank 0")
    return run.jobs[rank]


def running_job(run: Run, rank: int) -> Job:
    """The job of `rank`, running. NotFoundError, or ConflictError with a `cause`: `waits` before, `ended` after."""
    job = job_of(run, rank)
    what = run.name if len(run.jobs) == 1 else f"rank {rank} of {run.name}"
    if job.status in FINISHED:
        raise ConflictError(f"{what} has ended: {job.status}", hint=f"pool logs {run.name}", cause="ended")
    if job.status not in (JobStatus.RUNNING, JobStatus.STOPPING) or job.host_id is None:
        why = f": {job.reason}" if job.reason else ""
        raise ConflictError(f"{what} is {job.status}{why}", hint=f"pool attach {run.name}", cause="waits")
    return job


def open_copy(ctx: Context, user: str, head: dict[str, Any], verb: str, **more: Any) -> tuple[dict[str, Any], Stream]:
    """Likewise, in a job that runs or has ended: its folder is on its host until that is removed."""
    run = own_run(ctx, user, str(head["run"]))
    rank = int(head.get("rank") or 0)
    job = run.jobs[rank] if 0 <= rank < len(run.jobs) and run.jobs[rank].status in FINISHED else running_job(run, rank)
    if job.host_id is None:
        raise NotFoundError(f"{run.name} has never started: there is no folder of it", hint=f"pool runs {run.name}")
    return ctx.keeper.open(str(job.host_id), verb, job=job.id, **more)


def open_stream(ctx: Context, user: str, head: dict[str, Any], verb: str, **more: Any) -> tuple[dict[str, Any], Stream]:
    """Open `verb` in the job that `head["run"]` and `head["rank"]` name; HostError as the host says."""
    return open_in(ctx, own_run(ctx, user, str(head["run"])), head, verb, **more)


def open_in(ctx: Context, run: Run, head: dict[str, Any], verb: str, **more: Any) -> tuple[dict[str, Any], Stream]:
    """The same for a run that is known to be the user's."""
    job = running_job(run, int(head.get("rank") or 0))
    return ctx.keeper.open(str(job.host_id), verb, job=job.id, **more)
