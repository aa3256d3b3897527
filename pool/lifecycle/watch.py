"""Watch: what hosts say about their jobs becomes the jobs' state. The host's files are the truth; this only reads them.

A host says it twice: by events as things happen, and by its whole list whenever its link comes up (`reconcile`), so
nothing depends on an event having arrived.
"""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING, Any

from pool.errors import ConflictError, HostError, NotFoundError, RunnerError, UnreachableError
from pool.host import facts_from_json
from pool.lifecycle import drain
from pool.lifecycle.retry import attempts_after
from pool.states import FINISHED, HostStatus, JobStatus

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pool.host import Host
    from pool.lifecycle.context import Context
    from pool.run import Job
    from pool.ssh.link import Link

_log = logging.getLogger(__name__)

#: The host's word for an end without an exit code of the job's own, in words for people.
_CAUSES = {
    "host_reboot": "the host rebooted",
    "supervisor_lost": "its supervisor was killed; the exit code is not known",
    "max_duration": "it ran longer than max_duration",
    "inactivity": "nobody was connected to it for longer than inactivity_duration",
    "out_of_memory": "it ran out of memory: the kernel killed a process of it, at the limit that the task's"
    " resources.memory sets or because the host had none left",
    "runtime_restart": "the host's Docker engine was restarted, and its container with it",
    "shim_lost": "the process that held its container (containerd-shim) was killed; the exit code is not known",
    "container_removed": "somebody removed its container on the host",
}


def host_up(ctx: Context, host: Host, link: Link) -> None:
    """A link is open: take the host's facts and jobs, then let it have work again, unless it is drained.

    A host that is being provisioned has to show first that a job runs on it: lifecycle/provision lets it have work.
    HostError when it talks nonsense.
    """
    ctx.drains.pop(host.id, None)
    try:
        facts = link.request("facts")[0]
        ctx.store.hosts.set_facts(host.id, facts_from_json(facts))
        drain.hear(ctx, host, facts.get("drain"))
    except (KeyError, TypeError, ValueError) as error:
        raise RunnerError(f"{host.name} reported facts that make no sense: {error}") from error
    reconcile(ctx, host, link)
    drain.settle(ctx, host, up=True)


def host_down(ctx: Context, host: Host, reason: str) -> None:
    """No link: the host gets no new work, its jobs show as `running?`, nothing is decided about them."""
    with ctx.settling:
        known = ctx.store.hosts.get(host.id)
        stood = known.status == HostStatus.READY or (known.status == HostStatus.DRAINING and known.reason)
        if stood:
            ctx.store.hosts.move(host.id, HostStatus.UNREACHABLE, reason)
    if stood:
        ctx.bell.ring()


def host_event(ctx: Context, host: Host, head: dict[str, Any]) -> None:
    """One event from a host."""
    if head.get("event") == "job":
        _observe_known(ctx, host, head)
    elif head.get("event") == "ledger":
        _take_ledger(ctx, host, head["held"])
    elif head.get("event") == "drain":
        drain.hear(ctx, host, head["drain"])
        drain.settle(ctx, host)


def reconcile(ctx: Context, host: Host, link: Link) -> None:
    """Compare what should be on the host with what is, by job id."""
    answer = link.request("jobs")[0]
    _take_ledger(ctx, host, answer["held"])
    there = {status["job"]: status for status in answer["jobs"]}
    for job in ctx.store.runs.on_host(host.id):
        status = there.get(job.id)
        if status is not None and status["state"] != "prepared":
            observe(ctx, job.id, status)
        elif job.status == JobStatus.RUNNING or (job.status == JobStatus.STOPPING and status is None):
            end(ctx, job, JobStatus.INTERRUPTED, reason="the host no longer knows the job")
    _undo_strays(ctx, host, link, {job: {"state": "prepared"} for job in answer["ledger"]} | there)


def observe(ctx: Context, job_id: str, status: dict[str, Any], *, host_id: str | None = None) -> None:
    """Take a job's status as its host told it: `{"state", "started_at", "exit"}`; of `host_id`'s own jobs only."""
    job = ctx.store.runs.job(job_id)
    if job.status in FINISHED or host_id not in (None, job.host_id):
        return
    if status["state"] == "running" and job.status == JobStatus.STARTING:
        _move(ctx, job, JobStatus.RUNNING, started_at=status["started_at"])
        ctx.bell.ring()
    if status["state"] == "exited":
        _ended(ctx, job, status)


