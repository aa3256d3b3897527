"""Streams of bytes, both ways: a forwarded port, a shell, a copied folder. Many share a connection, or one has its own.

    OPEN n {"verb": …} ─▶  ◀─ REPLY n {…} | ERROR n     the stream n is open, or it is not
    DATA n {…} bytes   ◀─▶ DATA n {…} bytes             {"end": true}: the last of this way
    CREDIT n {"bytes": k}                               k bytes were read: as many more may be sent
    RESET n {"message": why}                            over, both ways; without a message there is just no more to say

Of each stream at most WINDOW bytes a way are sent and not yet read, so that a slow reader holds up itself alone: no
other stream, no request, no ping. `Stream` is either end of one among many, `Streams` their table, `OwnStream` one
that has a socket to itself, where the kernel holds back who writes too fast.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections import deque
from typing import Any, Callable

from pool.runner import frames
from pool.runner.frames import Decoder, Frame, FrameError

WINDOW = 4 << 20
#: Larger bodies are sent in pieces of this size, so that what is small comes in between.
PIECE = 1 << 18
_CHUNK = 1 << 18
#: Of frames without bytes, which take no room in the window, no more than this may wait.
_FRAMES_MAX = 1 << 16


class StreamError(Exception):
    """The stream ended before its end: the other side gave it up, or the connection was lost."""


class CutOffError(StreamError):
    """The connection that the stream has to itself was lost: nobody has said why."""


class Stream:
    """One of many. Two threads may use it, one for each way; `close` it in the end, whatever happened."""

    def __init__(self, number: int, send: Callable[[Frame], None], forget: Callable[[int], object]) -> None:
        self.number = number
        self._send, self._forget = send, forget
        self._changed = threading.Condition()
        self._arrived: deque[Frame] = deque()
        self._unread = 0  #: bytes in `_arrived`
        self._owed = 0  #: bytes that were read and not yet said to be
        self._credit = WINDOW
        self._ended = self._they_ended = False
        self._over: str | None = None  #: why, once it is over; "" for no reason
        self._on_over: Callable[[str], object] = lambda _: None
        self._ahead: Callable[[Frame], bool] = lambda _: False

    def on_over(self, call: Callable[[str], object]) -> None:
        """Have it called with the reason ("" for none), once, as soon as the other side or the connection has ended it.

        Also where nobody reads or writes just then. It is called by the connection's reader and must not wait.
        """
        with self._changed:
            self._on_over, over = call, self._over
        if over is not None:
            call(over)

    def ahead(self, takes: Callable[[Frame], bool]) -> None:
        """Have frames without bytes offered as they arrive, ahead of bytes that are not yet read: True, and `read` does
        not give that one. It is called by the connection's reader and must not wait.
        """
        self._ahead = takes

    def read(self) -> Frame | None:
        """The next frame, its head and body; None at the other side's end. StreamError when it will not come."""
        with self._changed:
            self._changed.wait_for(lambda: self._arrived or self._they_ended or self._over is not None)
            if not self._arrived:
                if self._they_ended or self._over == "":
                    return None
                raise StreamError(self._over)
            frame = self._arrived.popleft()
            self._unread -= len(frame.body)
            self._owed += len(frame.body)
            owed = self._owed if self._owed >= WINDOW // 4 and self._over is None else 0
            self._owed -= owed
        if owed:
            self._send(Frame(frames.CREDIT, self.number, {"bytes": owed}))
        return frame

    def write(self, body: bytes = b"", head: dict[str, Any] | None = None) -> None:
        """Send bytes and what is to be said of them; bytes wait for the other side to read what it has. StreamError."""
        for at in range(0, len(body) or 1, PIECE):
            piece = body[at : at + PIECE] if len(body) > PIECE else body
            with self._changed:
                self._changed.wait_for(lambda: not body or self._credit > 0 or self._over is not None)
                if self._over is not None:
                    raise StreamError(self._over or "the other side has ended it")
                self._credit -= len(piece)
            self._send(Frame(frames.DATA, self.number, head or {}, piece))

    def end(self) -> None:
        """No more from this side."""
        with contextlib.suppress(StreamError):
            self.write(head={"end": True})
        self._ended = True

    def close(self, message: str = "") -> None:
        """Be done with it, both ways; `message` tells the other side what went wrong."""
        with self._changed:
            silent = self._over is not None or (self._ended and self._they_ended and not message)
            self._over = self._over if self._over is not None else message
            self._changed.notify_all()
        if not silent:
            self._send(Frame(frames.RESET, self.number, {"message": message}))
        self._forget(self.number)

    def give_up(self, message: str) -> None:
        """Tell the other side that no more comes, and why; `close` it all the same."""
        self.close(message)

    def take(self, frame: Frame) -> None:
        """From the connection's reader: a frame of this stream. Never waits."""
        if frame.kind == frames.RESET:
            self.lost(str(frame.head.get("message", "")))
            return
        if frame.kind == frames.DATA and not frame.body and self._ahead(frame):
            return
        flooded = False
        with self._changed:
            if frame.kind == frames.CREDIT:
                self._credit += max(0, int(frame.head.get("bytes", 0)))
            elif frame.head.get("end"):
                self._they_ended = True
            elif self._over is None:
                self._arrived.append(frame)
                self._unread += len(frame.body)
                flooded = self._unread > WINDOW + PIECE or len(self._arrived) > _FRAMES_MAX
            self._changed.notify_all()
        if flooded:
            self.lost("more was sent than was allowed")

    def lost(self, why: str) -> None:
        """From the connection: the other side has ended it, or the connection has gone."""
        with self._changed:
            if self._over is not None:
                return
            self._over = why
            self._changed.notify_all()
            tell = self._on_over
        tell(why)


