"""What is going on, how far and how long: one line at the foot of a terminal, plain lines now and then when piped.

What is over soon is not shown, and costs nothing: Rich is imported when there is something to show.
"""

from __future__ import annotations

import sys
import time
from threading import Lock, Timer

from pool.cli import render

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.progress import Progress as Bar
    from rich.progress import TaskID

_SOON_S = 0.7
#: Between two plain lines about the same thing.
_EVERY_S = 10.0


class Progress:
    """Of one command. Hide it before anything else is written; `tell` shows it again, and its time goes on."""

    def __init__(self, *, quiet: bool = False, clock: Callable[[], float] = time.monotonic) -> None:
        self.terminal = sys.stderr.isatty()
        self._quiet, self._clock = quiet, clock
        self._lock = Lock()
        self._what, self._said, self._done, self._total = "", "", 0, 0
        self._since = self._said_at = 0.0
        self._timer: Timer | None = None
        self._bar: tuple[Bar, TaskID] | None = None

    def tell(self, what: str, done: int = 0, total: int = 0, *, said: str = "") -> None:
        """`what` is going on, of which more is `said`; of what is measured, `done` of `total` bytes."""
        if self._quiet:
            return
        with self._lock:
            now = self._clock()
            if what != self._what:
                self._put_away()
                self._what, self._since, self._said_at = what, now, now
            self._said, self._done, self._total = said, done, total
            if not self.terminal:
                self._say(now)
            elif self._bar:
                self._bar[0].update(self._bar[1], description=self._text(), completed=done, total=total or None)
            elif self._timer is None:
                self._timer = Timer(max(0.0, self._since + _SOON_S - now), self._appear)
                self._timer.daemon = True
                self._timer.start()

    def hide(self) -> None:
        """Take it off the terminal."""
        if self._what:
            with self._lock:
                self._put_away()

    def _text(self) -> str:
        return render.plain(f"{self._what}: {self._said}" if self._said else self._what).replace("\n", " ")

    def _say(self, now: float) -> None:
        if now - self._said_at >= _EVERY_S:
            self._said_at = now
            far = f" {size(self._done)} of {size(self._total)}," if self._total else ""
            render.note(f"pool: {self._text()}:{far} {now - self._since:.0f} s")

    def _appear(self) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            ProgressColumn,
            SpinnerColumn,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )
        from rich.progress import Progress as Bar
        from rich.table import Column

        with self._lock:
            if self._timer is None:  # hidden meanwhile
                return
            one_line = Column(no_wrap=True, overflow="ellipsis")
            columns: list[ProgressColumn] = [
                SpinnerColumn(),
                TextColumn("{task.description}", markup=False, table_column=one_line),
            ]
            if self._total:
                columns += [BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn()]
            bar = Bar(*columns, TimeElapsedColumn(), console=Console(stderr=True), transient=True)
            task = bar.add_task(self._text(), completed=self._done, total=self._total or None)
            bar.tasks[0].start_time = bar.get_time() - (self._clock() - self._since)
            self._bar = bar, task
            bar.start()

    def _put_away(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._bar is not None:
            self._bar[0].stop()
            self._bar = None


def size(count: int) -> str:
    """Bytes as people say them: `512 B`, `40 MB`, `3.2 GB`."""
    value, units = float(count), ["B", "kB", "MB", "GB", "TB"]
    while value >= 1000 and len(units) > 1:
        value /= 1000
        units.pop(0)
    return f"{value:.0f} {units[0]}" if value >= 10 or units[0] == "B" else f"{value:.1f} {units[0]}"
