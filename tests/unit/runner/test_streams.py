"""Streams: many over one connection, both ways, none of them in another's way; and one with a socket of its own."""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from pool.runner import carry, frames
from pool.runner.frames import Decoder, Frame
from pool.runner.streams import PIECE, WINDOW, OwnStream, Stream, StreamError, Streams


class Side:
    """One end of a connection with many streams, as the link and the runner have it."""

    def __init__(self, link: socket.socket) -> None:
        self.link = link
        self._lock = threading.Lock()
        self.streams = Streams(self._send)
        threading.Thread(target=self._read, daemon=True).start()

    def _send(self, frame: Frame) -> None:
        data = frames.encode(frame)
        with self._lock:
            try:
                self.link.sendall(data)
            except OSError:
                self.streams.lost("gone")

    def _read(self) -> None:
        decoder = Decoder()
        with contextlib.suppress(OSError):
            while chunk := self.link.recv(1 << 16):
                for frame in decoder.feed(chunk):
                    self.streams.take(frame)
        self.streams.lost("gone")


@pytest.fixture
def sides() -> Iterator[tuple[Side, Side]]:
    """Both ends of one."""
    one, other = socket.socketpair()
    yield Side(one), Side(other)
    for each in (one, other):
        each.shutdown(socket.SHUT_RDWR)
        each.close()


def pair(sides: tuple[Side, Side], number: int = 1) -> tuple[Stream, Stream]:
    """Both ends of a stream."""
    return sides[0].streams.add(number), sides[1].streams.add(number)


def own() -> tuple[OwnStream, OwnStream]:
    """Both ends of a stream that has a socket to itself."""
    one, other = socket.socketpair()
    return OwnStream(one), OwnStream(other)


def beside(work: Callable[[], object]) -> threading.Thread:
    """The work, under way."""
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def received(stream: Stream | OwnStream) -> bytes:
    """All that comes."""
    found = b""
    while frame := stream.read():
        found += frame.body
    return found


def test_bytes_heads_and_ends_arrive_in_order(sides: tuple[Side, Side]) -> None:
    """Both ways; the end of one way is not that of the other."""
    one, other = pair(sides)
    one.write(b"a", fd=2)
    one.write(rows=24)
    one.end()
    first, second = other.read(), other.read()
    assert first and second
    assert (first.body, first.head, second.body, second.head) == (b"a", {"fd": 2}, b"", {"rows": 24})
    assert other.read() is None
    other.write(b"back")
    other.end()
    assert received(one) == b"back"


def test_a_reader_that_sleeps_holds_up_itself_alone(sides: tuple[Side, Side]) -> None:
    """Who writes to it waits after a window's worth; another stream of the same connection goes on."""
    slow, asleep = pair(sides, 1)
    quick, awake = pair(sides, 2)
    slow.write(bytes(WINDOW))
    waiting = beside(lambda: slow.write(bytes(PIECE)))
    data = os.urandom(3 * WINDOW)
    beside(lambda: (quick.write(data), quick.end()))
    assert hashlib.sha256(received(awake)).digest() == hashlib.sha256(data).digest()
    waiting.join(0.1)
    assert waiting.is_alive()
    left = WINDOW + PIECE
    while left:
        left -= len((asleep.read() or Frame(0, 0, {})).body)
    waiting.join(30)
    assert not waiting.is_alive()


def test_what_is_read_may_be_sent_again(sides: tuple[Side, Side]) -> None:
    """Far more than a window, both ways at once, exact."""
    one, other = pair(sides)
    data = os.urandom(4 * WINDOW + 12345)
    back: list[bytes] = []
    for stream in (one, other):
        beside(lambda stream=stream: (stream.write(data), stream.end()))  # type: ignore[misc]
    reading = beside(lambda: back.append(received(one)))
    assert received(other) == data
    reading.join()
    assert back == [data]


def test_who_gives_up_is_heard(sides: tuple[Side, Side]) -> None:
    """With a reason it is an error for the other side, without one just the end; what came before is read first."""
    one, other = pair(sides, 1)
    one.write(b"so far")
    one.close("the host caught fire")
    assert (other.read() or Frame(0, 0, {})).body == b"so far"
    with pytest.raises(StreamError, match="caught fire"):
        other.read()
    one, other = pair(sides, 2)
    one.close()
    assert other.read() is None
    with pytest.raises(StreamError):
        other.write(b"nobody reads this")


