"""The store: what it takes it keeps, a state moves along its table only, a GPU has one claim."""

from __future__ import annotations

import itertools
import os
import sqlite3
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import create_engine, inspect
from sqlalchemy.exc import IntegrityError

from pool.errors import ConflictError, NotFoundError, RunError
from pool.host import Gpu, Host, HostFacts, Jump
from pool.offer import Offer, Range, Request
from pool.run import Job, Retry, Run, TaskSpec
from pool.states import FINISHED, HOST_MOVES, JOB_MOVES, HostStatus, JobStatus
from pool.store import database
from pool.store.store import Store
from pool.store.tables import metadata

GPUS = tuple(Gpu(f"GPU-{n}", "NVIDIA H100", 81559, compute_capability=(9, 0), index=n) for n in range(2))
FACTS = HostFacts(cpus=8, memory_mib=1000, disk_free_mib=10, disk_total_mib=20, gpus=GPUS, ssh_ip="10.0.0.1")
HOST = Host(
    *("h1", "gpu1", "10.0.0.1", 22, "ubuntu", "/key"),
    facts=FACTS,
    labels=(("rack", "b2"),),
    network="10.0.0.0/8",
    jumps=(Jump("bastion", 22, "me"),),
)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A store with one host."""
    made = Store(str(tmp_path))
    made.hosts.add(HOST)
    return made


NUMBERS = itertools.count(100)


def run_of(run_id: str = "r1", name: str | None = None, nodes: int = 1, **spec: Any) -> Run:
    """A run that was just submitted."""
    jobs = tuple(Job(f"{run_id}-{rank}-1", run_id, rank, 1, JobStatus.SUBMITTED) for rank in range(nodes))
    request = spec.pop("request", Request(cpus=Range(1, None)))
    task = TaskSpec("task", request, nodes=nodes, name=name, **spec)
    return Run(run_id, name or run_id, "ann", task, 5.0, "/folder", "c" * 64, "repo", jobs=jobs)


def offer(*gpus: Gpu) -> Offer:
    """A share of the host."""
    return Offer(HOST, gpus, 1.5, 100)


def moved_to(store: Store, path: tuple[JobStatus, ...]) -> str:
    """A new run's job, moved along a path of states; its id."""
    run = store.runs.add(run_of(f"r{next(NUMBERS)}"))
    for to in path:
        if to == JobStatus.PLACED:
            store.runs.place(run.id, [offer()])
        else:
            store.runs.move(run.jobs[0].id, to)
    return run.jobs[0].id


def ways(moves: Any, first: Any) -> dict[Any, tuple[Any, ...]]:
    """A shortest path from `first` to each state."""
    found: dict[Any, tuple[Any, ...]] = {first: ()}
    for state in (todo := [first]):
        for to in sorted(moves[state] - set(found)):
            found[to] = (*found[state], to)
            todo.append(to)
    return found


JOB_WAYS = ways(JOB_MOVES, JobStatus.SUBMITTED)
HOST_WAYS = ways(HOST_MOVES, HostStatus.NEW)


@pytest.mark.parametrize("before", JobStatus, ids=str)
def test_a_job_moves_along_the_table_only(store: Store, before: JobStatus) -> None:
    """From each state to each: a legal move is made and told in an event; another is refused and changes nothing."""
    for after in JobStatus:
        job = moved_to(store, JOB_WAYS[before])
        told = events(store, job)
        if after in JOB_MOVES[before]:
            store.runs.move(job, after, reason="why")
            assert store.runs.job(job).status == after
            assert events(store, job) == [*told, (before, after, "why")]
        else:
            with pytest.raises(ConflictError, match=f"cannot go from {before} to {after}"):
                store.runs.move(job, after, reason="why")
            assert store.runs.job(job).status == before
            assert events(store, job) == told


@pytest.mark.parametrize("before", HostStatus, ids=str)
def test_a_host_moves_along_the_table_only(store: Store, before: HostStatus) -> None:
    """The same for hosts."""
    for number, after in enumerate(HostStatus):
        host = store.hosts.add(replace(HOST, id=f"x{number}", name=f"x{number}"))
        for to in HOST_WAYS[before]:
            store.hosts.move(host.id, to)
        if after in HOST_MOVES[before]:
            assert store.hosts.move(host.id, after, "why").status == after
            assert events(store, host.id)[-1] == (before, after, "why")
        else:
            with pytest.raises(ConflictError):
                store.hosts.move(host.id, after, "why")
            assert store.hosts.get(host.id).status == before


