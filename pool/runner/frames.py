"""The wire between a server's link and a host's runner: length-prefixed frames over any byte stream.

    u32 length of what follows | u8 kind | u32 stream | u32 length of head | head (JSON) | body | u32 crc32

Integers are big-endian; the crc covers everything between the length and itself, but on a socket within one machine
(`local`) not the body: nothing flips there, and much of what it costs to pass bytes on would be that sum.
A frame is at most MAX_FRAME bytes.
A stream number ties a REPLY or ERROR to its REQUEST or OPEN, and what belongs to an open stream to it (streams.py);
EVENT, PING and PONG use 0. End of stream inside or between frames is a disconnect, never a success.
"""

from __future__ import annotations

import json
import struct
import zlib

TYPE_CHECKING = False
if TYPE_CHECKING:  # the CLI imports this too
    import socket
    from typing import Any

REQUEST, REPLY, ERROR, EVENT, PING, PONG = 1, 2, 3, 4, 5, 6
OPEN, DATA, CREDIT, RESET = 7, 8, 9, 10

#: Most bytes of one body; bulk data is moved in pieces of this size.
MAX_BODY = 1 << 20
MAX_HEAD = 4 << 20
MAX_FRAME = MAX_BODY + MAX_HEAD + 13

_LENGTH = struct.Struct(">I")
_FIXED = struct.Struct(">BII")

PING_EVERY_S = 5.0
#: Silence after which either side gives the connection up.
SILENCE_S = 45.0


class FrameError(Exception):
    """The bytes are not a frame: too long, torn, or the checksum is wrong. The connection is of no more use."""


class Frame:
    """One message: `kind`, `stream`, `head` (a JSON object) and `body` (raw bytes)."""

    __slots__ = ("body", "head", "kind", "stream")

    def __init__(self, kind: int, stream: int, head: dict[str, Any], body: bytes = b"") -> None:
        self.kind = kind
        self.stream = stream
        self.head = head
        self.body = body


def encode(frame: Frame, *, local: bool = False) -> bytes:
    """The frame's bytes; FrameError when it is larger than the other side would take."""
    return b"".join(_parts(frame, local))  # a body is up to 1 MiB: it is copied once


def send(link: socket.socket, frame: Frame, *, local: bool = False) -> None:
    """Send the frame, all of it, without a copy of its body. OSError, FrameError."""
    parts = _parts(frame, local)
    sent = link.sendmsg(parts)
    for part in parts:
        if sent < len(part):
            link.sendall(memoryview(part)[sent:])
        sent = max(0, sent - len(part))


def _parts(frame: Frame, local: bool) -> tuple[bytes, bytes, bytes]:
    head = json.dumps(frame.head, separators=(",", ":")).encode()
    if len(frame.body) > MAX_BODY or len(head) > MAX_HEAD:
        raise FrameError("frame too large: head {} B, body {} B".format(len(head), len(frame.body)))
    front = _FIXED.pack(frame.kind, frame.stream, len(head)) + head
    crc = zlib.crc32(front)
    if not local:
        crc = zlib.crc32(frame.body, crc)
    return _LENGTH.pack(len(front) + len(frame.body) + 4) + front, frame.body, _LENGTH.pack(crc)


class Decoder:
    """Turns chunks of bytes into frames, keeping what is incomplete for the next chunk."""

    def __init__(self, *, local: bool = False) -> None:
        self._local = local
        self._buffer = bytearray()

    def feed(self, chunk: bytes) -> list[Frame]:
        """Every frame completed by `chunk`, in order; FrameError when the stream is broken."""
        self._buffer += chunk
        frames = []
        while len(self._buffer) >= 4:
            (length,) = _LENGTH.unpack_from(self._buffer)
            if not 13 <= length <= MAX_FRAME:
                raise FrameError("frame length {} is out of range".format(length))
            if len(self._buffer) < 4 + length:
                break
            with memoryview(self._buffer) as whole, whole[4 : 4 + length] as data:
                frames.append(_decode(data, self._local))
            del self._buffer[: 4 + length]
        return frames


def _decode(data: memoryview, local: bool) -> Frame:
    """The frame in `data`, of which nothing is kept: it is copied once."""
    end = len(data) - 4
    (crc,) = _LENGTH.unpack_from(data, end)
    kind, stream, head_length = _FIXED.unpack_from(data)
    body_at = _FIXED.size + head_length
    if body_at > end:
        raise FrameError("head is longer than its frame")
    with data[: body_at if local else end] as summed:
        if zlib.crc32(summed) != crc:
            raise FrameError("checksum mismatch")
    try:
        head = json.loads(bytes(data[_FIXED.size : body_at]))
    except (ValueError, RecursionError) as error:
        raise FrameError("head is not JSON: {}".format(error)) from error
    if not isinstance(head, dict):
        raise FrameError("head is not a JSON object")
    return Frame(kind, stream, head, bytes(data[body_at:end]))
