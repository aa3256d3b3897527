"""systemd is told that the runner answers: by asking it, and for no other reason."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

from pool.runner import watchdog
from tests.conftest import REPOSITORY


def test_a_runner_that_answers_is_told_of(tmp_path: Path) -> None:
    """A real runner, started as systemd does: it tells again and again."""
    state = tmp_path / "state"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(60)
        env = {**os.environ, "NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "300000"}
        argv = [sys.executable, "-m", "pool.runner", "--state", str(state), "serve"]
        runner = subprocess.Popen(argv, cwd=REPOSITORY, env=env)
        try:
            assert [systemd.recv(64) for _ in range(3)] == [b"WATCHDOG=1"] * 3
        finally:
            runner.terminate()
            runner.wait()


def test_one_that_listens_and_does_not_answer_is_not_told_of(tmp_path: Path) -> None:
    """Nor one that is not there."""
    path = str(tmp_path / "runner.sock")
    assert not watchdog.answers(path, 0.1)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stuck:
        stuck.bind(path)
        stuck.listen()
        assert not watchdog.answers(path, 0.1)
