"""A run's status and exit code, derived from its jobs."""

from __future__ import annotations

import itertools

import pytest

from pool.run import Job, run_exit_code, run_status
from pool.states import FINISHED, JobStatus


def jobs(*statuses: str, codes: tuple[int | None, ...] = (), ends: tuple[float, ...] = ()) -> list[Job]:
    """Jobs of one run in these statuses."""
    return [
        Job(
            id=f"r-{rank}-1", run_id="r", rank=rank, attempt=1, status=JobStatus(status),
            exit_code=codes[rank] if codes else None, finished_at=ends[rank] if ends else None,
        )
        for rank, status in enumerate(statuses)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("statuses", "status"),
    [
        ("submitted", "submitted"),
        ("placed placed", "starting"),
        ("starting running", "starting"),
        ("running running", "running"),
        ("running done", "running"),
        ("stopping failed", "stopping"),
        ("running failed", "running"),
        ("done done", "done"),
        ("done failed", "failed"),
        ("stopped failed", "failed"),
        ("interrupted stopped", "interrupted"),
        ("stopped done", "stopped"),
    ],
)
def test_status(statuses: str, status: str) -> None:
    """The least advanced live job decides, else the worst ending."""
    for order in itertools.permutations(statuses.split()):
        assert run_status(jobs(*order)) == status


def test_a_run_is_finished_when_its_jobs_are() -> None:
    """For every pair of states: the status of the run is an ending exactly when both are."""
    for pair in itertools.product(JobStatus, repeat=2):
        finished = run_status(jobs(*pair)) in ("done", "failed", "stopped", "interrupted")
        assert finished == (set(pair) <= FINISHED), pair


def test_exit_code() -> None:
    """0 when all are done; else of the rank that failed first; none was made, none is told."""
    assert run_exit_code(jobs("done", "done", codes=(0, 0))) == 0
    assert run_exit_code(jobs("failed", "failed", codes=(1, 2), ends=(20.0, 10.0))) == 2
    assert run_exit_code(jobs("failed", "failed", codes=(1, 2), ends=(10.0, 10.0))) == 1
    assert run_exit_code(jobs("stopped", "failed", codes=(130, 3))) == 3
    assert run_exit_code(jobs("stopped", "done", codes=(130, 0))) is None
    assert run_exit_code(jobs("failed", "stopped", codes=(None, 130))) is None
