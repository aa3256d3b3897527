"""A bell that everyone who waits for a change hears: the loop, followers of a run, `add-ssh`."""

from __future__ import annotations

import threading
import time


class Bell:
    """Counts changes. A waiter gives the count it has seen, so that no change between looking and waiting is missed."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._count = 0

    @property
    def count(self) -> int:
        """How many changes there were."""
        return self._count

    def ring(self) -> None:
        """Something changed."""
        with self._changed:
            self._count += 1
            self._changed.notify_all()

    def wait(self, seen: int, timeout_s: float) -> int:
        """The count, once it is above `seen` or the time is up."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while self._count <= seen and (left := deadline - time.monotonic()) > 0:
                self._changed.wait(left)
            return self._count
