"""Serves a program inside of a job to whoever opened its stream, from its start to its exit code.

    ─▶ DATA bytes: stdin; its end is stdin's    ◀─ DATA bytes: stdout, or the terminal's
    ─▶ DATA {"eof": true}: likewise, and more may come
    ─▶ DATA {"size": [rows, columns]}           ◀─ DATA {"fd": 2} bytes: stderr
    ─▶ DATA {"signal": "INT"}                   ◀─ DATA {"exit": code}, and the end: 128 and the signal that killed it

A signal does not wait for the program to read its stdin. Who goes away before the end takes the program along, as with
sshd, also while it reads nothing and says nothing: SIGHUP to its session, and a moment later SIGKILL.
"""

from __future__ import annotations

import signal
import threading
import time
from typing import Any, Iterator

from pool.runner import processes
from pool.runner.frames import Frame
from pool.runner.streams import Stream, StreamError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    class Program(Protocol):
        """One that runs, on a terminal or on pipes; in process_shell.py and container_shell.py."""

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

        def drop(self) -> None:
            """End it, or at least what this process holds of it, by what is at hand: without opening a file."""

        def close(self) -> None:
            """Let go of it, ended or not."""


#: What may be sent to a program that has no terminal.
_SIGNALS = ("HUP", "INT", "QUIT", "TERM", "USR1", "USR2", "KILL")
#: Between SIGHUP and SIGKILL.
_GRACE_S = 2.0
#: Between two tries to find what is left, where there is no file descriptor for it.
_AGAIN_S = 0.2


def serve(stream: Stream, program: Program) -> None:
    """Until it has ended and the other side knows, or the other side has gone and nothing of it is left."""
    served = _Served(stream, program)
    stream.ahead(served.ahead)
    stream.on_over(served.over)
    reader = threading.Thread(target=served.inward, daemon=True)
    reader.start()
    try:
        for fd, chunk in program.output():
            stream.write(chunk, None if fd == 1 else {"fd": fd})
        code = program.code()
        served.ended = True
        stream.write(head={"exit": code})
        stream.end()
    except StreamError:
        pass  # `over` hears of it as well
    finally:
        program.close()
        reader.join()
        served.wait()


class _Served:
    """What comes for a program, and the end of who sends it."""

    def __init__(self, stream: Stream, program: Program) -> None:
        self._stream, self._program = stream, program
        self.ended = False  #: by itself: what it has left running is left alone
        self._signalling = threading.Lock()
        self._hanging_up: threading.Thread | None = None

    def inward(self) -> None:
        """Until the other side's end: also after its own, for a stream that is reset loses the rest."""
        try:
            while True:
                frame = self._stream.read()
                if frame is None:
                    self._program.close_input()
                    return
                size, name = frame.head.get("size"), frame.head.get("signal")
                if size:
                    self._program.resize(int(size[0]), int(size[1]))
                if name in _SIGNALS:
                    _signal(self._program, name)
                if frame.body:
                    self._program.write(frame.body)
                if frame.head.get("eof"):
                    self._program.close_input()
        except StreamError:
            pass
        except Exception as error:  # not as said above: half a shell is none
            why = "the host stumbled: {!r}".format(error)
            self._stream.close(why)
            self.over(why)

    def ahead(self, frame: Frame) -> bool:
        """A signal is passed on at once; another one that comes meanwhile waits its turn."""
        name = frame.head.get("signal")
        if name not in _SIGNALS or not self._signalling.acquire(blocking=False):
            return False

        def send() -> None:
            try:
                _signal(self._program, name)
            finally:
                self._signalling.release()

        threading.Thread(target=send, daemon=True).start()
        return True

    def over(self, why: str) -> None:
        """The other side has gone; without a reason, it has just no more to say."""
        if why and not self.ended:
            self._hanging_up = threading.Thread(target=_hang_up, args=(self._program,), daemon=True)
            self._hanging_up.start()

    def wait(self) -> None:
        """Until it is hung up, if it has to be."""
        if self._hanging_up is not None:
            self._hanging_up.join()


def _signal(program: Program, name: str) -> None:
    """One of _SIGNALS, to its session."""
    leader = program.leader()
    if leader is not None:
        processes.send(processes.of_session(leader), getattr(signal, "SIG" + name))


def _hang_up(program: Program) -> None:
    """SIGHUP to its session, and SIGKILL to what is left; where no file can be opened to find it, until one can."""
    while True:
        try:
            leader = program.leader()
            if leader is not None:
                hang_up(leader)
            return
        except OSError:
            program.drop()  # frees what it holds here, which may be what is missing
            time.sleep(_AGAIN_S)


def hang_up(leader: dict[str, Any]) -> None:
    """As sshd does when a client has gone, to the session of that process. OSError where no file can be opened."""
    left = processes.of_session(leader)
    processes.send(left, signal.SIGHUP)
    processes.send(left, signal.SIGCONT)  # what is stopped hears it, too
    deadline = time.monotonic() + _GRACE_S
    while left and time.monotonic() < deadline:
        time.sleep(0.05)
        left = processes.of_session(leader)
    processes.send(left, signal.SIGKILL)
