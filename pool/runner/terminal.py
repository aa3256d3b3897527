"""A raw terminal of a job's own: every byte that is written to it is read here, as it was written.

Programs flush by the line on a terminal, and progress bars look right; a raw one changes nothing of what they write.
"""

from __future__ import annotations

import os
import select
import termios
import time
import tty
from typing import Iterator

_CHUNK = 1 << 16


class Terminal:
    """Both of its ends. While this process holds the job's end, too, there is always more to come."""

    def __init__(self) -> None:
        self.output, self.end = os.openpty()  #: what is read here, -1 once there is nothing more; the job's end
        tty.setraw(self.end, termios.TCSANOW)
        self.path = os.ttyname(self.end)

    def let_go(self) -> None:
        """Leave the job's end to the job."""
        if self.end >= 0:
            os.close(self.end)
        self.end = -1

    def read(self) -> bytes:
        """The next piece of output; nothing once nobody holds the job's end any more."""
        try:
            chunk = os.read(self.output, _CHUNK)
        except OSError:  # EIO: every writer has closed
            chunk = b""
        if not chunk:
            os.close(self.output)
            self.output = -1
        return chunk

    def rest(self, limit_s: float | None) -> Iterator[bytes]:
        """What is still in it; with a limit where a process that cannot be killed may write for ever."""
        until = None if limit_s is None else time.monotonic() + limit_s
        while self.output >= 0 and select.select([self.output], [], [], 0)[0]:
            yield self.read()
            if until is not None and time.monotonic() > until:
                return