def events(store: Store, subject: str) -> list[tuple[str, str, str | None]]:
    """(before, after, reason) of everything that was told about a host or job."""
    with store._engine.connect() as connection:
        rows = connection.exec_driver_sql(
            "SELECT before, after, reason FROM events WHERE subject = ? ORDER BY id", (subject,)
        )
        return [tuple(row) for row in rows]  # type: ignore[misc]


def test_moving_nothing_is_a_conflict(store: Store) -> None:
    """No such job, no such host."""
    with pytest.raises(ConflictError):
        store.runs.move("none", JobStatus.STOPPED)
    with pytest.raises(ConflictError):
        store.hosts.move("none", HostStatus.REMOVED)


def test_a_gpu_has_one_live_claim(store: Store) -> None:
    """A second claim is refused by the database itself and leaves nothing of its run placed."""
    store.runs.add(run_of("r1"))
    store.runs.add(run_of("r2", nodes=2))
    store.runs.place("r1", [offer(GPUS[0])])
    with pytest.raises(ConflictError, match="given to another job"):
        store.runs.place("r2", [offer(GPUS[1]), offer(GPUS[0])])
    assert [job.status for job in store.runs.get("r2").jobs] == [JobStatus.SUBMITTED] * 2
    assert store.hosts.views({})[0].free_gpus == GPUS[1:]
    with pytest.raises(IntegrityError), store._engine.begin() as connection:
        connection.exec_driver_sql("INSERT INTO allocations (job_id, host_id, gpu) VALUES ('r2-0-1', 'h1', 'GPU-0')")


@pytest.mark.parametrize("to", [*sorted(FINISHED), JobStatus.SUBMITTED], ids=str)
def test_an_end_and_an_undo_free_the_gpus(store: Store, to: JobStatus) -> None:
    """With the very move that ends or unplaces the job, alone or together with others."""
    via = {JobStatus.DONE: (JobStatus.STARTING, JobStatus.RUNNING)}.get(to, ())
    for together in (False, True):
        run = store.runs.add(run_of(f"r{together}"))
        store.runs.place(run.id, [offer(*GPUS)])
        assert store.hosts.views({})[0].free_gpus == ()
        for step in via:
            store.runs.move(run.jobs[0].id, step)
        if together:
            store.runs.move_all([run.jobs[0].id], to, reason="why")
        else:
            store.runs.move(run.jobs[0].id, to, reason="why")
        assert store.hosts.views({})[0].free_gpus == GPUS
        job = store.runs.job(run.jobs[0].id)
        assert job.gpus == (() if to == JobStatus.SUBMITTED else ("GPU-0", "GPU-1"))
        assert job.reason == "why"
        if to == JobStatus.SUBMITTED:
            store.runs.move(job.id, JobStatus.STOPPED)


def test_several_jobs_move_together_or_not_at_all(store: Store) -> None:
    """One that may not go holds back the others, and their GPUs."""
    run = store.runs.add(run_of(nodes=2))
    store.runs.place(run.id, [offer(GPUS[0]), offer(GPUS[1])])
    store.runs.move(run.jobs[1].id, JobStatus.STARTING)
    with pytest.raises(ConflictError):
        store.runs.move_all([job.id for job in run.jobs], JobStatus.STARTING)
    assert [job.status for job in store.runs.get(run.id).jobs] == [JobStatus.PLACED, JobStatus.STARTING]
    assert store.hosts.views({})[0].free_gpus == ()


