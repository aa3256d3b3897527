"""Serves a program inside of a job to whoever opened its stream, from its start to its exit code.

    ─▶ DATA bytes: stdin; its end is stdin's    ◀─ DATA bytes: stdout, or the terminal's
    ─▶ DATA {"size": [rows, columns]}           ◀─ DATA {"fd": 2} bytes: stderr
    ─▶ DATA {"signal": "INT"}                   ◀─ DATA {"exit": code}, and the end: 128 and the signal that killed it

Who goes away before takes the program along, as with sshd: SIGHUP to its session, and a moment later SIGKILL.
"""

from __future__ import annotations

import signal
import threading
import time
from typing import Any, Iterator

from pool.runner import processes
from pool.runner.streams import Stream, StreamError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    class Program(Protocol):
        """One that runs, on a terminal or on pipes: `entered.Entered` or `executed.Executed`."""

        def output(self) -> Iterator[tuple[int, bytes]]:
            """`(fd, bytes)` as they come, until it has ended."""

        def code(self) -> int:
            """Its exit code, once `output` is through."""

        def write(self, data: bytes) -> None:
            """To its stdin; waits while it does not read, and returns when it has ended."""

        def close_input(self) -> None:
            """Its stdin is through."""

        def resize(self, rows: int, columns: int) -> None:
            """Its terminal has this size from now on."""

        def leader(self) -> dict[str, Any] | None:
            """The identity of its process, which leads a session; None when that is not known."""

        def close(self) -> None:
            """Let go of it, ended or not."""


#: What may be sent to a program that has no terminal.
_SIGNALS = ("HUP", "INT", "QUIT", "TERM", "USR1", "USR2", "KILL")
#: Between SIGHUP and SIGKILL.
_GRACE_S = 2.0


def serve(stream: Stream, program: Program) -> None:
    """Until it has ended and the other side knows, or the other side has gone and nothing of it is left."""
    reader = threading.Thread(target=_inward, args=(stream, program), daemon=True)
    reader.start()
    try:
        for fd, chunk in program.output():
            stream.write(chunk, **({} if fd == 1 else {"fd": fd}))
        stream.write(exit=program.code())
        stream.end()
    except StreamError:
        pass  # the reader hears of it as well
    finally:
        program.close()
        reader.join()


def _inward(stream: Stream, program: Program) -> None:
    """What comes for it, until the other side's end: also after its own, for a stream that is reset loses the rest."""
    try:
        while True:
            frame = stream.read()
            if frame is None:
                program.close_input()
                return
            size, name = frame.head.get("size"), frame.head.get("signal")
            if size:
                program.resize(int(size[0]), int(size[1]))
            if name in _SIGNALS:
                _signal(program, getattr(signal, "SIG" + str(name)))
            if frame.body:
                program.write(frame.body)
    except StreamError:
        _hang_up(program)


def _signal(program: Program, number: int) -> None:
    leader = program.leader()
    if leader is not None:
        processes.send(processes.of_session(leader), number)


def _hang_up(program: Program) -> None:
    leader = program.leader()
    if leader is None:
        return
    left = processes.of_session(leader)
    processes.send(left, signal.SIGHUP)
    processes.send(left, signal.SIGCONT)  # what is stopped hears it, too
    deadline = time.monotonic() + _GRACE_S
    while left and time.monotonic() < deadline:
        time.sleep(0.05)
        left = processes.of_session(leader)
    processes.send(left, signal.SIGKILL)
