"""What a follower says about ranks, and what a run's end means for the exit code."""

from __future__ import annotations

from typing import Any

import pytest

from pool.cli.attached import exit_code
from pool.cli.follow import Follower
from pool.errors import InterruptError, RunError


def job(rank: int, shown: str, **more: Any) -> dict[str, Any]:
    """One rank, as the server tells it."""
    common = {"attempt": 1, "host": f"gpu{rank}", "exit_code": None, "reason": None, "log_bytes": None}
    return common | {"rank": rank, "shown": shown} | more


def run(*jobs: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A run of these ranks."""
    common = {"id": "r", "name": "x", "type": "task", "status": "running", "exit_code": None}
    return common | {"nodes": len(jobs), "jobs": jobs} | more


def told(capsys: pytest.CaptureFixture[str], *heads: dict[str, Any]) -> list[str]:
    """What is said on stderr as these frames arrive."""
    follower = Follower(heads[0]["run"])
    for head in heads:
        follower._take(head, b"x" * head.get("size", 0))
    return capsys.readouterr().err.splitlines()


def test_ranks_of_which_the_same_is_to_be_said_share_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Sixteen nodes are not sixteen lines; a rank that differs has its own, and nothing is said twice."""
    running = run(*(job(rank, "running") for rank in range(16)))
    mixed = run(*(job(rank, "done" if rank in (0, 1, 2, 9) else "running") for rank in range(16)))
    assert told(capsys, {"run": running}, {"run": running}, {"run": mixed}) == [
        "pool: x ranks 0-15 running on 16 hosts",
        "pool: x ranks 0-2, 9 done on gpu0, gpu1, gpu2, gpu9",
    ]


def test_an_end_is_told_after_the_output(capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever comes first over the wire."""
    ended = run(job(0, "failed", exit_code=3, log_bytes=5, reason="why"))
    output = {"rank": 0, "attempt": 1, "offset": 0, "size": 4}
    assert told(capsys, {"run": run(job(0, "running"))}, {"run": ended}, output) == ["pool: x running on gpu0"]
    last = output | {"offset": 4, "size": 1}
    assert told(capsys, {"run": ended}, output, last) == ["pool: x failed on gpu0, exit code 3: why"]
    hinted = run(job(0, "failed", reason="why; try: pool ps"))
    assert told(capsys, {"run": hinted}) == ["pool: x failed on gpu0: why"]


def test_the_exit_code_of_a_run() -> None:
    """Its own; without one the reason is the error, and a stop from here is an interrupt."""
    assert exit_code(run(exit_code=3)) == 3
    assert exit_code(run(exit_code=0), stopped=True) == 0
    with pytest.raises(RunError, match="x failed: the host rebooted"):
        exit_code(run(job(0, "failed"), job(1, "failed", reason="the host rebooted"), status="failed"))
    with pytest.raises(RunError) as error:
        exit_code(run(job(0, "failed", reason="gpu0: no image; try: pool images gpu0"), status="failed"))
    assert (error.value.message, error.value.hint) == ("x failed: gpu0: no image", "pool images gpu0")
    with pytest.raises(InterruptError):
        exit_code(run(job(0, "stopped"), status="stopped"), stopped=True)
    with pytest.raises(RunError):
        exit_code(run(job(0, "stopped"), status="stopped"))
    assert exit_code(run(job(0, "stopped"), status="stopped", type="dev-environment")) == 0
