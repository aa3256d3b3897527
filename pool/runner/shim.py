"""The process that holds a container while it runs, between it and the engine: containerd's shim.

When it is killed an engine may say for ever that the container runs, or call its end one by SIGKILL. So it is watched.
"""

from __future__ import annotations

import contextlib
import os
import select

from pool.runner import processes


class Shim:
    """The shim of one container, by the container's first process; nothing is known of it before Python 3.9."""

    def __init__(self, first: int, job: str) -> None:
        self._first, self._job = first, job
        self.handle = -1  #: readable once it has gone
        parent = processes.parent(first)
        if parent > 1 and hasattr(os, "pidfd_open"):
            with contextlib.suppress(OSError):
                self.handle = os.pidfd_open(parent)
        if processes.parent(first) != parent:
            self.close()

    def was_lost(self) -> bool:
        """True when it has gone and left its container behind; a container that has ended takes its shim along."""
        if self.handle < 0 or not select.select([self.handle], [], [], 0)[0]:
            return False
        self.close()
        return processes.is_of_job(self._first, self._job)

    def close(self) -> None:
        """Watch it no more."""
        if self.handle >= 0:
            os.close(self.handle)
        self.handle = -1
