"""Retry: whether a run that has ended badly is tried again, and whether one that no host fits may wait for one.

Pure. All ranks are tried again together; a run that a person stopped never is.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from pool.run import Job, RunStatus
from pool.states import JobStatus

if TYPE_CHECKING:
    from pool.run import Run, TaskSpec

#: The event of `retry.on_events` behind each bad end.
_EVENTS = {RunStatus.FAILED: "error", RunStatus.INTERRUPTED: "interruption"}
#: Attempts are capped: a task that fails at once must not spin for an hour.
ATTEMPTS_MAX = 20


def attempts_after(run: Run) -> list[Job]:
    """The next attempt of every rank when the run has ended in a way its task wants tried again; else nothing."""
    retry = run.spec.retry
    if retry is None or not run.finished or run.stop_asked or _too_late(run, time.time()):
        return []
    if _EVENTS.get(run.status) not in retry.on_events or run.jobs[0].attempt >= ATTEMPTS_MAX:
        return []
    return [
        Job(f"{run.id}-{job.rank}-{job.attempt + 1}", run.id, job.rank, job.attempt + 1, JobStatus.SUBMITTED)
        for job in run.jobs
    ]


def waits_for_hosts(spec: TaskSpec) -> bool:
    """True when a run that no host fits is kept until one does: `retry` on no-capacity."""
    return spec.retry is not None and "no-capacity" in spec.retry.on_events


def waited_too_long(run: Run, now: float) -> bool:
    """True when such a run has waited for as long as its task allows."""
    return waits_for_hosts(run.spec) and _too_late(run, now)


def _too_late(run: Run, now: float) -> bool:
    retry = run.spec.retry
    return retry is not None and retry.duration_s is not None and now - run.submitted_at > retry.duration_s
