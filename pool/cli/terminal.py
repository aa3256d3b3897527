"""What a job writes, made safe to show: a terminal gets colours and progress bars, nothing that steers it.

A log may hold sequences that set the clipboard, retitle the window or rewrite what was said before. Only SGR (colours)
and erase-line pass; any other control character is shown, not obeyed. A pipe gets the bytes as they are.
"""

from __future__ import annotations

import re

_SAFE = re.compile(rb"\x1b\[[0-9;:]*[mK]")
_UNSAFE = re.compile(rb"\x1b\[[0-9;:]*[mK]|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|\xc2[\x80-\x9f]")
#: The start of a sequence that the next bytes may complete.
_TAIL = re.compile(rb"(?:\x1b(?:\[[0-9;:]{0,30})?|\xc2)\Z")


class Sanitiser:
    """Turns a stream of bytes into one that is safe to write to a terminal; sequences may be cut between chunks."""

    def __init__(self) -> None:
        self._held = b""

    def feed(self, chunk: bytes) -> bytes:
        """The safe form of what is complete so far."""
        data = self._held + chunk
        cut = _TAIL.search(data)
        self._held = data[cut.start() :] if cut else b""
        return _UNSAFE.sub(_shown, data[: cut.start()] if cut else data)

    def finish(self) -> bytes:
        """The safe form of what was held back."""
        held, self._held = self._held, b""
        return _UNSAFE.sub(_shown, held)


class Prefixer:
    """Puts `[rank] ` before each line of one rank, so that lines of several ranks can be told apart."""

    def __init__(self, rank: int, width: int) -> None:
        self._prefix = f"[{rank:>{width}}] ".encode()
        self._part = b""

    def feed(self, chunk: bytes) -> bytes:
        """Every line that is complete, prefixed."""
        lines = (self._part + chunk).split(b"\n")
        self._part = lines.pop()
        return b"".join(self._prefix + line + b"\n" for line in lines)

    def finish(self) -> bytes:
        """The last line, when it has no end."""
        part, self._part = self._part, b""
        return self._prefix + part + b"\n" if part else b""


def _shown(match: re.Match[bytes]) -> bytes:
    found = match.group()
    if _SAFE.fullmatch(found):
        return found
    if found[:1] == b"\xc2":
        return b"\\x" + found[1:].hex().encode()
    return b"^" + bytes([found[0] ^ 0x40])
