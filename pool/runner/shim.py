"""The process that holds a container while it runs, between it and the engine: containerd's shim.

When it is killed an engine may say for ever that the container runs, or call its end one by SIGKILL. So it is watched.
"""

from __future__ import annotations

import contextlib
import os
import select

from pool.runner import processes


class Shim:
    """The shim of one container, by the container's first process."""

    def __init__(self, first: int) -> None:
        self._first = processes.identity(first)
        self._parent = processes.parent(first)
        self.handle = -1  #: readable once it has gone; -1 where nothing tells (before Python 3.9)
        if self._parent > 1 and hasattr(os, "pidfd_open"):
            with contextlib.suppress(OSError):
                self.handle = os.pidfd_open(self._parent)
        if processes.parent(first) != self._parent:
            self.close()

    def was_lost(self) -> bool:
        """True when it has gone and left its container behind; a container that has ended takes its shim along."""
        if self.handle >= 0:
            if not select.select([self.handle], [], [], 0)[0]:
                return False
            self.close()
            lost = True
        else:
            lost = self._parent > 1 and processes.parent(int(self._first["pid"])) not in (self._parent, 0)
        self._parent = 0 if lost else self._parent
        return lost and processes.alive(self._first)

    def close(self) -> None:
        """Watch it no more."""
        if self.handle >= 0:
            os.close(self.handle)
        self.handle = -1
