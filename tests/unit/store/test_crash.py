"""A process that writes to the store is killed again and again: what it was told is kept is there, whole."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

from pool.states import JobStatus
from pool.store.store import Store
from tests.conftest import REPOSITORY
from tests.unit.store.test_store import HOST

#: Submits, places and ends runs of one host as fast as it can; says each id once the store has it.
_WRITER = """
import itertools, sys
from dataclasses import replace
from tests.unit.store.test_store import GPUS, HOST, offer, run_of
from pool.states import JobStatus
from pool.store.store import Store

store = Store(sys.argv[1])
for number in itertools.count(int(sys.argv[2])):
    run = run_of(f"r{number}", env={"TOKEN": "canary"})
    store.secrets.keep(run.id, run.spec)
    store.runs.add(run)
    print("submitted", number, flush=True)
    store.runs.place(run.id, [offer(*GPUS)])
    store.runs.move_all([job.id for job in run.jobs], JobStatus.STARTING)
    print("starting", number, flush=True)
    store.runs.move(run.jobs[0].id, JobStatus.DONE, exit_code=0, log_bytes=number)
    print("done", number, flush=True)
"""
_ROUNDS = 20


def test_a_killed_writer_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    """20 times kill -9: every acknowledged row is there, no claim is left over, the file is sound."""
    Store(str(tmp_path)).hosts.add(HOST)
    for round_ in range(_ROUNDS):
        writer = subprocess.Popen(
            [sys.executable, "-c", _WRITER, str(tmp_path), str(round_ * 1000)],
            stdout=subprocess.PIPE,
            cwd=REPOSITORY,
            text=True,
        )
        assert writer.stdout is not None
        lines = [writer.stdout.readline() for _ in range(round_ + 1)]
        writer.send_signal(signal.SIGKILL)
        lines += writer.communicate()[0].splitlines(keepends=True)
        told = [line.split() for line in lines if line.endswith("\n")]
        assert len(told) > round_
        _check(tmp_path, told)
        _end_the_last(tmp_path)


def _check(folder: Path, told: list[list[str]]) -> None:
    """`told`: (what, number of the run) of this round, as the writer said it."""
    with sqlite3.connect(folder / "pool.db") as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        rows = dict(connection.execute("SELECT run_id, status FROM jobs"))
        claims = dict(connection.execute("SELECT job_id, count(*) FROM allocations WHERE released = 0 GROUP BY job_id"))
        last = connection.execute("SELECT subject, after FROM events ORDER BY id").fetchall()
    order = ["submitted", "placed", "starting", "done"]
    for word, number in told:
        assert order.index(rows[f"r{number}"]) >= order.index(word), (word, number)
    for run_id, status in rows.items():
        assert claims.get(f"{run_id}-0-1", 0) == (2 if status in ("placed", "starting") else 0)
    for job, status in dict(last).items():
        assert rows[job.removesuffix("-0-1")] == status or job == "h1"


def _end_the_last(folder: Path) -> None:
    """The host's GPUs are free for the next writer."""
    store = Store(str(folder))
    for run in store.runs.live():
        store.runs.move(run.jobs[0].id, JobStatus.FAILED)
    store.close()
