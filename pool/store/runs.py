"""Runs and their jobs in the store: kept, found, placed, moved. Returns `pool.run.Run` and `Job`, never rows."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter
from sqlalchemy import Engine, Select, and_, func, insert, not_, or_, select, update
from sqlalchemy.exc import IntegrityError

from pool.errors import ConflictError, NotFoundError
from pool.run import Job, Run, TaskSpec
from pool.states import FINISHED, HostStatus, JobStatus
from pool.store import moves
from pool.store.database import writing
from pool.store.tables import allocations, hosts, jobs, runs

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from sqlalchemy import Connection

    from pool.offer import Offer

_LIVE = jobs.c.status.not_in([str(status) for status in FINISHED])


class Runs:
    """The runs of one pool server."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def add(self, run: Run) -> Run:
        """Keep a new run with its jobs; the same id again changes nothing. ConflictError when its name is in use."""
        with writing(self._engine) as connection:
            if connection.scalar(select(runs.c.id).where(runs.c.id == run.id)) is None:
                taken = select(runs.c.id).join(jobs).where(runs.c.name == run.name, _LIVE)
                if connection.scalar(taken) is not None:
                    raise ConflictError(f"a run named {run.name} is going on", hint=f"pool stop {run.name}")
                connection.execute(insert(runs).values(_run_row(run)))
                connection.execute(insert(jobs), [_job_row(job) for job in run.jobs])
        return self.get(run.id)

    def get(self, run_id: str) -> Run:
        """The run with this id; NotFoundError."""
        return self._found(select(runs).where(runs.c.id == run_id), run_id)

    def named(self, name: str) -> Run:
        """The newest run with this name, or the one with this id; NotFoundError."""
        query = select(runs).where(or_(runs.c.name == name, runs.c.id == name)).order_by(runs.c.submitted_at.desc())
        return self._found(query.limit(1), name)

    def all(self, limit: int = 1000) -> list[Run]:
        """The newest runs, newest first."""
        return self._select(select(runs).order_by(runs.c.submitted_at.desc()).limit(limit))

    def names(self) -> set[str]:
        """The names of all runs there ever were."""
        with self._engine.connect() as connection:
            return set(connection.scalars(select(runs.c.name)))

    def live(self) -> list[Run]:
        """Every run that still needs something, by priority and then age."""
        found = self._select(select(runs).where(runs.c.id.in_(select(jobs.c.run_id).where(_LIVE))))
        return sorted(found, key=lambda run: (-run.spec.priority, run.submitted_at))

    def place(self, run_id: str, offers: Sequence[Offer]) -> None:
        """Give every submitted job of the run its host and GPUs, all or none; ConflictError when one is taken."""
        try:
            with writing(self._engine) as connection:
                rows = connection.execute(select(jobs.c.id, jobs.c.rank).where(jobs.c.run_id == run_id, _LIVE))
                for job_id, rank in list(rows):
                    _claim(connection, job_id, offers[rank])
        except IntegrityError as error:
            raise ConflictError("a GPU of that placement was given to another job") from error

    def move(
        self, job_id: str, to: JobStatus, *, then: Callable[[Run], Sequence[Job]] | None = None, **changes: Any
    ) -> None:
        """Move a job along `states.JOB_MOVES`; its GPUs are released with the move that ends or unplaces it.

        `then` sees the run as it is after the move; the jobs it returns, next attempts, are added with it: nobody
        ever sees the run ended in between.
        """
        with writing(self._engine) as connection:
            _move(connection, job_id, to, changes)
            if then is not None:
                of_job = select(runs).where(
                    runs.c.id == select(jobs.c.run_id).where(jobs.c.id == job_id).scalar_subquery()
                )
                for again in then(_select(connection, of_job)[0]):
                    connection.execute(insert(jobs).values(_job_row(again)))

    def move_all(self, job_ids: Sequence[str], to: JobStatus, **changes: Any) -> None:
        """Move several jobs as `move` does, all or none."""
        with writing(self._engine) as connection:
            for job_id in job_ids:
                _move(connection, job_id, to, changes)

    def note(self, job_id: str, text: str) -> None:
        """What a placed job waits for, in words; its next move replaces them."""
        with writing(self._engine) as connection:
            placed = update(jobs).where(jobs.c.id == job_id, jobs.c.status == str(JobStatus.PLACED))
            connection.execute(placed.values(reason=text))

    def pin(self, run_id: str, pinned: str, said: str) -> None:
        """Remember which image the run's name for it means, for all of its ranks and attempts."""
        with writing(self._engine) as connection:
            spec = connection.scalar(select(runs.c.spec).where(runs.c.id == run_id))
            changed = update(runs).where(runs.c.id == run_id)
            connection.execute(changed.values(spec={**(spec or {}), "pinned": [pinned, said]}))

    def ask_stop(self, run_id: str, how: str) -> None:
        """Remember that a stop was asked for: `stop` or `abort`; an abort is never weakened to a stop."""
        with writing(self._engine) as connection:
            asked = update(runs).where(runs.c.id == run_id, func.coalesce(runs.c.stop_asked, "") != "abort")
            connection.execute(asked.values(stop_asked=how))

    def on_host(self, host_id: str) -> list[Job]:
        """The live jobs on a host."""
        with self._engine.connect() as connection:
            return _jobs(connection, and_(jobs.c.host_id == host_id, _LIVE))

    def finished_on(self, host_id: str) -> list[str]:
        """The ids of the jobs that have ended on a host."""
        with self._engine.connect() as connection:
            return list(connection.scalars(select(jobs.c.id).where(jobs.c.host_id == host_id, not_(_LIVE))))

    def job(self, job_id: str) -> Job:
        """One job; NotFoundError."""
        with self._engine.connect() as connection:
            found = _jobs(connection, jobs.c.id == job_id)
        if not found:
            raise NotFoundError(f"there is no job {job_id}")
        return found[0]

    def _found(self, query: Select[Any], asked: str) -> Run:
        found = self._select(query)
        if not found:
            raise NotFoundError(f"there is no run {asked}", hint="pool runs")
        return found[0]

    def _select(self, query: Select[Any]) -> list[Run]:
        with self._engine.connect() as connection:
            return _select(connection, query)


