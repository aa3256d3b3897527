"""Runs one program for each host side by side, and keeps what each says: so many at once, so long, so much."""

from __future__ import annotations

import contextlib
import math
import os
import selectors
import signal
import subprocess
import time
from functools import partial

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping
    from typing import IO

#: What one host may say before it is ended.
OUTPUT_MAX = 16 << 20
_CHUNK = 1 << 16
_LOOK_EVERY_S = 0.25
#: A program that was asked to end gets this long.
_END_S = 2.0


class Ended:
    """How one program ended."""

    def __init__(self, code: int, stdout: bytes, stderr: bytes, cut: str | None) -> None:
        self.code = code
        self.stdout, self.stderr = stdout, stderr
        self.cut = cut  #: why it was ended from here; None where it ended by itself


def run_each(
    commands: Mapping[str, list[str]], *, at_once: int, limit_s: float | None, tick: Callable[[int], None]
) -> Generator[tuple[str, Ended]]:
    """Run every command, `at_once` of them side by side; each name with its end, as they end.

    `tick(done)` is called a few times a second at least. One that runs longer than `limit_s`, or says too much, is
    ended. Closing the iterator, as an interrupt does, ends all. FileNotFoundError when there is no such program.
    """
    waiting = list(commands.items())[::-1]
    running: list[_Running] = []
    done = 0
    with selectors.DefaultSelector() as selector:
        try:
            while waiting or running:
                while waiting and len(running) < at_once:
                    running.append(_Running(*waiting.pop(), limit_s, selector))
                for key, _ in selector.select(_LOOK_EVERY_S):
                    key.data()
                for one in [one for one in running if one.look()]:
                    running.remove(one)
                    done += 1
                    yield one.name, one.ended()
                tick(done)
        finally:
            for one in running:
                one.end(signal.SIGTERM)
            for one in running:
                one.ended()


class _Running:
    """One program under way."""

    def __init__(self, name: str, argv: list[str], limit_s: float | None, selector: selectors.BaseSelector) -> None:
        self.name = name
        self._cut: str | None = None
        self._ends_at = math.inf if limit_s is None else time.monotonic() + limit_s
        self._process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for us, who end all of them; and none asks at the terminal
        )
        self._selector = selector
        self._said: list[bytearray] = []
        self._open = 0
        for pipe in (self._process.stdout, self._process.stderr):
            assert pipe
            said = bytearray()
            self._said.append(said)
            self._open += 1
            selector.register(pipe, selectors.EVENT_READ, partial(self._take, pipe, said))

    def look(self) -> bool:
        """True once it has closed its output; one whose time is up is asked to end, and a little later made to."""
        if time.monotonic() >= self._ends_at:
            self._ends_at = time.monotonic() + _END_S
            self.end(signal.SIGKILL if self._cut else signal.SIGTERM)
            self._cut = self._cut or "its time was up"
        return not self._open

    def end(self, number: int) -> None:
        """Signal it and whatever it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def ended(self) -> Ended:
        """How it ended; it is about to."""
        try:
            code = self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self.end(signal.SIGKILL)
            code = self._process.wait()
        stdout, stderr = map(bytes, self._said)
        return Ended(code if code >= 0 else 128 - code, stdout, stderr, self._cut)

    def _take(self, pipe: IO[bytes], said: bytearray) -> None:
        data = os.read(pipe.fileno(), _CHUNK)
        if not data:
            self._selector.unregister(pipe)
            self._open -= 1
            pipe.close()
        elif len(said) < OUTPUT_MAX:
            said += data
        elif self._cut is None:
            self._cut = f"it said more than {OUTPUT_MAX >> 20} MiB"
            self.end(signal.SIGKILL)
