"""What a job writes, made safe for a terminal, wherever the chunks are cut."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pool.cli.terminal import Dress, Prefixer, Sanitiser


def safe(*chunks: bytes) -> bytes:
    """What is shown of these chunks."""
    sanitiser = Sanitiser()
    return b"".join(sanitiser.feed(chunk) for chunk in chunks) + sanitiser.finish()


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        (b"plain\r\n\ttext", b"plain\r\n\ttext"),
        (
            b"\x1b[1;31mred\x1b[0m \x1b[38;5;200mx\x1b[38:2::1:2:3m",
            b"\x1b[1;31mred\x1b[0m \x1b[38;5;200mx\x1b[38:2::1:2:3m",
        ),
        (b"10%\r\x1b[K20%\x1b[2K", b"10%\r\x1b[K20%\x1b[2K"),
        (b"\x1b]52;c;aGk=\x07", b"^[]52;c;aGk=^G"),
        (b"\x1b]0;title\x1b\\", b"^[]0;title^[\\"),
        (b"\x1b[2J\x1b[H\x1b[1A\x1b[?1049h\x1bc\x1bP+q\x1b\\", b"^[[2J^[[H^[[1A^[[?1049h^[c^[P+q^[\\"),
        (b"\x1b[6n\x1b[31", b"^[[6n^[[31"),
        (b"a\x00\x08\x0e\x7fb", b"a^@^H^N^?b"),
        (b"\xc2\x9b2J\xc2\x85", b"\\x9b2J\\x85"),
        (b"\x9b2J\xff\xfe\xc3", b"\\x9b2J\\xff\\xfe\\xc3"),
        ("sn\N{SNOWMAN}w".encode(), "sn\N{SNOWMAN}w".encode()),
    ],
)
def test_only_colours_and_erase_line_are_obeyed(written: bytes, shown: bytes) -> None:
    """Everything else that a terminal would obey is shown."""
    assert safe(written) == shown
    assert safe(*(bytes([byte]) for byte in written)) == shown


@given(st.lists(st.binary(max_size=12)))
def test_chunks_make_no_difference(chunks: list[bytes]) -> None:
    """However the bytes arrive, what is shown is the same, and no escape but the two is left."""
    whole = safe(b"".join(chunks))
    assert safe(*chunks) == whole
    for piece in whole.split(b"\x1b")[1:]:
        head = piece.lstrip(b"[0123456789;:")
        assert head[:1] in (b"m", b"K")


def test_lines_of_a_rank_are_prefixed() -> None:
    """Whole lines as they come, the last one at the end; a line without end does not grow in memory."""
    prefixer = Prefixer(3, 2)
    assert prefixer.feed(b"one\ntw") == b"[ 3] one\n"
    assert prefixer.feed(b"o\n\n") == b"[ 3] two\n[ 3] \n"
    assert prefixer.finish() == b""
    out = b"".join(prefixer.feed(b"x" * 100_000) for _ in range(10)) + prefixer.finish()
    assert out.count(b"x") == 1_000_000
    assert max(map(len, out.splitlines())) < 70_000


@given(st.lists(st.binary(max_size=12)), st.booleans(), st.booleans())
def test_what_is_held_back_is_known(chunks: list[bytes], many: bool, tty: bool) -> None:
    """A reader that begins anew there, with nothing held, shows what the first one had yet to show."""

    def dress() -> Dress:
        return Dress(Prefixer(0, 1) if many else None, Sanitiser() if tty else None)

    first, whole = dress(), b"".join(chunks)
    shown = b"".join(map(first.feed, chunks))
    assert first.plain == (not many and not tty)
    again = dress()
    assert shown + again.feed(whole[len(whole) - first.held :]) + again.finish() == shown + first.finish()
