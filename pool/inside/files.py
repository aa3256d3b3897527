"""Copies files out of a job's folder and into it, from this end: what `pool cp` is made of, and part of the SDK.

What comes is written below the one place that was asked for, whatever the other side sends: see runner/tree.py.
"""

from __future__ import annotations

import os

from pool.errors import DiskFullError, HostError, InputError, NotFoundError, PoolError, ServerError
from pool.inside.shell import opened

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pool.runner.streams import OwnStream
    from pool.runner.tree import Left

    #: Told of bytes that were copied, and how many there are: 0 where that is not known.
    Tell = Callable[[int, int], object]


class Place:
    """A path in the folder of one rank's job."""

    def __init__(self, run: str, path: str, rank: int = 0) -> None:
        self.run, self.path, self.rank = run, path, rank


def download(source: Place, target: str, tell: Tell, waits: Callable[[str], object]) -> Left:
    """Copy to `target`, as cp does; what was left. PoolError."""
    from pool.runner import tree
    from pool.runner.streams import StreamError

    head, stream = _opened("copy_out", source, waits)
    folder, total = head.get("folder") is True, head.get("bytes")
    total = total if isinstance(total, int) and total > 0 else 0
    reader = _Reader(stream, lambda count: tell(count, total))
    try:
        tree.unpack(reader.read, tree.place(target, _name(source.path), folder))
        return reader.rest()
    except StreamError as error:
        raise _cut_off(error) from None
    except tree.TreeError as error:
        raise _in_kind(str(error)) from None
    finally:
        stream.close("nobody reads any more")


def upload(source: str, target: Place, tell: Tell, waits: Callable[[str], object]) -> Left:
    """Copy to `target`, as cp does; what was left. PoolError."""
    from pool.runner import tree
    from pool.runner.streams import CutOffError, StreamError

    try:
        found = tree.measure(source)
    except tree.TreeError as error:
        raise _in_kind(str(error)) from None
    _, stream = _opened("copy_in", target, waits, name=_name(source), folder=found["folder"])
    count, why = 0, "it was given up"

    def write(data: bytes) -> None:
        nonlocal count
        stream.write(data)
        count += len(data)
        tell(count, found["bytes"])

    try:
        left = tree.pack(source, write)
        stream.end()
        answer = stream.read()
        if answer is None or not answer.head.get("done"):
            raise _cut_off(CutOffError("cut off"))
        why = ""
        return left
    except StreamError as error:
        raise _cut_off(_last_word(stream) or error) from None
    except tree.TreeError as error:
        why = str(error)
        raise _in_kind(why) from None
    finally:
        stream.close(why)


class _Reader:
    """The bytes of a stream, in pieces of the size that is asked for; short only at its end."""

    def __init__(self, stream: OwnStream, tell: Callable[[int], object]) -> None:
        self._stream, self._tell = stream, tell
        self._held = bytearray()
        self._count = 0
        self._left: Left | None = None

    def read(self, size: int) -> bytes:
        while len(self._held) < size and self._next():
            pass
        found = bytes(self._held[:size])
        del self._held[:size]
        return found

    def rest(self) -> Left:
        """Read to the end; what was left. CutOffError when that was not said: the copy is not whole."""
        from pool.runner.streams import CutOffError

        while self._next():
            pass
        if self._left is None:
            raise CutOffError("cut off")
        return self._left

    def _next(self) -> bool:
        frame = self._stream.read()
        if frame is None:
            return False
        if "skipped" in frame.head:
            from pool.runner.tree import Left

            self._left = Left(*(frame.head.get(name) for name in ("skipped", "changed", "more")))
        self._held += frame.body
        self._count += len(frame.body)
        self._tell(self._count)
        return True


def _name(path: str) -> str:
    """What a copy of it is called in a folder; "" for what stands for a folder's contents: `.`, `..`, `/`."""
    name = os.path.basename(path.rstrip("/"))
    return "" if name in (".", "..") else name


def _opened(verb: str, place: Place, waits: Callable[[str], object], **head: Any) -> tuple[dict[str, Any], OwnStream]:
    try:
        return opened(verb, place.run, place.rank, waits=waits, path=place.path, **head)
    except PoolError as error:
        if error.details.get("cause") != "cannot_copy":
            raise
        raise _in_kind(error.message) from None


def _last_word(stream: OwnStream) -> Exception | None:
    """Why the other side takes no more, if it has said so before it hung up."""
    from pool.runner.streams import StreamError

    try:
        while stream.read():
            pass
    except StreamError as error:
        return error
    return None


def _cut_off(error: Exception) -> PoolError:
    from pool.runner.streams import CutOffError

    if isinstance(error, CutOffError):
        return ServerError("the connection to the server was cut off; the copy is not whole", hint="pool server status")
    return _in_kind(str(error), HostError)


def _in_kind(text: str, otherwise: type[PoolError] = InputError) -> PoolError:
    text = "".join(each if each.isprintable() else "?" for each in text)  # a host may name files as it likes
    if "no space left" in text or "quota exceeded" in text:
        return DiskFullError(text)
    return (NotFoundError if "no such" in text else otherwise)(text)
