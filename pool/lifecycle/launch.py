"""Launch: from a placement to processes, all ranks or none.

    placed:    reserve on every host ─▶ have the image on all ─▶ send the code where it is missing ─▶ prepare every host
                  └─ refused or silent: undo everywhere; the run waits for another placement
    starting:  start every rank
                  └─ refused: that rank failed; silent: it may run, so its host is asked until it tells

Until all ranks are moved to `starting`, in one transaction, nothing runs and everything can be undone. Every step is
safe to repeat: a launch that was cut off (kill -9 of the server, a lost link) is simply done again.
"""

from __future__ import annotations

import contextlib
import shlex
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pool.errors import ConflictError, FencedError, HostError, PoolError, RunError, RunnerError, UnreachableError
from pool.lifecycle import image, watch
from pool.lifecycle.code import Sending
from pool.lifecycle.environment import mpi_hosts, pool_env
from pool.states import JobStatus

if TYPE_CHECKING:
    from pool.host import Host
    from pool.lifecycle.context import Context
    from pool.run import Job, Run, TaskSpec

#: A reservation that is not prepared within this time frees itself on the host.
_RESERVE_TTL_S = 60.0
#: While a folder is sent reservations are renewed so often, and a stop is noticed.
_RENEW_S = 3.0
#: A large folder takes a while to be made.
_PREPARE_S = 300.0
#: Causes of a refusal that another placement may not meet.
_ELSEWHERE = {"no_upload", "busy", "no_such_gpu", "not_reserved", "draining"}


@dataclass(slots=True)
class _Rank:
    """One rank on its way."""

    job: Job
    has_code: bool = False
    port: int = 0
    image: str | None = None  #: the id of the container image, once the host has it


class _GivenUpError(PoolError):
    """The run was asked to stop while it was being launched."""


def launch(ctx: Context, run: Run) -> None:
    """Bring every job of `run` that has a host to running. Never raises: what goes wrong becomes the jobs' state."""
    placed = [job for job in run.jobs if job.status == JobStatus.PLACED]
    if not placed or _make_ready(ctx, run, placed):
        _forget_login(ctx, run)
        _start(ctx, ctx.store.runs.get(run.id))
    ctx.bell.ring()


def _make_ready(ctx: Context, run: Run, placed: list[Job]) -> bool:
    """Everything but the start, on all hosts; False when it had to be undone."""
    ranks = [_Rank(job) for job in placed]
    try:
        spec = ctx.store.secrets.read(run.id)
        hosts = [ctx.store.hosts.get(str(job.host_id)) for job in run.jobs]
        _each(ctx, ranks, lambda rank: _reserve(ctx, run, rank))
        if spec.request.runtime == "docker":
            _have_image(ctx, run, spec, ranks, hosts)
        _send_code(ctx, run, ranks, hosts)
        _each(ctx, ranks, lambda rank: _prepare(ctx, run, spec, hosts, rank, ranks[0].port))
        _check_not_stopped(ctx, run)
    except FencedError:
        raise  # a newer server decides now
    except _GivenUpError:
        undo(ctx, run, JobStatus.STOPPED, "stopped before it started")
    except (UnreachableError, ConflictError) as error:
        undo(ctx, run, JobStatus.SUBMITTED, str(error))
    except PoolError as error:
        elsewhere = error.details.get("cause") in _ELSEWHERE
        undo(ctx, run, *((JobStatus.SUBMITTED, str(error)) if elsewhere else (JobStatus.FAILED, error.line())))
    else:
        ctx.store.runs.move_all([job.id for job in placed], JobStatus.STARTING, reason=None)
        return True
    return False


