"""Pulling a log: several pieces are asked for at once, and still every byte is given once and in order."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pool.errors import PoolError, UnreachableError
from pool.lifecycle import follow
from pool.lifecycle.context import Context
from pool.run import Job
from pool.runner.frames import MAX_BODY
from pool.states import JobStatus

#: Of a length that no piece is a multiple of.
_PATTERN = bytes(range(251)) * 1009
JOB = Job("r-0-1", "r", 0, 1, JobStatus.RUNNING, host_id="h")


class Host:
    """A host whose log grows while it is read: by `growth[n]` bytes after the n-th piece was read."""

    def __init__(self, growth: list[int], *, lost_after: int | None = None) -> None:
        self.growth, self.lost_after = growth, lost_after
        self.size = growth[0]
        self.read = self.answered = 0

    def ask(self, _: str, __: str, *, offset: int, **___: Any) -> Callable[[float], tuple[dict[str, Any], bytes]]:
        """Read now, as a host may; answer later."""
        length = max(0, min(MAX_BODY, self.size - offset))
        self.read += 1
        if self.read < len(self.growth):
            self.size += self.growth[self.read]
        head = {"offset": offset, "size": self.size, "eof": False}
        number = self.read

        def answer(_: float) -> tuple[dict[str, Any], bytes]:
            self.answered += 1
            if self.lost_after is not None and number > self.lost_after:
                raise UnreachableError
            return head, _bytes(offset, length)

        return answer


def _bytes(offset: int, length: int) -> bytes:
    """Bytes that tell where they stood."""
    first = offset % len(_PATTERN)
    return (_PATTERN * ((first + length) // len(_PATTERN) + 1))[first : first + length]


def _reader(host: Host) -> tuple[follow._Reader, Callable[[], bytes]]:
    news: Any = queue.Queue()
    ctx = cast(Context, SimpleNamespace(keeper=host))
    reader = follow._Reader(ctx, follow._Standing(ctx, "r"), 0, (1, 0), False, news, threading.Event())

    def given() -> bytes:
        pieces = []
        while not news.empty():
            pieces.append(news.get())
        at = 0
        for piece in pieces:
            assert piece.offset == at
            at += len(piece.data)
        return b"".join(piece.data for piece in pieces)

    return reader, given


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 5 * MAX_BODY // 2), min_size=1, max_size=6))
def test_a_growing_log_comes_whole_and_in_order(growth: list[int]) -> None:
    """However it grows between the pieces, nothing is left out, doubled or turned round."""
    host = Host(growth)
    reader, given = _reader(host)
    size = -1
    while reader._offset != size:
        size, _ = reader._pull(JOB)
    assert given() == _bytes(0, host.size)
    assert host.answered == host.read


@pytest.mark.parametrize("lost_after", [0, 1, 3])
def test_a_link_that_is_lost_leaves_no_question_open(lost_after: int) -> None:
    """What came is given; every piece that was asked for is taken off the link."""
    host = Host([6 * MAX_BODY], lost_after=lost_after)
    reader, given = _reader(host)
    with pytest.raises(PoolError):
        reader._pull(JOB)
    assert given() == _bytes(0, lost_after * MAX_BODY)
    assert host.answered == host.read