def _select(connection: Connection, query: Select[Any]) -> list[Run]:
    rows = list(connection.execute(query).mappings())
    by_run: dict[str, list[Job]] = {row["id"]: [] for row in rows}
    for job in _jobs(connection, jobs.c.run_id.in_(by_run)):
        by_run[job.run_id].append(job)
    return [_run(row, by_run[row["id"]]) for row in rows]


def _claim(connection: Connection, job_id: str, offer: Offer) -> None:
    gpus = [gpu.uuid for gpu in offer.gpus]
    moves.move_job(
        connection,
        job_id,
        JobStatus.PLACED,
        host_id=offer.host.id,
        gpus=gpus,
        cpus=offer.cpus,
        memory_mib=offer.memory_mib,
        reason=None,
    )
    for uuid in gpus:
        connection.execute(insert(allocations).values(job_id=job_id, host_id=offer.host.id, gpu=uuid))


def _move(connection: Connection, job_id: str, to: JobStatus, changes: dict[str, Any]) -> None:
    if to == JobStatus.SUBMITTED:
        changes = changes | {"host_id": None, "gpus": [], "cpus": 0.0, "memory_mib": 0}
    moves.move_job(connection, job_id, to, **changes)
    if to in FINISHED or to == JobStatus.SUBMITTED:
        connection.execute(update(allocations).where(allocations.c.job_id == job_id).values(released=1))


def _jobs(connection: Connection, where: Any) -> list[Job]:
    """Jobs by rank, the last attempt of each only."""
    query = (
        select(jobs, hosts.c.name.label("host_name"), hosts.c.status.label("host_status"))
        .join(hosts, isouter=True)
        .where(where)
        .order_by(jobs.c.rank, jobs.c.attempt)
    )
    newest: dict[tuple[str, int], Job] = {}
    for row in connection.execute(query).mappings():
        newest[row["run_id"], row["rank"]] = _job(row)
    return list(newest.values())


def _job(row: Mapping[Any, Any]) -> Job:
    values = dict(row)
    silent = values.pop("host_status") == str(HostStatus.UNREACHABLE)
    status = JobStatus(values["status"])
    values |= {"status": status, "gpus": tuple(values["gpus"])}
    return Job(**values, unreachable=silent and status not in FINISHED)


def _job_row(job: Job) -> dict[str, Any]:
    row = {column.name: getattr(job, column.name) for column in jobs.columns}
    return row | {"status": str(job.status), "gpus": list(job.gpus)}


def _run(row: Mapping[Any, Any], of_run: list[Job]) -> Run:
    return Run(**{**row, "spec": spec_adapter().validate_python(row["spec"]), "jobs": tuple(of_run)})


def _run_row(run: Run) -> dict[str, Any]:
    """The row of a run: of its spec nothing that may be secret is kept here."""
    public = replace(run.spec, env={}, registry_auth=None, script=None)
    row = {column.name: getattr(run, column.name) for column in runs.columns}
    return row | {"spec": spec_adapter().dump_python(public, mode="json")}


@cache
def spec_adapter() -> TypeAdapter[TaskSpec]:
    """Turns a TaskSpec into JSON and back."""
    return TypeAdapter(TaskSpec)
