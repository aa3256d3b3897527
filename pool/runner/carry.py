"""Carries bytes between a stream and a socket, or two streams, both ways, each until its own end.

What half-closes on one side half-closes on the other; what breaks on one side breaks the other: a transfer that was cut
off never looks like one that is whole. That is noticed also while neither side reads.
"""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import threading
from typing import Callable, Union

from pool.runner.hangups import watched
from pool.runner.streams import OwnStream, Stream, StreamError

Either = Union[Stream, OwnStream]

_CHUNK = 1 << 18
#: How soon who sends what nobody takes sees that it is in vain.
_LOOK_MS = 300


def carry(stream: Either, sock: socket.socket) -> None:
    """Between `stream` and the connected `sock`; both are closed at the end."""
    _linger(sock, True)  # were this process killed, the kernel would end the connection as if all had been sent
    whole = True

    def inward() -> None:
        while True:
            frame = stream.read()
            if frame is None:
                break
            _send_all(sock, frame.body, lambda: whole)
        with contextlib.suppress(OSError):  # it may have gone already
            sock.shutdown(socket.SHUT_WR)

    def outward() -> None:
        while True:
            chunk = sock.recv(_CHUNK)
            if not chunk:
                break
            stream.write(chunk)
        stream.end()

    def over(why: str) -> None:
        nonlocal whole
        if why:
            whole = False
            cut(sock)
        else:  # what came is still to be sent, but nobody reads any more
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RD)

    def broken(why: str) -> None:
        over(why)
        stream.close(why)

    if isinstance(stream, Stream):
        stream.on_over(over)
    with watched(sock, lambda: broken("the connection was reset"), broken=True):
        _both(inward, outward, broken)
    stream.close()
    if whole:
        _linger(sock, False)
    sock.close()


def join(one: Either, other: Either) -> None:
    """Between two streams, heads included; both are closed at the end."""
    through: set[int] = set()  # to which of them all was passed on

    def way(source: Either, target: Either) -> Callable[[], None]:
        def move() -> None:
            while True:
                try:
                    frame = source.read()
                except StreamError as error:
                    target.give_up(str(error))
                    raise
                if frame is None:
                    break
                try:
                    target.write(frame.body, frame.head)
                except StreamError:
                    if isinstance(target, OwnStream):
                        raise
                    return  # who reads it hears why, and passes that on after all that came before
            target.end()
            through.add(id(target))

        return move

    def broken(why: str) -> None:
        one.close(why)
        other.close(why)

    def gone(own: OwnStream) -> Callable[[], None]:
        def close() -> None:
            if id(own) not in through:  # else what it has sent last is still on its way
                broken("the other side has gone")

        return close

    with contextlib.ExitStack() as watching:
        for each in (one, other):
            if isinstance(each, OwnStream):
                watching.enter_context(watched(each.socket, gone(each)))
        _both(way(one, other), way(other, one), broken)
    one.close()
    other.close()


def _both(first: Callable[[], None], second: Callable[[], None], broken: Callable[[str], None]) -> None:
    """Both at once, until both are through; when one breaks, `broken` has to make the other end as well."""

    def guarded(move: Callable[[], None]) -> None:
        try:
            move()
        except Exception as error:  # whatever it was: half a connection is none
            broken(str(error) or "the other side has ended it")

    beside = threading.Thread(target=guarded, args=(first,), daemon=True)
    beside.start()
    guarded(second)
    beside.join()


def _send_all(sock: socket.socket, data: bytes, wanted: Callable[[], bool]) -> None:
    """Send all of it, for as long as it is `wanted`; StreamError when it no longer is.

    Nothing else wakes who waits in `sendall`: but for a FIN, after which what was cut off would look whole.
    """
    left = memoryview(data)
    poll: select.poll | None = None
    while left:
        if not wanted():
            raise StreamError("the other side has ended it")
        try:
            left = left[sock.send(left, socket.MSG_DONTWAIT) :]
        except BlockingIOError:
            if poll is None:
                poll = select.poll()
                poll.register(sock, select.POLLOUT)
            poll.poll(_LOOK_MS)


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