def test_the_same_id_is_one_run(store: Store) -> None:
    """Sent 20 times at once: one run; the name of a live run is taken, that of an ended one is free."""
    threads = [threading.Thread(target=store.runs.add, args=(run_of("r1", "name"),)) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [run.id for run in store.runs.all()] == ["r1"]
    with pytest.raises(ConflictError, match="going on"):
        store.runs.add(run_of("r2", "name"))
    store.runs.move("r1-0-1", JobStatus.STOPPED)
    store.runs.add(replace(run_of("r2", "name"), submitted_at=6.0))
    assert store.runs.named("name").id == "r2"
    assert store.runs.named("r1").id == "r1"


def test_of_threads_that_move_a_job_one_succeeds(store: Store) -> None:
    """Compare and set: no move is made from a state that has changed meanwhile."""
    job = moved_to(store, (JobStatus.PLACED, JobStatus.STARTING, JobStatus.RUNNING))
    won: list[JobStatus] = []

    def move(to: JobStatus) -> None:
        try:
            store.runs.move(job, to)
        except ConflictError:
            return
        won.append(to)

    ends = [JobStatus.DONE, JobStatus.FAILED, JobStatus.INTERRUPTED] * 4
    threads = [threading.Thread(target=move, args=(to,)) for to in ends]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert store.runs.job(job).status == won[0]
    assert len(events(store, job)) == 4


def test_an_abort_is_not_weakened(store: Store) -> None:
    """Asked to stop after an abort: still an abort."""
    store.runs.add(run_of())
    for asked, kept in (("stop", "stop"), ("abort", "abort"), ("stop", "abort")):
        store.runs.ask_stop("r1", asked)
        assert store.runs.get("r1").stop_asked == kept


def test_another_attempt_comes_with_the_end(store: Store) -> None:
    """Nobody sees the run ended in between; the newest attempt of a rank is the run's job."""
    run = store.runs.add(run_of(retry=Retry(("error",), None)))
    store.runs.place(run.id, [offer()])
    again = Job("r1-0-2", "r1", 0, 2, JobStatus.SUBMITTED)
    store.runs.move("r1-0-1", JobStatus.FAILED, then=lambda ended: [again] if ended.finished else [])
    assert [job.id for job in store.runs.get("r1").jobs] == ["r1-0-2"]
    assert not store.runs.get("r1").finished
    assert [run.id for run in store.runs.live()] == ["r1"]
    assert store.runs.on_host("h1") == []
    assert store.runs.finished_on("h1") == ["r1-0-1"]


def test_what_is_kept_is_what_was_given(store: Store) -> None:
    """A host and a run come back equal; the run without what may be secret."""
    assert store.hosts.get("h1") == HOST
    spec = {"ports": (), "retry": Retry(("error", "interruption"), 60), "utilization": (10, 600), "volumes": ("/a:/b",)}
    run = run_of(nodes=2, env={"A": "b"}, script="echo", registry_auth=("user", "password"), **spec)
    kept = store.runs.add(run)
    assert kept == replace(run, spec=replace(run.spec, env={}, script=None, registry_auth=None))
    assert Store(os.path.dirname(str(store._engine.url.database))).runs.get("r1") == kept


def test_no_secret_is_in_the_database(tmp_path: Path) -> None:
    """The environment, the script and passwords stand in one private file, which goes with the run's end."""
    before = os.umask(0)
    try:
        store = Store(str(tmp_path))
    finally:
        os.umask(before)
    canary = "canary-7b1f"
    run = run_of(env={"TOKEN": canary}, script=f"echo {canary}", registry_auth=("u", canary))
    store.secrets.keep(run.id, run.spec)
    store.runs.add(run)
    assert store.secrets.read(run.id) == run.spec
    holding = [path for path in tmp_path.rglob("*") if path.is_file() and canary.encode() in path.read_bytes()]
    assert holding == [tmp_path / "secrets" / "r1.json"]
    assert holding[0].stat().st_mode & 0o777 == 0o600
    assert holding[0].parent.stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "pool.db").stat().st_mode & 0o777 == 0o600
    store.secrets.forget(run.id)
    store.secrets.forget(run.id)
    with pytest.raises(RunError, match="lost"):
        store.secrets.read(run.id)


def test_secrets_of_ended_runs_are_swept(store: Store, tmp_path: Path) -> None:
    """What a server that was killed has left: an ended run's file, and one that was never whole."""
    for run_id in ("live", "ended"):
        store.secrets.keep(run_id, run_of(run_id).spec)
    (tmp_path / "secrets" / "never.json.tmp").write_text("canary")
    store.secrets.sweep({"live"})
    assert os.listdir(tmp_path / "secrets") == ["live.json"]


