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
import time
from typing import Any, Iterator

from pool.runner import descriptors, processes
from pool.runner.ledger import RefusedError

_CHUNK = 1 << 17
_END_OF_INPUT = b"\x04"
#: How long `enter` may take; it opens the job's folder, which may be of a file server that does not answer.
_OPENS_S = 20.0


class ProcessShell:
    """As `shell.Program` says."""

    def __init__(self, state: str, job: str, words: list[str], tty: dict[str, Any] | None) -> None:
        """RefusedError when it cannot be started. `tty`: `{"rows", "cols", "term"}`."""
        self._using = threading.Lock()
        self._has_terminal = tty is not None
        self._kinds: dict[int, int] = {}  # what is read here -> the program's own number of it
        self._input = self._ended = -1
        self._theirs: set[int] = set()  # what only the program needs once it runs
        try:
            ends = self._make_terminal(tty) if tty else self._make_pipes()
            failed, failing = self._pipe()
            with os.fdopen(failed, "rb", buffering=0) as told:
                argv = [sys.executable, "-I", "-S", sys.argv[0], "--state", state, "enter", job, str(failing), *words]
                env = {**os.environ, processes.MARK: job, "TERM": str((tty or {}).get("term") or "xterm")}
                self._start(argv, env, ends, failing)
                self._let_go()
                problem = self._problem(told.fileno())
        except BaseException:
            self.close()
            raise
        finally:
            self._let_go()
        if problem:
            self.drop()
            self.close()
            raise RefusedError("cannot_enter", problem)

    def output(self) -> Iterator[tuple[int, bytes]]:
        """What it writes; of what others still hold open once it has ended, no more than is there."""
        ready = select.poll()  # select.select knows no more than the first 1024 files
        for fd in (*self._kinds, self._ended):
            ready.register(fd, select.POLLIN)
        reading = dict(self._kinds)
        running = True
        while reading:
            found = [fd for fd, _ in ready.poll(None if running else 0)]
            if not running and not found:
                return
            if self._ended in found:
                ready.unregister(self._ended)
                running = False
                continue
            for fd in found:
                try:
                    chunk = os.read(fd, _CHUNK)
                except BlockingIOError:
                    continue
                except OSError:  # EIO: nobody has the terminal any more
                    chunk = b""
                if chunk:
                    yield reading[fd], chunk
                else:
                    ready.unregister(fd)
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
                    waiting = select.poll()
                    waiting.register(self._input, select.POLLOUT)
                except OSError:  # it reads no more
                    return
            waiting.poll(200)  # it may be closed under us
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

    def drop(self) -> None:
        """As of shell.Program: the process itself, whose number is kept for us until `_reap` has it."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            self._process.kill()

    def close(self) -> None:
        """As of shell.Program."""
        self._close_input()
        for fd in {*self._kinds, self._ended} - {-1}:
            os.close(fd)
        self._kinds, self._ended = {}, -1

    def _start(self, argv: list[str], env: dict[str, str], ends: tuple[int, int, int], failing: int) -> None:
        self._ended, ending = os.pipe()
        with contextlib.ExitStack() as undo:
            undo.callback(os.close, ending)
            self._process = subprocess.Popen(
                argv,
                stdin=ends[0],
                stdout=ends[1],
                stderr=ends[2],
                pass_fds=[failing],
                env=env,
                cwd="/",
                start_new_session=True,
            )
            undo.callback(self._process.wait)
            undo.callback(self.drop)
            descriptors.usual(self._process.pid)  # those of the job, where `enter` may not look at them
            self._leader = processes.identity(self._process.pid)
            threading.Thread(target=self._reap, args=(ending,), daemon=True).start()
            undo.pop_all()

    def _problem(self, told: int) -> str:
        """Why it cannot enter; nothing once it has."""
        said = b""
        ready = select.poll()
        ready.register(told, select.POLLIN)
        until = time.monotonic() + _OPENS_S
        while ready.poll(max(0.0, until - time.monotonic()) * 1000):
            chunk = os.read(told, 1 << 12)
            if not chunk:
                return said.decode(errors="replace")
            said += chunk
        return "no shell after {:.0f} s: does a file system of the job hang?".format(_OPENS_S)

    def _make_terminal(self, tty: dict[str, Any]) -> tuple[int, int, int]:
        ours, theirs = os.openpty()
        self._kinds[ours] = 1
        self._theirs.add(theirs)
        _set_size(ours, int(tty.get("rows") or 24), int(tty.get("cols") or 80))
        self._input = os.dup(ours)
        os.set_blocking(self._input, False)
        return theirs, theirs, theirs

    def _make_pipes(self) -> tuple[int, int, int]:
        stdin, self._input = os.pipe()
        self._theirs.add(stdin)
        os.set_blocking(self._input, False)
        stdout, writing = self._pipe()
        self._kinds[stdout] = 1
        stderr, complaining = self._pipe()
        self._kinds[stderr] = 2
        return stdin, writing, complaining

    def _pipe(self) -> tuple[int, int]:
        """One that the program writes to."""
        ours, theirs = os.pipe()
        self._theirs.add(theirs)
        return ours, theirs

    def _let_go(self) -> None:
        while self._theirs:
            os.close(self._theirs.pop())

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
