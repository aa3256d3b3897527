"""A process that has the supervisor imported and forks one for each job: 2 ms where a new Python takes 40.

    runner ── "JOB\\n" ─▶ forker ── fork ─▶ supervisor of JOB
           ◀─ "PID\\n" ──

It has no threads, so a fork of it is safe. It ends when the runner does; the supervisors do not notice. Whatever
happens to it, a job starts at most once: that is the supervisor's own doing (`started`), so asking again is safe.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import subprocess
import sys
import threading
from typing import NoReturn

from pool.runner import descriptors, processes, supervisor
from pool.runner.jobs import JobFolder

#: A forker that has not answered within this time is frozen: it is killed, and another one asked.
_ANSWER_S = 5.0


class Forked:
    """A supervisor that is no child of this process."""

    def __init__(self, pid: int) -> None:
        self._who = processes.identity(pid)

    def poll(self) -> int | None:
        """None while it runs, then 1; as of subprocess.Popen, but nobody can tell its exit code."""
        return None if processes.alive(self._who) else 1


class Forker:
    """The runner's end; the process is started at once, in the background, and again whenever it has gone."""

    def __init__(self, state: str) -> None:
        self._state = state
        self._asking = threading.Lock()
        self._start()

    def fork(self, job: str) -> Forked | None:
        """Start the supervisor of `job`; None when no forker can be had."""
        with self._asking:
            for _ in range(2):
                try:
                    self._link.sendall(job.encode() + b"\n")
                    answer = self._link.recv(32)
                except OSError:
                    answer = b""
                if answer:
                    return Forked(int(answer))
                self._link.close()
                self._process.kill()
                self._process.wait()
                self._start()
        return None

    def close(self) -> None:
        """End it."""
        with self._asking:
            self._link.close()
            self._process.kill()
            self._process.wait()

    def _start(self) -> None:
        self._link, theirs = socket.socketpair()
        self._link.settimeout(_ANSWER_S)
        argv = [sys.executable, "-I", "-S", sys.argv[0], "--state", self._state, "forker"]
        self._process = subprocess.Popen(
            argv, stdin=theirs.fileno(), stdout=theirs.fileno(), start_new_session=True, cwd="/"
        )
        theirs.close()
        descriptors.usual(self._process.pid)


def main(state: str) -> NoReturn:
    """Be the forker of the runner at the other end of stdin, until it hangs up."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # no zombies; each supervisor sets its own
    with open("/proc/self/comm", "w") as name:
        name.write("pool-forker")
    gc.freeze()
    waiting = b""
    while True:
        chunk = os.read(0, 4096)
        if not chunk:
            os._exit(0)
        *jobs, waiting = (waiting + chunk).split(b"\n")
        for job in jobs:
            pid = os.fork()
            if pid == 0:
                _supervise(state, job.decode())
            os.write(1, b"%d\n" % pid)


def _supervise(state: str, job: str) -> NoReturn:
    """In the child: be the supervisor of `job`, as if started by hand."""
    code = 1
    try:
        os.setsid()
        null = os.open(os.devnull, os.O_RDWR)
        errors = os.open(JobFolder(state, job).file("supervisor.err"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        for fd, source in ((0, null), (1, errors), (2, errors)):
            os.dup2(source, fd)
        os.closerange(3, 64)
        with open("/proc/self/comm", "w") as name:
            name.write("pool-supervisor"[:15])
        code = supervisor.main(state, job)
    finally:
        os._exit(code)