def test_a_lost_connection_is_no_end(sides: tuple[Side, Side]) -> None:
    """Every stream of it fails, those that are opened later too; who waits wakes."""
    one, _ = pair(sides)
    timer = threading.Timer(0.1, lambda: sides[0].link.shutdown(socket.SHUT_RDWR))
    timer.start()
    with pytest.raises(StreamError):
        one.read()
    with pytest.raises(StreamError):
        sides[0].streams.add(7).read()


def test_a_flood_ends_its_stream_alone(sides: tuple[Side, Side]) -> None:
    """Who sends more than was allowed is not listened to any further: memory is bounded."""
    _, other = pair(sides, 1)
    for _ in range((WINDOW + 2 * PIECE) // PIECE + 1):
        sides[1].streams.take(Frame(frames.DATA, 1, {}, bytes(PIECE)))
    with pytest.raises(StreamError, match="more was sent"):
        received(other)
    fine, there = pair(sides, 2)
    fine.write(b"x")
    assert there.read()


def test_one_with_a_socket_of_its_own() -> None:
    """The same words, the same meaning."""
    one, other = own()
    data = os.urandom(WINDOW)
    beside(lambda: (one.write(data), one.end()))
    assert received(other) == data
    other.close("enough")
    with pytest.raises(StreamError, match="enough"):
        one.read()
    one, other = own()
    one.socket.close()
    with pytest.raises(StreamError, match="cut off"):
        other.read()


def test_bytes_are_carried_between_sockets(sides: tuple[Side, Side]) -> None:
    """A client, a stream, a server: half-closed at one end is half-closed at the other, and the answer comes back."""
    listener = socket.create_server(("127.0.0.1", 0))
    client = socket.create_connection(listener.getsockname())
    accepted = listener.accept()[0]
    served, job = socket.socketpair()
    near, far = pair(sides)
    beside(lambda: carry.carry(near, accepted))
    beside(lambda: carry.carry(far, served))
    data = os.urandom(2 * WINDOW)
    beside(lambda: (client.sendall(data), client.shutdown(socket.SHUT_WR)))
    with job.makefile("rb") as file:
        assert file.read() == data
    job.sendall(b"thanks")
    job.close()
    with client.makefile("rb") as file:
        assert file.read() == b"thanks"
    client.close()
    listener.close()


def test_what_was_cut_off_does_not_look_whole(sides: tuple[Side, Side]) -> None:
    """When the connection in the middle is lost, the client's ends with an error, not with an end."""
    listener = socket.create_server(("127.0.0.1", 0))
    client = socket.create_connection(listener.getsockname())
    near, far = pair(sides)
    beside(lambda: carry.carry(near, listener.accept()[0]))
    far.write(b"the first half")
    assert client.recv(100) == b"the first half"
    sides[0].link.shutdown(socket.SHUT_RDWR)
    with pytest.raises(ConnectionResetError):
        while client.recv(100):
            pass
    client.close()
    listener.close()


def test_two_streams_are_joined(sides: tuple[Side, Side]) -> None:
    """Heads go along; an end is an end; what breaks on one side breaks on the other."""
    command, server = own()
    near, far = pair(sides)
    beside(lambda: carry.join(server, near))
    command.write(b"in", rows=3)
    frame = far.read()
    assert frame
    assert (frame.body, frame.head) == (b"in", {"rows": 3})
    far.write(b"out")
    far.close("broken")
    assert (command.read() or Frame(0, 0, {})).body == b"out"
    with pytest.raises(StreamError, match="broken"):
        command.read()


def test_what_follows_the_first_frame_may_be_no_frame() -> None:
    """Not a byte of it is taken, however close it comes; a first frame that is none is an error."""
    one, other = socket.socketpair()
    own_end = OwnStream(other)
    one.sendall(frames.encode(Frame(frames.REPLY, 0, {"yes": 1})) + b"SSH-2.0-")
    assert own_end.first().head == {"yes": 1}
    assert other.recv(100) == b"SSH-2.0-"
    one.sendall(b"HTTP/1.0 400 no such thing\r\n")
    one.shutdown(socket.SHUT_WR)
    with pytest.raises(StreamError, match="cut off"):
        own_end.first()
    one.close()
    other.close()
