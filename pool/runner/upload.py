"""Contents on their way in: one after the other as one stream of bytes, each hash checked as it passes.

Pieces may come in any order and twice; they are written in order. What differs from its hash ends the upload, and
nothing of it stays.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
import time

from pool.runner.ledger import RefusedError
from pool.runner.manifest import Content

#: Most bytes that may be ahead of a piece that has not come.
_AHEAD = 64 << 20


class Upload:
    """One upload into the file `path`."""

    def __init__(self, path: str, contents: list[Content]) -> None:
        self.path, self.contents = path, contents
        self.size = sum(size for _, size in contents)
        self.at = 0  #: bytes that have come, in order
        self.heard = time.monotonic()
        self._lock = threading.Lock()
        self._ahead: dict[int, bytes] = {}
        self._number, self._left = 0, contents[0][1] if contents else 0
        self._digest = hashlib.sha256()
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)

    def write(self, offset: int, data: bytes) -> None:
        """Take one piece. RefusedError("bad_code") for bytes that do not have their hash, or that nobody asked for."""
        with self._lock:
            self.heard = time.monotonic()
            if self._fd < 0 or offset < 0 or offset + len(data) > self.size:
                raise RefusedError("bad_code", "bytes that were not asked for")
            if offset > self.at:
                if sum(map(len, self._ahead.values())) + len(data) > _AHEAD:
                    raise RefusedError("bad_code", "pieces that are too far ahead")
                self._ahead[offset] = data
                return
            self._take(memoryview(data)[self.at - offset :])
            while self._ahead and min(self._ahead) <= self.at:
                first = min(self._ahead)
                self._take(memoryview(self._ahead.pop(first))[self.at - first :])

    def finish(self) -> None:
        """All pieces are here. RefusedError("bad_code") when they are not."""
        with self._lock:
            if self._fd >= 0:
                self._pass_empty()
                whole = self.at == self.size and self._number == len(self.contents)
                self._close()
                if not whole:
                    raise RefusedError("bad_code", "the folder did not arrive whole; it is sent again")

    def drop(self) -> None:
        """Give it up."""
        with self._lock:
            self._close()
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.path)

    def _take(self, data: memoryview) -> None:
        written = 0
        while written < len(data):  # a disk that is nearly full takes only a part
            written += os.write(self._fd, data[written:])
        while data:
            self._pass_empty()
            part = data[: self._left]
            self._digest.update(part)
            self._left -= len(part)
            self.at += len(part)
            data = data[len(part) :]
        self._pass_empty()

    def _pass_empty(self) -> None:
        """Go on from contents of which no byte is missing."""
        while self._number < len(self.contents) and self._left == 0:
            if self._digest.hexdigest() != self.contents[self._number][0]:
                raise RefusedError("bad_code", "the folder arrived damaged; it is sent again")
            self._number += 1
            self._digest = hashlib.sha256()
            self._left = self.contents[self._number][1] if self._number < len(self.contents) else 0

    def _close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
