"""Stop: bring the jobs of a run to their end, because a person asked or because a peer has failed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pool.lifecycle import launch, watch
from pool.run import RunStatus
from pool.states import FINISHED, JobStatus

if TYPE_CHECKING:
    from pool.lifecycle.context import Context
    from pool.run import Job, Run

#: Only its host can tell whether such a job runs.
_MAY_RUN = (JobStatus.STARTING, JobStatus.RUNNING, JobStatus.STOPPING)


def ask(ctx: Context, name: str, *, abort: bool) -> Run:
    """Remember that the run shall stop; the loop does it. A finished run is left as it is. NotFoundError."""
    run = ctx.store.runs.named(name)
    if not run.finished:
        ctx.store.runs.ask_stop(run.id, "abort" if abort else "stop")
        ctx.bell.ring()
    return ctx.store.runs.get(run.id)


def stop(ctx: Context, run: Run, reason: str | None, *, abort: bool) -> None:
    """End every live job of the run; safe to repeat."""
    for job in run.jobs:
        if job.status == JobStatus.SUBMITTED:
            ctx.store.runs.move(job.id, JobStatus.STOPPED, reason=reason)
    if any(job.status == JobStatus.PLACED for job in run.jobs):
        launch.undo(ctx, run, JobStatus.STOPPED, reason or "stopped before it started")
    running = [job for job in run.jobs if job.status in _MAY_RUN]

    def one(job: Job) -> None:
        if reason and job.status != JobStatus.STOPPING:
            ctx.store.runs.move(job.id, JobStatus.STOPPING, reason=reason)
        watch.ask_to_stop(ctx, ctx.store.runs.job(job.id), abort=abort, grace_s=run.spec.stop_duration_s)

    if running:
        ctx.every(one, running)
    if ctx.store.runs.get(run.id).status == RunStatus.STOPPED:
        ctx.store.secrets.forget(run.id)
    ctx.bell.ring()


def why_to_stop(run: Run) -> tuple[str | None, bool] | None:
    """`(reason, abort)` when the run's live jobs have to end now; None when they may go on."""
    live = [job for job in run.jobs if job.status not in FINISHED]
    if not live:
        return None
    if run.stop_asked:
        return None, run.stop_asked == "abort"
    for job in run.jobs:
        if job.status in (JobStatus.FAILED, JobStatus.INTERRUPTED, JobStatus.STOPPED):
            return f"rank {job.rank} {job.status}", False
    if run.spec.stop_criteria == "master-done" and run.jobs[0].status == JobStatus.DONE:
        return "rank 0 is done", False
    return None
