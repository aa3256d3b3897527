"""Streams: many over one connection, both ways, none of them in another's way; and one with a socket of its own."""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from pool.runner import carry, frames
from pool.runner.frames import Decoder, Frame
from pool.runner.streams import PIECE, WINDOW, CutOffError, OwnStream, Stream, StreamError, Streams


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
    one.write(b"a", {"fd": 2})
    one.write(head={"rows": 24})
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
    command.write(b"in", {"rows": 3})
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


@contextlib.contextmanager
def connected() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Both ends of a TCP connection; they are closed after."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        with client, listener.accept()[0] as accepted:
            yield client, accepted


def fill(write: Callable[[bytes], object]) -> threading.Thread:
    """Writes until nobody takes any more, and waits then."""

    def filling() -> None:
        with contextlib.suppress(StreamError, OSError):
            for _ in range(100):
                write(bytes(1 << 20))

    thread = beside(filling)
    thread.join(0.5)
    assert thread.is_alive()
    return thread


def ended(*threads: threading.Thread) -> None:
    """They have, soon."""
    for thread in threads:
        thread.join(5)
        assert not thread.is_alive()


@pytest.mark.parametrize("how", ["given up", "lost"])
def test_who_writes_to_a_job_that_does_not_read_hears_the_end(sides: tuple[Side, Side], how: str) -> None:
    """The connection to the job is reset, not ended, though one thread sends and the other one hears nothing."""
    near, far = pair(sides)
    with connected() as (job, ours):
        carrying = beside(lambda: carry.carry(near, ours))
        writing = fill(far.write)
        if how == "lost":
            sides[1].link.shutdown(socket.SHUT_RDWR)
        else:
            far.close("the client has gone")
        ended(carrying, writing)
        with pytest.raises(ConnectionResetError):
            while job.recv(1 << 20):
                pass


@pytest.mark.parametrize("kind", ["one of many", "its own"])
def test_who_resets_while_nobody_takes_its_bytes_is_noticed(sides: tuple[Side, Side], kind: str) -> None:
    """The other end of the stream is told, though one thread waits to send and the other one hears nothing."""
    near, far = pair(sides) if kind == "one of many" else own()
    with connected() as (client, ours):
        carrying = beside(lambda: carry.carry(near, ours))
        writing = fill(client.sendall)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.shutdown(socket.SHUT_RDWR)
        client.close()
        ended(carrying, writing)
    with pytest.raises(StreamError):
        received(far)


def test_who_reads_late_gets_all_of_an_end(sides: tuple[Side, Side]) -> None:
    """A client that has sent all and closed for good before the job reads anything: no byte of it is lost."""
    near, far = pair(sides)
    data = os.urandom(2 * WINDOW)
    with connected() as (client, ours), connected() as (job, theirs):
        carrying = [beside(lambda: carry.carry(near, ours)), beside(lambda: carry.carry(far, theirs))]
        sending = beside(lambda: (client.sendall(data), client.close()))
        job.shutdown(socket.SHUT_WR)
        sending.join(0.5)
        with job.makefile("rb") as file:
            assert file.read() == data
        ended(*carrying)


@pytest.mark.parametrize("blocked", ["to the host", "to the command"])
def test_a_command_that_goes_is_noticed(sides: tuple[Side, Side], blocked: str) -> None:
    """Though who writes waits, and who reads hears nothing: the host is told at once."""
    command, server = own()
    near, far = pair(sides)
    joining = beside(lambda: carry.join(server, near))
    writing = fill(command.write if blocked == "to the host" else far.write)
    command.socket.shutdown(socket.SHUT_RDWR)
    command.socket.close()
    ended(joining, writing)
    with pytest.raises(StreamError):
        received(far)


def test_a_slow_command_hears_why(sides: tuple[Side, Side]) -> None:
    """After all that came before, though that fills its socket, and it writes itself meanwhile."""
    command, server = own()
    near, far = pair(sides)
    joining = beside(lambda: carry.join(server, near))
    writing = fill(command.write)
    far.write(bytes(WINDOW - 1))
    far.close("broken")
    joining.join(0.3)
    count = 0
    with pytest.raises(StreamError, match="broken"):
        while frame := command.read():
            count += len(frame.body)
    assert count == WINDOW - 1
    ended(joining, writing)


def test_heads_may_hold_anything(sides: tuple[Side, Side]) -> None:
    """They are passed on, whatever their words are."""
    command, server = own()
    near, far = pair(sides)
    beside(lambda: carry.join(server, near))
    strange = {"body": "x", "self": 1, "head": {}, "number": 2}
    command.write(b"y", strange)
    frame = far.read()
    assert frame
    assert (frame.body, frame.head) == (b"y", strange)


def test_closing_waits_for_nobody() -> None:
    """Not for a thread that writes what the other side does not read, and not for that side."""
    one, other = own()
    writing = fill(one.write)
    closing = beside(lambda: one.close("enough"))
    ended(closing, writing)
    with pytest.raises(CutOffError):
        received(other)


def test_the_end_is_told_to_who_asked_once(sides: tuple[Side, Side]) -> None:
    """Without anybody reading; who asks late is told at once."""
    one, other = pair(sides)
    told: list[str] = []
    heard = threading.Event()
    one.on_over(lambda why: (told.append(why), heard.set()))
    other.close("the host caught fire")
    assert heard.wait(5)
    one.lost("again")
    assert told == ["the host caught fire"]
    one.on_over(told.append)
    assert told == ["the host caught fire"] * 2


def test_some_frames_go_ahead(sides: tuple[Side, Side]) -> None:
    """Those without bytes need no room in the window, and who asks is offered them before what nobody has read."""
    one, other = pair(sides)
    ahead: list[dict[str, object]] = []
    came = threading.Event()

    def take(frame: Frame) -> bool:
        if "signal" not in frame.head:
            return False
        ahead.append(frame.head)
        came.set()
        return True

    other.ahead(take)
    one.write(bytes(WINDOW))
    one.write(head={"signal": "INT"})
    one.write(head={"size": [1, 2]})
    one.end()
    assert came.wait(5)
    assert ahead == [{"signal": "INT"}]
    heads = [frame.head for frame in iter(other.read, None)]
    assert heads == [{}] * (WINDOW // PIECE) + [{"size": [1, 2]}]


def test_the_first_frame_has_to_come_in_time() -> None:
    """Also from who sends a byte now and then."""
    one, other = socket.socketpair()
    one.sendall(b"\0\0")
    began = time.monotonic()
    with pytest.raises(CutOffError):
        OwnStream(other).first(0.3)
    assert time.monotonic() - began < 2
    one.close()
    other.close()
