"""A program inside of a job that is a process of this host: started by `enter`, on a terminal or on three pipes."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import struct
import subprocess
import sys
import termios
import threading
from typing import Any, Iterator

from pool.runner import processes
from pool.runner.ledger import RefusedError

_CHUNK = 1 << 17
_END_OF_INPUT = b"\x04"


class Entered:
    """As `shell.Program` says."""

    def __init__(self, state: str, job: str, words: list[str], tty: dict[str, Any] | None) -> None:
        """RefusedError when it cannot be started. `tty`: `{"rows", "cols", "term"}`."""
        self._using = threading.Lock()
        self._has_terminal = tty is not None
        self._kinds: dict[int, int] = {}  # what is read here -> the program's own number of it
        theirs = self._make_terminal(tty) if tty else self._make_pipes()
        failing = self._failed = -1
        try:
            self._failed, failing = os.pipe()
            argv = [sys.executable, "-I", "-S", sys.argv[0], "--state", state, "enter", job, str(failing), *words]
            env = {**os.environ, processes.MARK: job, "TERM": str((tty or {}).get("term") or "xterm")}
            self._process = subprocess.Popen(
                argv,
                stdin=theirs[0],
                stdout=theirs[1],
                stderr=theirs[2],
                pass_fds=[failing],
                env=env,
                cwd="/",
                start_new_session=True,
            )
        finally:
            for fd in {*theirs, failing} - {-1}:
                os.close(fd)
        self._leader = processes.identity(self._process.pid)
        self._ended, ending = os.pipe()
        threading.Thread(target=self._reap, args=(ending,), daemon=True).start()
        with os.fdopen(self._failed, "rb") as failed:
            problem = failed.read().decode(errors="replace")
        if problem:
            self._process.wait()
            self.close()
            raise RefusedError("cannot_enter", problem)

    def output(self) -> Iterator[tuple[int, bytes]]:
        """What it writes; of what others still hold open once it has ended, no more than is there."""
        reading = dict(self._kinds)
        running = True
        while reading:
            ready = select.select([*reading, *([self._ended] if running else [])], [], [], None if running else 0)[0]
            if not running and not ready:
                return
            if self._ended in ready:
                running = False
                continue
            for fd in ready:
                try:
                    chunk = os.read(fd, _CHUNK)
                except BlockingIOError:
                    continue
                except OSError:  # EIO: nobody has the terminal any more
                    chunk = b""
                if chunk:
                    yield reading[fd], chunk
                else:
                    del reading[fd]

    def code(self) -> int:
        """As of shell.Program."""
        code = self._process.wait()
        return 128 - code if code < 0 else code

    def write(self, data: bytes) -> None:
        """As of shell.Program."""
        left = memoryview(data)
        while left:
            with self._using:
                if self._input < 0:
                    return
                try:
                    left = left[os.write(self._input, left) :]
                    continue
                except BlockingIOError:
                    waiting = self._input
                except OSError:  # it reads no more
                    return
            with contextlib.suppress(OSError, ValueError):  # closed under us
                select.select([], [waiting], [], 0.2)
            if self._process.returncode is not None:
                return

    def close_input(self) -> None:
        """On a terminal: as Ctrl-D."""
        if self._has_terminal:
            self.write(_END_OF_INPUT)
        else:
            self._close_input()

    def resize(self, rows: int, columns: int) -> None:
        """As of shell.Program."""
        with self._using, contextlib.suppress(OSError):
            if self._has_terminal and self._input >= 0:
                _set_size(self._input, rows, columns)

    def leader(self) -> dict[str, Any]:
        """As of shell.Program."""
        return self._leader

    def close(self) -> None:
        """As of shell.Program."""
        self._close_input()
        for fd in {*self._kinds, self._ended}:
            os.close(fd)
        self._kinds = {}

    def _make_terminal(self, tty: dict[str, Any]) -> tuple[int, int, int]:
        ours, theirs = os.openpty()
        _set_size(ours, int(tty.get("rows") or 24), int(tty.get("cols") or 80))
        self._kinds[ours] = 1
        self._input = os.dup(ours)
        os.set_blocking(self._input, False)
        return theirs, theirs, theirs

    def _make_pipes(self) -> tuple[int, int, int]:
        stdin, self._input = os.pipe()
        os.set_blocking(self._input, False)
        stdout, writing = os.pipe()
        stderr, complaining = os.pipe()
        self._kinds = {stdout: 1, stderr: 2}
        return stdin, writing, complaining

    def _close_input(self) -> None:
        with self._using:
            if self._input >= 0:
                os.close(self._input)
            self._input = -1

    def _reap(self, ending: int) -> None:
        self._process.wait()
        os.close(ending)


def _set_size(fd: int, rows: int, columns: int) -> None:
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows & 0xFFFF, columns & 0xFFFF, 0, 0))
