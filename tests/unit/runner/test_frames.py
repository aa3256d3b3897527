"""The wire format: what is sent arrives as it was, however it is cut up; anything else ends the connection at once."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import zlib
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pool.runner import frames
from pool.runner.frames import Decoder, Frame, FrameError, encode

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
_FRAMES = st.builds(
    Frame,
    st.integers(0, 255),
    st.integers(0, 2**32 - 1),
    st.dictionaries(st.text(max_size=8), _JSON, max_size=4),
    st.binary(max_size=300),
)


def _plain(frame: Frame) -> tuple[int, int, dict[str, object], bytes]:
    return frame.kind, frame.stream, frame.head, frame.body


def _raw(inner: bytes, crc: int | None = None) -> bytes:
    tail = struct.pack(">I", zlib.crc32(inner) if crc is None else crc)
    return struct.pack(">I", len(inner) + 4) + inner + tail


def _inner(head: bytes, body: bytes = b"", head_length: int | None = None) -> bytes:
    return struct.pack(">BII", 1, 7, len(head) if head_length is None else head_length) + head + body


@given(st.lists(_FRAMES, max_size=6), st.data())
def test_any_chunking_gives_the_same_frames(sent: list[Frame], data: st.DataObject) -> None:
    """Cut the bytes anywhere, also inside a length: the frames come out whole, in order and once."""
    stream = b"".join(encode(frame) for frame in sent)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=12)))
    decoder, got = Decoder(), []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        got += decoder.feed(stream[start:end])
    assert [_plain(frame) for frame in got] == [_plain(frame) for frame in sent]


@given(_FRAMES, st.data())
def test_a_torn_frame_never_comes_out(frame: Frame, data: st.DataObject) -> None:
    """What was cut off before its last byte is not a frame, and no error either: the rest may still come."""
    stream = encode(frame)
    assert Decoder().feed(stream[: data.draw(st.integers(0, len(stream) - 1))]) == []


@given(_FRAMES, st.data())
def test_a_flipped_bit_never_comes_out(frame: Frame, data: st.DataObject) -> None:
    """One wrong bit anywhere is refused, or still waits for bytes when it stands in the length."""
    stream = bytearray(encode(frame))
    bit = data.draw(st.integers(0, len(stream) * 8 - 1))
    stream[bit // 8] ^= 1 << bit % 8
    with contextlib.suppress(FrameError):
        assert Decoder().feed(bytes(stream)) == []


def test_within_one_machine_the_body_is_not_summed() -> None:
    """The rest is, and both sides have to be of one mind about it."""
    frame = Frame(1, 2, {"a": 1}, b"body")
    (got,) = Decoder(local=True).feed(encode(frame, local=True))
    assert _plain(got) == _plain(frame)
    for decoder, wrong in ((Decoder(), encode(frame, local=True)), (Decoder(local=True), encode(frame))):
        with pytest.raises(FrameError, match="checksum"):
            decoder.feed(wrong)


@given(_FRAMES)
def test_sent_in_pieces(frame: Frame) -> None:
    """Whatever the socket takes at once, the frame arrives whole."""

    class Slow(socket.socket):
        def sendmsg(self, parts: Iterable[Any], *_: Any) -> int:  # type: ignore[override]
            return super().send(b"".join(parts)[:7])

    here, there = socket.socketpair()
    with Slow(fileno=here.detach()) as slow, there:
        frames.send(slow, frame)
        (got,) = Decoder().feed(there.recv(1 << 16))
    assert _plain(got) == _plain(frame)


@given(st.binary(max_size=400))
def test_noise_is_frames_or_an_error(noise: bytes) -> None:
    """Nothing but FrameError comes out of bytes that someone made up."""
    with contextlib.suppress(FrameError):
        Decoder().feed(noise)


@pytest.mark.parametrize("length", [0, 12, frames.MAX_FRAME + 1, 0x7FFFFFFF, 0xFFFFFFFF])
def test_an_impossible_length_is_refused_before_its_bytes_come(length: int) -> None:
    """Four bytes are enough to refuse: nothing is waited for, nothing set aside."""
    with pytest.raises(FrameError, match="out of range"):
        Decoder().feed(struct.pack(">I", length))


@pytest.mark.parametrize(
    "inner",
    [
        _inner(b"{}", head_length=3),
        _inner(b"{}", head_length=0xFFFFFFFF),
        _inner(b"[]"),
        _inner(b"1"),
        _inner(b""),
        _inner(b"{"),
        _inner(b"\xff\xfe"),
        _inner(b'{"a":' + b"9" * 100_000 + b"}"),
        _inner(b'{"a":' * 200_000),
        _inner(b"[" * 2_000_000),
    ],
    ids=[
        "head past end",
        "head far past end",
        "list",
        "number",
        "empty",
        "open",
        "bytes",
        "digits",
        "objects",
        "lists",
    ],
)
def test_a_head_that_is_no_json_object_is_refused(inner: bytes) -> None:
    """Deep, endless or wrong JSON: an error, whatever the recursion limit is."""
    with pytest.raises(FrameError):
        Decoder().feed(_raw(inner))


def test_a_wrong_checksum_is_refused() -> None:
    """A frame whose bytes do not have its crc."""
    with pytest.raises(FrameError, match="checksum"):
        Decoder().feed(_raw(_inner(b"{}"), crc=0))


def test_the_largest_frame_passes_and_a_larger_one_is_not_made() -> None:
    """Both limits are exact, for body and for head."""
    head = {"a": "x" * (frames.MAX_HEAD - len(json.dumps({"a": ""}, separators=(",", ":"))))}
    whole = encode(Frame(1, 1, head, b"b" * frames.MAX_BODY))
    (got,) = Decoder().feed(whole)
    assert got.head == head
    assert len(got.body) == frames.MAX_BODY
    with pytest.raises(FrameError, match="too large"):
        encode(Frame(1, 1, {}, b"b" * (frames.MAX_BODY + 1)))
    with pytest.raises(FrameError, match="too large"):
        encode(Frame(1, 1, {"a": head["a"] + "x"}))
