"""Place: ask the scheduler for every run that waits, in order, and keep its answer."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from pool.errors import ConflictError
from pool.offer import Placement
from pool.scheduler import gang
from pool.states import JobStatus

if TYPE_CHECKING:
    from pool.lifecycle.context import Context
    from pool.run import Run

_log = logging.getLogger(__name__)


def place(ctx: Context, waiting: list[Run]) -> None:
    """Give hosts to each run of `waiting` that fits now. One thread at a time does this: the server's loop."""
    for run in waiting:
        if any(job.status != JobStatus.SUBMITTED for job in run.jobs):
            continue
        answer = gang.place(run.spec.request, run.spec.nodes, ctx.store.hosts.views(ctx.foreign))
        if isinstance(answer, Placement):
            try:
                ctx.store.runs.place(run.id, answer.offers)
            except ConflictError as error:
                _log.info("%s: %s", run.name, error)
            ctx.bell.ring()
