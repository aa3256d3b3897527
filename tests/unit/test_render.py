"""How values look to people."""

from __future__ import annotations

import io
import sys

import pytest

from pool.cli import render


def test_a_table_is_as_wide_as_it_needs() -> None:
    """Columns two spaces apart, nothing at the end of a line, None is empty, no colour in a pipe."""
    assert render.table(("A", "LONG"), [["xyz", None], [1, "ready"]]) == "A    LONG\nxyz\n1    ready\n"
    assert render.table(("A",), []) == "A\n"


@pytest.mark.parametrize(
    ("mib", "text"), [(None, ""), (0, "0MB"), (1023, "1023MB"), (1024, "1GB"), (81559, "80GB"), (1 << 21, "2.0TB")]
)
def test_gigabytes(mib: float | None, text: str) -> None:
    """Sizes in MiB as people say them."""
    assert render.gigabytes(mib) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (59.4, "59s"), (60, "1m"), (3599, "60m"), (3600, "1h"), (86400, "1d"), (259200, "3d")],
)
def test_span(seconds: float, text: str) -> None:
    """The largest unit only."""
    assert render.span(seconds) == text


def test_ago_of_a_clock_that_is_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """A time in the future, as another clock may give it, is now."""
    monkeypatch.setattr(render.time, "time", lambda: 100.0)
    assert [render.ago(at) for at in (None, 40.0, 1000.0)] == ["", "1m", "0s"]


def test_all_bytes_are_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where stdout takes a part of them at a time."""

    class Slow(io.RawIOBase):
        taken = b""

        def write(self, data: bytes) -> int:  # type: ignore[override]
            self.taken += bytes(data[:3])
            return min(3, len(data))

    class Out:
        buffer = Slow()

    monkeypatch.setattr(sys, "stdout", Out())
    render.write_bytes(b"0123456789")
    assert Out.buffer.taken == b"0123456789"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("gpu1 is ready\ntry: pool ps", "gpu1 is ready\ntry: pool ps"),
        ("a\x1b]52;c;aGk=\x07b", "a\\x1b]52;c;aGk=\\x07b"),
        ("left\u202eright", "left\\u202eright"),
        ("naïve – 日本", "naïve – 日本"),
    ],
)
def test_what_others_say_is_not_obeyed(text: str, shown: str) -> None:
    """No control sequence of a host's, an image's or a file's name reaches a terminal; lines stay lines."""
    assert render.plain(text) == shown
