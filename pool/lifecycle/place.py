"""Place: ask the scheduler for every run that waits, in one pass and in order, and keep its answers."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from pool.errors import ConflictError
from pool.lifecycle import retry, watch
from pool.offer import Placement
from pool.scheduler.sweep import sweep
from pool.states import JobStatus

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pool.lifecycle.context import Context
    from pool.run import Run

_log = logging.getLogger(__name__)


def place(ctx: Context, runs: Sequence[Run]) -> None:
    """Give hosts to each waiting run of `runs` that fits now. One thread at a time does this: the server's loop."""
    waiting = [run for run in runs if all(job.status == JobStatus.SUBMITTED for job in run.jobs)]
    if not waiting:
        return
    answers = sweep([(run.spec.request, run.spec.nodes) for run in waiting], ctx.store.hosts.views(ctx.foreign))
    for run, answer in zip(waiting, answers, strict=True):
        if isinstance(answer, Placement):
            try:
                ctx.store.runs.place(run.id, answer.offers)
            except ConflictError as error:
                _log.info("%s: %s", run.name, error)
            ctx.bell.ring()
        elif retry.waited_too_long(run, time.time()):
            for job in run.jobs:
                watch.end(ctx, job, JobStatus.FAILED, reason=f"no hosts in time: {answer.reason}")
            ctx.bell.ring()