def undo(ctx: Context, run: Run, to: JobStatus, reason: str) -> None:
    """Give back what a launch that did not come to its end has taken on the hosts, and move the jobs to `to`."""
    placed = [job for job in ctx.store.runs.get(run.id).jobs if job.status == JobStatus.PLACED]

    def release(job: Job) -> None:
        # A host that is silent frees what was not started by itself, after its time to live.
        with contextlib.suppress(HostError):
            ctx.keeper.request(str(job.host_id), "release", job=job.id)

    ctx.every(release, placed)
    # All at once: a run of which some ranks wait and some are placed would never be placed again.
    ctx.store.runs.move_all([job.id for job in placed], to, reason=reason)
    if ctx.store.runs.get(run.id).finished:
        ctx.store.secrets.forget(run.id)
    ctx.bell.ring()


def _each(ctx: Context, ranks: list[_Rank], step: Any) -> None:
    """One step on all ranks at once; the worst thing that happened on any of them is raised."""
    _raise_worst(ctx.every(step, ranks))


def _raise_worst(outcomes: list[Any]) -> None:
    errors = [outcome for outcome in outcomes if isinstance(outcome, Exception)]
    errors.sort(key=lambda error: isinstance(error, UnreachableError))
    if errors:
        raise errors[0]


def _reserve(ctx: Context, run: Run, rank: _Rank) -> None:
    job = rank.job
    try:
        answer, _ = ctx.keeper.request(
            str(job.host_id),
            "reserve",
            job=job.id,
            gpus=list(job.gpus),
            ttl_s=_RESERVE_TTL_S,
            code=run.code,
            port=job.rank == 0,
        )
    except RunnerError as error:
        watch.add_foreign(ctx, str(job.host_id), error.details.get("gpus") or ())
        raise
    rank.has_code, rank.port = bool(answer["has_code"]), int(answer["port"] or 0)


def _have_image(ctx: Context, run: Run, spec: TaskSpec, ranks: list[_Rank], hosts: list[Host]) -> None:
    """Until every host has the image; meanwhile the reservations are renewed, and the plan's reader told how far it is.

    What its name means is settled by the first rank's host, once for all ranks and attempts of the run. The login goes
    along each time: the host keeps it for no longer than the pull takes.
    """
    pinned = run.spec.pinned[0] if run.spec.pinned else ""  # where it was each host's own, it may be other hosts now
    wanted = image.Wanted(str(spec.image), spec.registry_auth, pinned or None)
    if not pinned:
        wanted = _ask_for_image(ctx, wanted, ranks[0], hosts, image.WAIT_S if len(ranks) == 1 else 0.0)
        if wanted.pinned is not None:
            ctx.store.runs.pin(run.id, wanted.pinned, wanted.said)
        if wanted.said:
            _note(ctx, ranks[0], f"image {wanted.name}: {wanted.said}")
    while True:
        _each(ctx, ranks, lambda rank: _ask_for_image(ctx, wanted, rank, hosts))
        if all(rank.image for rank in ranks):
            return
        _check_not_stopped(ctx, run)
        _each(ctx, ranks, lambda rank: _reserve(ctx, run, rank))


def _ask_for_image(
    ctx: Context, wanted: image.Wanted, rank: _Rank, hosts: list[Host], wait_s: float = image.WAIT_S
) -> image.Wanted:
    """Ask the rank's host, unless it has it; what the image is settled as."""
    if rank.image is None:
        wanted, rank.image, progress = image.ask(ctx, hosts[rank.job.rank], wanted, wait_s, rank.job.id)
        if progress and not rank.image:
            _note(ctx, rank, progress)
    return wanted


def _note(ctx: Context, rank: _Rank, text: str) -> None:
    ctx.store.runs.note(rank.job.id, text[:200])
    ctx.bell.ring()


def _forget_login(ctx: Context, run: Run) -> None:
    """The login goes from the disk with the pull, unless another attempt may have to pull elsewhere."""
    if run.spec.image and not run.spec.retry:
        with contextlib.suppress(RunError, OSError):  # nothing that a start needs
            spec = ctx.store.secrets.read(run.id)
            if spec.registry_auth:
                ctx.store.secrets.keep(run.id, replace(spec, registry_auth=None))


