"""Starts a job's supervisor outside the runner, so that the job outlives it: as a transient systemd unit where the
runner is root under systemd, else as a session of its own, by a fork of the forker."""

from __future__ import annotations

import signal
import subprocess
import sys

from pool.runner import descriptors, presence, unit
from pool.runner.forker import Forked, Forker
from pool.runner.jobs import JobFolder

#: Tells a supervisor to read its job's `stop` file.
STOP_SIGNAL = signal.SIGTERM


class Launcher:
    """Starts supervisors for the runner of one state folder."""

    def __init__(self, state: str) -> None:
        self._state = state
        self._forker = None if presence.under_systemd() else Forker(state)

    def supervise(self, job: str) -> subprocess.Popen[bytes] | Forked:
        """Start the supervisor of `job`; it may find that another has taken the job, and then does nothing."""
        forked = self._forker.fork(job) if self._forker else None
        return forked or _start(self._state, job)

    def close(self) -> None:
        """Leave nothing of ours behind; supervisors stay."""
        if self._forker:
            self._forker.close()


def _start(state: str, job: str) -> subprocess.Popen[bytes]:
    argv = [sys.executable, "-I", "-S", sys.argv[0], "--state", state, "supervise", job]
    folder = JobFolder(state, job)
    if presence.under_systemd():
        argv = unit.argv(job, folder.spec) + argv
    with open(folder.file("supervisor.err"), "wb") as errors:
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=errors, stderr=errors, start_new_session=True, cwd="/"
        )
    descriptors.usual(process.pid)
    return process


def complaint(state: str, job: str) -> str:
    """What a supervisor that died at its start said."""
    try:
        with open(JobFolder(state, job).file("supervisor.err"), errors="replace") as file:
            text = file.read().strip()
    except OSError:
        text = ""
    return text.splitlines()[-1][:300] if text else "the supervisor ended without a word"
