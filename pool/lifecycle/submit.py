"""Submit: a task file and what was typed become a plan, and on a yes a run that the loop takes from there."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pool import config
from pool.errors import BlockedError, NotFoundError
from pool.lifecycle import retry
from pool.lifecycle.names import run_name
from pool.offer import Blocked, Offer, Placement, Refusal
from pool.run import Job, Run, TaskSpec
from pool.scheduler import gang
from pool.states import JobStatus
from pool.task.compile import compile_task
from pool.task.load import load_task
from pool.task.needed import needed_env
from pool.task.options import RunOptions, apply_options
from pool.task.profiles import find_profile

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pool.lifecycle.context import Context


@dataclass(frozen=True, slots=True)
class Asked:
    """A `pool run` as typed: the file, the options and arguments after it, and the folder it is about."""

    text: bytes  #: of the task file
    source: str  #: its path, for messages
    folder: str  #: the caller's working folder
    options: RunOptions
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)  #: values of `needed`, from the caller's environment


@dataclass(frozen=True, slots=True)
class Plan:
    """What would happen: shown before anything is changed."""

    spec: TaskSpec
    answer: Placement | Blocked

    @property
    def offers(self) -> tuple[Offer, ...]:
        """The host of each rank, by rank; empty when blocked."""
        return self.answer.offers if isinstance(self.answer, Placement) else ()

    @property
    def refusals(self) -> tuple[Refusal, ...]:
        """Why the other hosts are not taken."""
        return self.answer.refusals


def needed(asked: Asked) -> list[str]:
    """The names whose values have to come from the caller's environment; nothing else leaves it."""
    return needed_env(load_task(asked.text, asked.source), asked.options)


def plan(ctx: Context, asked: Asked) -> Plan:
    """What the run would get now. InputError and TaskError for what is wrong with the file or the options."""
    spec = _compile(asked)
    return Plan(spec, gang.place(spec.request, spec.nodes, ctx.store.hosts.views(ctx.foreign)))


def submit(ctx: Context, asked: Asked, *, run_id: str, user: str, code: str | None, repo_id: str) -> Run:
    """Keep the run; the loop does the rest. The same `run_id` again gives the same run.

    BlockedError when no host could ever take it as things stand; ConflictError when a live run has its name.
    """
    with contextlib.suppress(NotFoundError):
        return ctx.store.runs.get(run_id)
    planned = plan(ctx, asked)
    if isinstance(planned.answer, Blocked) and not planned.answer.waits and not retry.waits_for_hosts(planned.spec):
        raise BlockedError(planned.answer.reason, hint=planned.answer.suggestion or "pool ps")
    spec = planned.spec
    name = spec.name or run_name(ctx.store.runs.names())
    jobs = tuple(Job(f"{run_id}-{rank}-1", run_id, rank, 1, JobStatus.SUBMITTED) for rank in range(spec.nodes))
    run = Run(run_id, name, user, spec, time.time(), asked.folder, code, repo_id, jobs=jobs)
    ctx.store.secrets.keep(run_id, spec)
    try:
        kept = ctx.store.runs.add(run)
    except BaseException:
        ctx.store.secrets.forget(run_id)
        raise
    ctx.bell.ring()
    return kept


def _compile(asked: Asked) -> TaskSpec:
    task = load_task(asked.text, asked.source)
    profile = find_profile(asked.folder, asked.options.profile)
    return compile_task(apply_options(task, asked.options, profile), asked.args, asked.env, config.default_image())