def _send_code(ctx: Context, run: Run, ranks: list[_Rank], hosts: list[Host]) -> None:
    """Until every host has the folder; meanwhile the reservations are renewed, and the plan's reader told how far."""
    left = [(_sending(ctx, run, rank, hosts), rank) for rank in ranks if run.code and not rank.has_code]
    while left:
        outcomes = ctx.every(lambda each: each[0].go_on(_RENEW_S), left)
        _raise_worst(outcomes)
        left = [each for each, done in zip(left, outcomes, strict=True) if not done]
        if left:
            _check_not_stopped(ctx, run)
            _each(ctx, ranks, lambda rank: _reserve(ctx, run, rank))


def _sending(ctx: Context, run: Run, rank: _Rank, hosts: list[Host]) -> Sending:
    return Sending(ctx, hosts[rank.job.rank], str(run.code), lambda text: _note(ctx, rank, text))


def _prepare(ctx: Context, run: Run, spec: TaskSpec, hosts: list[Host], rank: _Rank, master_port: int) -> None:
    cpus, memory = spec.request.cpus, spec.request.memory_mib
    task = {
        "script": spec.script or ("" if rank.image else shlex.join(spec.entrypoint or ())),
        "shell": spec.shell,
        "working_dir": spec.working_dir,
        "code": run.code,
        "env": spec.env,
        "pool_env": pool_env(run, rank.job, hosts, master_port),
        "hosts_file": mpi_hosts(run, hosts),
        "max_duration_s": spec.max_duration_s,
        "inactivity_s": spec.inactivity_s,
        "stop_duration_s": spec.stop_duration_s,
        "limits": {
            "cpus": rank.job.cpus,
            "cpus_max": cpus.max if cpus else None,
            "memory_max_mib": memory.max if memory else None,
        },
        "container": _container(spec, rank) if rank.image else None,
    }
    ask: dict[str, Any] = {"job": rank.job.id, "task": task}
    try:
        ctx.keeper.request(str(rank.job.host_id), "prepare", timeout=_PREPARE_S, **ask)
    except RunnerError as error:
        if error.details.get("cause") != "no_code":
            raise
        # It has gone from there since it was asked for: a power cut, say, or somebody has deleted it.
        _send_code(ctx, run, [replace(rank, has_code=False)], hosts)
        ctx.keeper.request(str(rank.job.host_id), "prepare", timeout=_PREPARE_S, **ask)


def _container(spec: TaskSpec, rank: _Rank) -> dict[str, Any]:
    """What of the task is about its container. Ranks of several nodes meet on their hosts' own network."""
    return {
        "image": spec.image,
        "id": rank.image,
        "argv": list(spec.entrypoint or ()),
        "attempt": rank.job.attempt,
        "user": spec.user,
        "home": spec.home_dir,
        "network": "host" if spec.nodes > 1 else "bridge",
        "shm_mib": spec.shm_mib,
        "volumes": list(spec.volumes),
        "privileged": spec.privileged,
        "docker": spec.docker,
    }


def _start(ctx: Context, run: Run) -> None:
    """Start what is `starting`. `master-first` and `workers-first` wait for the one side before the other."""
    jobs = [job for job in run.jobs if job.status == JobStatus.STARTING]
    master, workers = [job for job in jobs if job.rank == 0], [job for job in jobs if job.rank > 0]
    waves = {"master-first": [master, workers], "workers-first": [workers, master]}
    for wave in waves.get(run.spec.startup_order, [jobs]):
        if wave:
            ctx.every(lambda job: _start_one(ctx, job), wave)


def _start_one(ctx: Context, job: Job) -> None:
    try:
        status, _ = ctx.keeper.request(str(job.host_id), "start", job=job.id)
    except UnreachableError:
        return  # not known whether it started: watch.reconcile asks once the host is back
    except HostError as error:
        watch.end(ctx, job, JobStatus.FAILED, reason=str(error))
        return
    watch.observe(ctx, job.id, status)


def _check_not_stopped(ctx: Context, run: Run) -> None:
    if ctx.store.runs.get(run.id).stop_asked:
        raise _GivenUpError
