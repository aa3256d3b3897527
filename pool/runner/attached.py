"""What the program of a container writes, over the stream that the engine attaches: stdout and stderr as they come."""

from __future__ import annotations

import select
import socket
import time
from typing import Iterator

_CHUNK = 1 << 16
#: How long the stream may stay open once the container has ended.
_REST_S = 10.0


class Framed:
    """Takes apart what an engine sends of a program without a terminal, however it is cut.

    It comes in frames: a kind (1 stdout, 2 stderr), three zeros, a length of four bytes, and as many of output.
    """

    def __init__(self) -> None:
        self._held, self._left, self._kind = b"", 0, 1

    def feed(self, chunk: bytes) -> list[tuple[int, bytes]]:
        """`(kind, bytes)` as they are in it."""
        found, held = [], self._held + chunk
        while held:
            if not self._left:
                if len(held) < 8:
                    break
                self._kind, self._left, held = held[0], int.from_bytes(held[4:8], "big"), held[8:]
            piece, held = held[: self._left], held[self._left :]
            self._left -= len(piece)
            if piece:
                found.append((self._kind, piece))
        self._held = held
        return found


class Attached:
    """One such stream. As `terminal.Terminal`, but that an engine which goes away takes what is under way along."""

    def __init__(self, stream: socket.socket, before: bytes = b"") -> None:
        """`before` is read before all else."""
        self._stream: socket.socket | None = stream
        self._before = before
        self._framed = Framed()

    @property
    def output(self) -> int:
        """What can be read, -1 once there is nothing more."""
        return self._stream.fileno() if self._stream else -1

    def read(self) -> bytes:
        """The next piece of output; nothing at the end."""
        assert self._stream is not None
        try:
            chunk = self._stream.recv(_CHUNK)
        except OSError:
            chunk = b""
        if not chunk:
            self.close()
        before, self._before = self._before, b""
        return before + b"".join(piece for _, piece in self._framed.feed(chunk))

    def rest(self, limit_s: float | None) -> Iterator[bytes]:
        """What is still under way."""
        until = time.monotonic() + (_REST_S if limit_s is None else limit_s)
        while self.output >= 0 and select.select([self.output], [], [], max(0.0, until - time.monotonic()))[0]:
            yield self.read()

    def close(self) -> None:
        """Read no more."""
        if self._stream is not None:
            self._stream.close()
        self._stream = None