def test_an_empty_file_is_migrated(tmp_path: Path) -> None:
    """To the very tables that the code knows; a second opening changes nothing."""
    (tmp_path / "pool.db").touch()
    store = Store(str(tmp_path))
    found = inspect(store._engine)
    assert set(found.get_table_names()) == {*metadata.tables, "alembic_version"}
    for name, table in metadata.tables.items():
        assert {column["name"] for column in found.get_columns(name)} == set(table.columns.keys())
        assert {index["name"] for index in found.get_indexes(name)} == {index.name for index in table.indexes}
    before = (tmp_path / "pool.db").read_bytes()
    assert Store(str(tmp_path)).pool_id == store.pool_id
    assert (tmp_path / "pool.db").read_bytes() == before


def test_a_database_of_the_first_release(tmp_path: Path) -> None:
    """Its hosts are reached directly; what is added since is kept."""
    engine = create_engine(f"sqlite:///{tmp_path / 'pool.db'}")
    config = Config()
    config.set_main_option("script_location", str(Path(database.__file__).parent / "migrations"))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        connection.exec_driver_sql(
            "INSERT INTO hosts (id, name, address, port, user, pool, region, labels, price, status) "
            "VALUES ('h1', 'gpu1', '10.0.0.1', 22, 'me', 'default', 'remote', '{}', 0, 'ready')"
        )
    engine.dispose()
    store = Store(str(tmp_path))
    old = store.hosts.named("gpu1")
    assert (old.jumps, old.python) == ((), None)
    jumps = (Jump("bastion", 2222, "me", "/k"), Jump("second", 22, "you"))
    store.hosts.edit(replace(old, jumps=jumps, python="/usr/bin/python3.11"))
    assert store.hosts.named("gpu1") == replace(old, jumps=jumps, python="/usr/bin/python3.11")


def test_an_older_database_is_copied_before_it_is_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The copy can be opened, and has what was in it."""
    Store(str(tmp_path)).hosts.add(HOST)
    with sqlite3.connect(tmp_path / "pool.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = '0000'")
    monkeypatch.setattr(database.command, "upgrade", lambda *_: None)
    Store(str(tmp_path))
    with sqlite3.connect(tmp_path / "pool.db.0000") as connection:
        assert connection.execute("SELECT name FROM hosts").fetchall() == [("gpu1",)]


def test_epochs_only_grow(tmp_path: Path) -> None:
    """Over restarts, and the pool stays the same pool."""
    numbers, pools = [], set()
    for _ in range(3):
        store = Store(str(tmp_path))
        numbers += [store.next_epoch(), store.next_epoch()]
        pools.add(store.pool_id)
    assert numbers == sorted(set(numbers))
    assert len(pools) == 1


def test_what_is_not_there_is_named(store: Store) -> None:
    """NotFoundError, with the next command."""
    for look in (store.runs.get, store.runs.named, store.runs.job, store.hosts.get, store.hosts.named):
        with pytest.raises(NotFoundError, match="nobody"):
            look("nobody")


def test_a_name_of_a_removed_host_is_free(store: Store) -> None:
    """Two live hosts never share a name."""
    with pytest.raises(ConflictError, match="named gpu1"):
        store.hosts.add(replace(HOST, id="h2"))
    store.hosts.move("h1", HostStatus.REMOVED)
    store.hosts.add(replace(HOST, id="h2"))
    assert store.hosts.named("gpu1").id == "h2"
    assert [host.id for host in store.hosts.all()] == ["h2"]


def test_what_others_hold_is_not_free(store: Store) -> None:
    """GPUs of another pool's jobs, beside our own."""
    store.runs.add(run_of())
    store.runs.place("r1", [offer(GPUS[0])])
    (view,) = store.hosts.views({"h1": frozenset(["GPU-1"])})
    assert (view.free_gpus, view.free_cpus, view.free_memory_mib, view.jobs) == ((), 6.5, 900, 1)


def test_a_silent_hosts_jobs_are_unsure(store: Store) -> None:
    """Live ones only."""
    job = moved_to(store, (JobStatus.PLACED, JobStatus.STARTING, JobStatus.RUNNING))
    for to in (HostStatus.PROVISIONING, HostStatus.READY, HostStatus.UNREACHABLE):
        store.hosts.move("h1", to)
    assert store.runs.job(job).unreachable
    store.runs.move(job, JobStatus.DONE)
    assert not store.runs.job(job).unreachable
