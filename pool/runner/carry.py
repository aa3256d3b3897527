"""Carries bytes between a stream and a socket, or two streams, both ways, each until its own end.

What half-closes on one side half-closes on the other; what breaks on one side breaks the other: a transfer that was cut
off never looks like one that is whole.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from typing import Callable, Union

from pool.runner.streams import OwnStream, Stream, StreamError

Either = Union[Stream, OwnStream]

_CHUNK = 1 << 18


def carry(stream: Either, sock: socket.socket) -> None:
    """Between `stream` and the connected `sock`; both are closed at the end."""
    _linger(sock, True)  # were this process killed, the kernel would end the connection as if all had been sent

    def inward() -> None:
        while True:
            frame = stream.read()
            if frame is None:
                break
            sock.sendall(frame.body)
        with contextlib.suppress(OSError):  # it may have gone already
            sock.shutdown(socket.SHUT_WR)

    def outward() -> None:
        while True:
            chunk = sock.recv(_CHUNK)
            if not chunk:
                break
            stream.write(chunk)
        stream.end()

    whole = True

    def broken(why: str) -> None:
        nonlocal whole
        whole = False
        cut(sock)
        stream.close(why)

    _both(inward, outward, broken)
    stream.close()
    if whole:
        _linger(sock, False)
    sock.close()


def join(one: Either, other: Either) -> None:
    """Between two streams, heads included; both are closed at the end."""

    def way(source: Either, target: Either) -> Callable[[], None]:
        def move() -> None:
            while True:
                frame = source.read()
                if frame is None:
                    break
                target.write(frame.body, **frame.head)
            target.end()

        return move

    def broken(why: str) -> None:
        one.close(why)
        other.close(why)

    _both(way(one, other), way(other, one), broken)
    one.close()
    other.close()


def _both(first: Callable[[], None], second: Callable[[], None], broken: Callable[[str], None]) -> None:
    """Both at once, until both are through; when one breaks, `broken` has to make the other end as well."""

    def guarded(move: Callable[[], None]) -> None:
        try:
            move()
        except (StreamError, OSError) as error:
            broken(str(error) or "the other side has ended it")

    beside = threading.Thread(target=guarded, args=(first,), daemon=True)
    beside.start()
    guarded(second)
    beside.join()


def cut(sock: socket.socket) -> None:
    """Have a connection end so that its other side sees that it was cut off (RST), and who reads here wakes."""
    _linger(sock, True)
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RD)


def _linger(sock: socket.socket, reset: bool) -> None:
    """Whether closing the socket resets the connection, however it comes to be closed."""
    if sock.family != socket.AF_UNIX:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", int(reset), 0))
