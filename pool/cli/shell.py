"""A shell inside of a running job, or one command, at this end: the terminal, stdin, stdout, stderr and signals."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import threading

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from pool.inside import Shell

_CHUNK = 1 << 17
#: Their number in the pipe that wakes who sends: the terminal has another size; Ctrl-C without a terminal.
_RESIZED, _INTERRUPTED = b"r", b"i"


def into_run(name: str, rank: int, command: list[str], *, tty: bool | None = None) -> int:
    """Run the job's shell, or `command` in it; its exit code. `tty`: whether on a terminal; None as ssh decides.

    PoolError, with the local terminal as it was, when it cannot be had or is cut off.
    """
    from pool.cli import render
    from pool.inside import Shell

    if tty is None:
        tty = not command and os.isatty(0)
    wants = {"rows": 24, "cols": 80, **_size(), "term": os.environ.get("TERM") or "xterm"} if tty else None
    waking, wake = os.pipe()
    with Shell(name, rank, command, wants, render.waiting) as shell, _signals(wake, tty), _raw(tty):
        threading.Thread(target=_send, args=(shell, waking), daemon=True).start()
        for fd, data in shell.output():
            _write_all(fd, data)
        assert shell.code is not None
        return shell.code


def _send(shell: Shell, waking: int) -> None:
    """Send what is typed or piped, sizes and signals; for as long as anybody takes it."""
    watched, taken = [waking, 0], True
    while taken:
        ready = select.select(watched, [], [])[0]
        if waking in ready:
            news = os.read(waking, 64)
            if _RESIZED in news:
                size = _size()
                taken = shell.write(size=[size["rows"], size["cols"]])
            if _INTERRUPTED in news:
                taken = shell.write(signal="INT")
        if 0 in ready:
            try:
                data = os.read(0, _CHUNK)
            except OSError:  # no longer ours: in the background, or hung up
                data = b""
            if data:
                taken = shell.write(data)
            else:
                watched.remove(0)
                shell.end()


@contextlib.contextmanager
def _signals(wake: int, tty: bool) -> Iterator[None]:
    """Pass on sizes, and a first Ctrl-C where no terminal does it; a second one leaves. What ends us restores first."""
    interrupted = False

    def interrupt(*_: Any) -> None:
        nonlocal interrupted
        if interrupted or tty:
            raise KeyboardInterrupt
        interrupted = True
        os.write(wake, _INTERRUPTED)

    def leave(number: int, _: Any) -> None:
        raise SystemExit(128 + number)

    handlers: dict[int, Any] = {signal.SIGINT: interrupt, signal.SIGTERM: leave, signal.SIGHUP: leave}
    if tty:
        handlers[signal.SIGWINCH] = lambda *_: os.write(wake, _RESIZED)
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


def _write_all(fd: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(fd, left) :]