class Streams:
    """The open streams of one connection."""

    def __init__(self, send: Callable[[Frame], None]) -> None:
        """`send` sends a frame, or does nothing once the connection has gone."""
        self._send = send
        self._open: dict[int, Stream] = {}
        self._lost: str | None = None

    def add(self, number: int) -> Stream:
        """A new stream, before anything of it can arrive."""
        stream = self._open[number] = Stream(number, self._send, lambda each: self._open.pop(each, None))
        if self._lost is not None:
            stream.lost(self._lost)
        return stream

    @property
    def count(self) -> int:
        """How many are open."""
        return len(self._open)

    def take(self, frame: Frame) -> None:
        """A frame of any of them; of one that is no longer there it is passed over."""
        stream = self._open.get(frame.stream)
        if stream is not None:
            stream.take(frame)

    def lost(self, why: str) -> None:
        """The connection has gone, and all streams with it."""
        self._lost = why = why or "the connection was lost"
        for stream in list(self._open.values()):
            stream.lost(why)


class OwnStream:
    """A stream that has a socket to itself. As Stream, word for word; two threads may use it, one for each way."""

    def __init__(self, link: socket.socket) -> None:
        self.socket = link
        self._decoder = Decoder(local=True)
        self._arrived: deque[Frame] = deque()
        self._sending = threading.Lock()
        self._ended = self._given_up = False

    def first(self, patience_s: float | None = None) -> Frame:
        """The first frame, and not a byte of what follows: that may be no frame at all. StreamError, also when it is
        not there within `patience_s`.
        """
        until = None if patience_s is None else time.monotonic() + patience_s
        try:
            data = self._exactly(4, until)
            found = self._decoder.feed(data + self._exactly(min(int.from_bytes(data, "big"), frames.MAX_FRAME), until))
            self.socket.settimeout(None)
        except (OSError, FrameError) as error:
            raise CutOffError("cut off: {}".format(error)) from error
        return found[0]

    def _exactly(self, count: int, until: float | None) -> bytes:
        data = bytearray()
        while len(data) < count:
            if until is not None:
                self.socket.settimeout(max(0.001, until - time.monotonic()))
            chunk = self.socket.recv(count - len(data))
            if not chunk:
                raise CutOffError("cut off")
            data += chunk
        return bytes(data)

    def next(self) -> Frame:
        """The next frame of whatever kind; StreamError where none comes."""
        while not self._arrived:
            try:
                chunk = self.socket.recv(_CHUNK)
                self._arrived.extend(self._decoder.feed(chunk))
            except (OSError, FrameError) as error:
                raise CutOffError("cut off: {}".format(error)) from error
            if not chunk:
                raise CutOffError("cut off")
        return self._arrived.popleft()

    def read(self) -> Frame | None:
        """As of Stream."""
        if self._ended:
            return None
        frame = self.next()
        if frame.kind == frames.RESET:
            self._ended = True
            if frame.head.get("message"):
                raise StreamError(str(frame.head["message"]))
            return None
        if frame.head.get("end"):
            self._ended = True
            return None
        return frame

    def write(self, body: bytes = b"", head: dict[str, Any] | None = None) -> None:
        """As of Stream."""
        for at in range(0, len(body) or 1, PIECE):
            self.say(Frame(frames.DATA, 0, head or {}, body[at : at + PIECE] if len(body) > PIECE else body))

    def say(self, frame: Frame) -> None:
        """Send one frame of whatever kind; StreamError when the other side has gone."""
        with self._sending:
            try:
                frames.send(self.socket, frame, local=True)
            except OSError as error:
                raise CutOffError("cut off: {}".format(error)) from error

    def end(self) -> None:
        """As of Stream."""
        with contextlib.suppress(StreamError):
            self.write(head={"end": True})

    def give_up(self, message: str) -> None:
        """As of Stream; after all that was written, for which it waits."""
        with contextlib.suppress(StreamError):
            self.say(Frame(frames.RESET, 0, {"message": message}))
            self._given_up = True

    def close(self, message: str = "") -> None:
        """As of Stream. Never waits: who does not read it, or is being written to, sees that it was cut off."""
        if not self._given_up and self._sending.acquire(blocking=False):
            try:
                reset = frames.encode(Frame(frames.RESET, 0, {"message": message}), local=True)
                self.socket.send(reset, socket.MSG_DONTWAIT)
            except OSError:
                pass
            finally:
                self._sending.release()
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)  # wakes who waits in `read` or `write`
        self.socket.close()
