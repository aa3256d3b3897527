"""Signals while a run is shown: none of them falls between a byte that was written and the note that it was.

Ctrl-C is KeyboardInterrupt as ever; a terminal that goes (SIGHUP) and SIGTERM are HangUp. Each is raised at once where
the program waits, and after what is being written where it writes.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType
    from typing import Any, NoReturn

_SIGNALS = (signal.SIGINT, signal.SIGHUP, signal.SIGTERM)
#: After a signal stdout has this long to take the rest of what is being written.
_REST_S = 2.0
_LOOK_S = 0.2


class HangUp(BaseException):
    """The terminal has gone, or somebody ends this program with the signal `number`."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number

    def end(self) -> NoReturn:
        """End as the signal does by itself, so that whoever waits for this program sees why."""
        signal.signal(self.number, signal.SIG_DFL)
        os.kill(os.getpid(), self.number)
        os._exit(128 + self.number)


class Interrupts:
    """A context in which the signals are raised so; one that was ignored before stays so."""

    def __init__(self) -> None:
        self._held = 0
        self._came = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        for number in _SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._take)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def write(self, data: bytes, noted: Callable[[int], object]) -> None:
        """Write to stdout; `noted` hears of each number of bytes that it took, before any signal is raised."""
        with self.held():
            self._write(memoryview(data), noted)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """In it no signal is raised; one that came is at its end."""
        self._held += 1
        try:
            yield
        finally:
            self._held -= 1
            if not self._held and self._came:
                came, self._came = self._came, 0
                _raise(came)

    def _write(self, left: memoryview, noted: Callable[[int], object]) -> None:
        out = sys.stdout.fileno()
        until = float("inf")
        while left:
            room = select.select([], [out], [], _LOOK_S)[1]
            if self._came:
                until = min(until, time.monotonic() + _REST_S)
            if room:  # then the write takes something, and a signal ends its wait for the rest
                try:
                    took = os.write(out, left)
                except OSError as error:
                    if error.errno == errno.EIO:  # the terminal has gone
                        raise HangUp(signal.SIGHUP) from error
                    raise
                noted(took)
                left = left[took:]
            elif time.monotonic() > until:
                return

    def _take(self, number: int, _: FrameType | None) -> None:
        if self._held:
            self._came = number
        else:
            _raise(number)


def _raise(number: int) -> NoReturn:
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise HangUp(number)
