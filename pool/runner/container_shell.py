"""A program inside of a job that is a container: the engine's exec, with the container's user, folder, environment."""

from __future__ import annotations

import contextlib
import socket
import time
from typing import Any, Iterator

from pool.runner import processes
from pool.runner.attached import Framed
from pool.runner.container import name_of
from pool.runner.engine import Engine, EngineError, EngineGoneError
from pool.runner.ledger import RefusedError

_CHUNK = 1 << 17
_END_OF_INPUT = b"\x04"
_CONFLICT, _GONE = 409, 404
#: How long an engine may take to say how a program ended, or which process it is, once it has told of it otherwise.
_TELLS_S = 10.0


class ContainerShell:
    """As `shell.Program` says."""

    def __init__(self, job: str, words: list[str], tty: dict[str, Any] | None) -> None:
        """RefusedError when it cannot be started. `tty`: `{"rows", "cols", "term"}`."""
        self._job = job
        self._engine = Engine()
        self._framed = None if tty else Framed()
        self._leader: dict[str, Any] | None = None
        config = {
            "AttachStdin": True,
            "AttachStdout": True,
            "AttachStderr": True,
            "Tty": tty is not None,
            "Cmd": words,
            "Env": ["TERM={}".format(tty.get("term") or "xterm")] if tty else [],
        }
        try:
            made = self._engine.ask("POST", "/containers/{}/exec".format(name_of(job)), config)
            self._path = "/exec/{}".format(made["Id"])
            start: dict[str, Any] = {"Detach": False, "Tty": tty is not None}
            if tty:
                start["ConsoleSize"] = [int(tty.get("rows") or 24), int(tty.get("cols") or 80)]
            self._link = self._engine.open("POST", self._path + "/start", start)
        except EngineError as error:
            if error.code in (_CONFLICT, _GONE):
                raise RefusedError("waits", "the container of job {} does not run".format(job)) from error
            raise RefusedError("cannot_enter", str(error)) from error
        except EngineGoneError as error:
            raise RefusedError("no_docker", str(error)) from error
        if tty:  # an engine may not yet know that size
            self.resize(int(tty.get("rows") or 24), int(tty.get("cols") or 80))

    def output(self) -> Iterator[tuple[int, bytes]]:
        """As of shell.Program."""
        while True:
            try:
                chunk = self._link.recv(_CHUNK)
            except OSError:
                chunk = b""
            if not chunk:
                return
            yield from self._framed.feed(chunk) if self._framed else [(1, chunk)]

    def code(self) -> int:
        """As of shell.Program; that of SIGKILL when the container has gone with it."""
        until = time.monotonic() + _TELLS_S
        while time.monotonic() < until:
            try:
                told = self._look()
            except EngineError:
                break
            if not told.get("Running") and told.get("ExitCode") is not None:
                return int(told["ExitCode"])
            time.sleep(0.02)
        return 137

    def write(self, data: bytes) -> None:
        """As of shell.Program."""
        with contextlib.suppress(OSError):
            self._link.sendall(data)

    def close_input(self) -> None:
        """On a terminal: as Ctrl-D."""
        if self._framed is None:
            self.write(_END_OF_INPUT)
            return
        with contextlib.suppress(OSError):
            self._link.shutdown(socket.SHUT_WR)

    def resize(self, rows: int, columns: int) -> None:
        """As of shell.Program."""
        if self._framed is None:
            with contextlib.suppress(EngineError, EngineGoneError):
                self._engine.ask("POST", self._path + "/resize", timeout_s=5.0, h=rows, w=columns)

    def leader(self) -> dict[str, Any] | None:
        """As of shell.Program. None also where the engine's numbers are not those of this host."""
        until = time.monotonic() + _TELLS_S
        while self._leader is None and time.monotonic() < until:
            try:
                told = self._look()
            except EngineError:
                break
            pid = int(told.get("Pid") or 0)
            if pid and processes.is_of_job(pid, self._job):
                self._leader = processes.identity(pid)
            elif told.get("ExitCode") is not None and not told.get("Running"):
                break
            else:
                time.sleep(0.02)
        return self._leader

    def drop(self) -> None:
        """As of shell.Program: the engine keeps the process."""
        self.close()

    def close(self) -> None:
        """As of shell.Program."""
        with contextlib.suppress(OSError):
            self._link.shutdown(socket.SHUT_RDWR)  # wakes who writes
        self._link.close()

    def _look(self) -> dict[str, Any]:
        try:
            told: dict[str, Any] = self._engine.ask("GET", self._path + "/json", timeout_s=5.0)
        except EngineGoneError as error:
            raise EngineError(0, str(error)) from error
        return told