def ask_to_stop(ctx: Context, job: Job, *, abort: bool, grace_s: float = 30.0) -> None:
    """Ask the host to end a started job; a host that is silent is asked again once its link is up."""
    if job.status != JobStatus.STOPPING:
        _move(ctx, job, JobStatus.STOPPING)
        ctx.bell.ring()
    try:
        status, _ = ctx.keeper.request(str(job.host_id), "stop", job=job.id, abort=abort, grace_s=grace_s)
    except UnreachableError:
        return
    except RunnerError as error:
        if error.details.get("cause") == "no_such_job":
            end(ctx, job, JobStatus.STOPPED, reason="the host no longer knows the job")
        return
    observe(ctx, job.id, status)


def end(ctx: Context, job: Job, to: JobStatus, **changes: Any) -> None:
    """Move a job to its end. What a run needed to start is forgotten with its last job."""
    _move(ctx, job, to, then=attempts_after, **changes)
    if ctx.store.runs.get(job.run_id).finished:
        ctx.store.secrets.forget(job.run_id)
    ctx.bell.ring()


def add_foreign(ctx: Context, host_id: str, gpus: Iterable[str]) -> None:
    """A host has refused these GPUs: another job has them, until the host says otherwise."""
    ctx.foreign[host_id] = ctx.foreign.get(host_id, frozenset()) | frozenset(gpus)


def _take_ledger(ctx: Context, host: Host, held: dict[str, str]) -> None:
    """Which job has which GPU, as the host says: one of a job that is not ours, or no longer, is not ours to give.

    Other pools' jobs have no name here.
    """
    mine = {job.id for job in ctx.store.runs.on_host(host.id)}
    foreign = frozenset(gpu for gpu, job in held.items() if job not in mine)
    if ctx.foreign.get(host.id, frozenset()) != foreign:
        ctx.foreign[host.id] = foreign
        ctx.bell.ring()


def _observe_known(ctx: Context, host: Host, head: dict[str, Any]) -> None:
    if head.get("state") in ("running", "exited"):
        with contextlib.suppress(NotFoundError):
            observe(ctx, str(head.get("job")), head, host_id=host.id)


def _ended(ctx: Context, job: Job, status: dict[str, Any]) -> None:
    ended = status["exit"]
    reason, code = ended.get("reason"), ended.get("exit_code")
    if job.status == JobStatus.STOPPING or reason in ("stopped", "aborted"):
        to, why = JobStatus.STOPPED, job.reason
    elif reason == "inactivity":  # what the task asked for is no failure
        to, why = JobStatus.STOPPED, _CAUSES[reason]
    elif reason == "host_reboot":
        to, why = JobStatus.INTERRUPTED, _CAUSES[reason]
    elif reason is None and code == 0:
        to, why = JobStatus.DONE, None
    else:
        to, why = JobStatus.FAILED, _CAUSES.get(reason, reason)
    if job.status == JobStatus.STARTING and to in (JobStatus.DONE, JobStatus.FAILED):
        _move(ctx, job, JobStatus.RUNNING, started_at=status["started_at"])
    elif to == JobStatus.STOPPED and job.status != JobStatus.STOPPING:
        _move(ctx, job, JobStatus.STOPPING)
    end(
        ctx,
        job,
        to,
        reason=why,
        exit_code=code,
        started_at=status["started_at"],
        finished_at=ended.get("at"),
        log_bytes=ended.get("log_bytes"),
        log_sha256=ended.get("log_sha256"),
    )


def _move(ctx: Context, job: Job, to: JobStatus, **changes: Any) -> None:
    """Move; an event and the answer to a request may tell the same thing at once, and the second finds it done."""
    try:
        ctx.store.runs.move(job.id, to, **changes)
    except ConflictError as error:
        _log.debug("%s", error)


def _undo_strays(ctx: Context, host: Host, link: Link, there: dict[str, dict[str, Any]]) -> None:
    """Jobs of this pool on the host that the store has ended or placed elsewhere; unknown ones are left alone."""
    for job_id, status in there.items():
        if status["state"] == "exited":
            continue
        try:
            job = ctx.store.runs.job(job_id)
        except Exception:
            _log.warning("job %s on %s is not in the store; it is left alone", job_id, link.target.name)
            continue
        verb = "release" if status["state"] == "prepared" else "stop"
        if job.status in FINISHED or job.host_id != host.id:
            try:
                link.request(verb, job=job_id, abort=True)
            except HostError as error:
                _log.warning("%s", error)
