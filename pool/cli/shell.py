"""A shell inside of a running job, or one command, at this end: the terminal, stdin, stdout, stderr and signals."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import threading
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from pool.inside.shell import Shell

_CHUNK = 1 << 17
#: Their number in the pipe that wakes who sends: the terminal has another size; Ctrl-C without a terminal.
_RESIZED, _INTERRUPTED = b"r", b"i"
#: Input that nobody has taken for so long holds up all that is sent after it, a signal too.
_STUCK_S = 0.5


def into_run(name: str, rank: int, command: list[str], *, tty: bool | None = None) -> int:
    """Run the job's shell, or `command` in it; its exit code. `tty`: whether on a terminal; None as ssh decides.

    PoolError, with the local terminal as it was, when it cannot be had or is cut off.
    """
    from pool.cli import render
    from pool.inside.shell import Shell

    if tty is None:
        tty = not command and os.isatty(0)
    wants = {"rows": 24, "cols": 80, **_size(), "term": os.environ.get("TERM") or "xterm"} if tty else None
    with Shell(name, rank, command, wants, render.waiting) as shell:
        sender = _Sender(shell)
        with _signals(sender, tty), _raw(tty):
            threading.Thread(target=sender.send, daemon=True).start()
            for fd, data in shell.output():
                render.write_all(fd, data)
        assert shell.code is not None
        return shell.code


class _Sender:
    """Sends what is typed or piped, and what `tell` was told."""

    def __init__(self, shell: Shell) -> None:
        self._shell = shell
        self._waking, self._wake = os.pipe()
        self._since: float | None = None

    def tell(self, what: bytes) -> None:
        """Have it sent, without waiting for that; may be called from a signal handler."""
        os.write(self._wake, what)

    @property
    def is_stuck(self) -> bool:
        """True where what it is told cannot be sent before somebody takes what it has already."""
        since = self._since
        return since is not None and time.monotonic() - since > _STUCK_S

    def send(self) -> None:
        """For as long as anybody takes it."""
        watched, taken = [self._waking, 0], True
        while taken:
            ready = select.select(watched, [], [])[0]
            if self._waking in ready:
                news = os.read(self._waking, 64)
                if _RESIZED in news:
                    size = _size()
                    taken = self._shell.write(size=[size["rows"], size["cols"]])
                if _INTERRUPTED in news:
                    taken = self._shell.write(signal="INT")
            if 0 in ready:
                try:
                    data = os.read(0, _CHUNK)
                except OSError:  # no longer ours: in the background, or hung up
                    data = b""
                if data:
                    self._since = time.monotonic()
                    taken = self._shell.write(data)
                    self._since = None
                else:
                    watched.remove(0)
                    self._shell.end()


@contextlib.contextmanager
def _signals(sender: _Sender, tty: bool) -> Iterator[None]:
    """Pass on sizes, and a first Ctrl-C where no terminal does it and it can be sent; another one leaves.

    What ends us restores first.
    """
    interrupted = False

    def interrupt(*_: Any) -> None:
        nonlocal interrupted
        if interrupted or tty or sender.is_stuck:
            raise KeyboardInterrupt
        interrupted = True
        sender.tell(_INTERRUPTED)

    def leave(number: int, _: Any) -> None:
        raise SystemExit(128 + number)

    handlers: dict[int, Any] = {signal.SIGINT: interrupt, signal.SIGTERM: leave, signal.SIGHUP: leave}
    if tty:
        handlers[signal.SIGWINCH] = lambda *_: sender.tell(_RESIZED)
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _raw(tty: bool) -> Iterator[None]:
    """The local terminal, if there is one, raw: what is typed is the other side's business."""
    if not (tty and os.isatty(0)):
        yield
        return
    import termios
    from tty import setraw

    before = termios.tcgetattr(0)
    setraw(0, termios.TCSANOW)
    try:
        yield
    except BaseException:
        sys.stderr.write("\r\n")  # the last line may have no end
        raise
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)


def _size() -> dict[str, int]:
    """Of the local terminal; nothing where there is none."""
    for fd in (0, 1, 2):
        with contextlib.suppress(OSError):
            size = os.get_terminal_size(fd)
            return {"rows": size.lines, "cols": size.columns}
    return {}
