"""What a job writes, made safe to show: a terminal gets colours and progress bars, nothing that steers it.

A log may hold sequences that set the clipboard, retitle the window or rewrite what was said before. Only SGR (colours)
and erase-line pass; any other control character is shown, not obeyed. A pipe gets the bytes as they are.
"""

from __future__ import annotations

import re
from codecs import getincrementaldecoder

_SAFE = re.compile(r"\x1b\[[0-9;:]*[mK]")
_UNSAFE = re.compile(r"\x1b\[[0-9;:]*[mK]|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
#: The start of a sequence that the next bytes may complete.
_TAIL = re.compile(r"\x1b(?:\[[0-9;:]{0,30})?\Z")
#: A line of several ranks is cut here: a reader's memory is bounded, whatever a job writes.
_LINE_MAX = 1 << 16


class Sanitiser:
    """Turns a stream of bytes into one that is safe to write to a terminal; sequences may be cut between chunks.

    Bytes that are no UTF-8 are shown as `\\xff`: some terminals obey them.
    """

    def __init__(self) -> None:
        self._decoder = getincrementaldecoder("utf-8")("backslashreplace")
        self._held = ""

    @property
    def held(self) -> int:
        """How many bytes were fed and not given yet."""
        return len(self._held) + len(self._decoder.getstate()[0])

    def feed(self, chunk: bytes) -> bytes:
        """The safe form of what is complete so far."""
        text = self._held + self._decoder.decode(chunk)
        cut = _TAIL.search(text)
        self._held = text[cut.start() :] if cut else ""
        return _safe(text[: cut.start()] if cut else text)

    def finish(self) -> bytes:
        """The safe form of what was held back."""
        held, self._held = self._held + self._decoder.decode(b"", final=True), ""
        return _safe(held)


class Prefixer:
    """Puts `[rank] ` before each line of one rank, so that lines of several ranks can be told apart."""

    def __init__(self, rank: int, width: int) -> None:
        self._prefix = f"[{rank:>{width}}] ".encode()
        self._part = b""

    @property
    def held(self) -> int:
        """How many bytes were fed and not given yet."""
        return len(self._part)

    def feed(self, chunk: bytes) -> bytes:
        """Every line that is complete, prefixed; one that is too long is cut."""
        lines = (self._part + chunk).split(b"\n")
        self._part = lines.pop()
        while len(self._part) > _LINE_MAX:
            lines.append(self._part[:_LINE_MAX])
            self._part = self._part[_LINE_MAX:]
        return b"".join(self._prefix + line + b"\n" for line in lines)

    def finish(self) -> bytes:
        """The last line, when it has no end."""
        part, self._part = self._part, b""
        return self._prefix + part + b"\n" if part else b""


class Dress:
    """What is done to the output of one rank on its way to stdout: a prefix, safety, both or nothing."""

    def __init__(self, prefixer: Prefixer | None, sanitiser: Sanitiser | None) -> None:
        self._steps = [step for step in (prefixer, sanitiser) if step]

    @property
    def held(self) -> int:
        """How many bytes were fed and are yet to be shown. Of whole lines, a prefixer's, a sanitiser holds nothing."""
        return self._steps[0].held if self._steps else 0

    @property
    def plain(self) -> bool:
        """True when bytes are shown as they are."""
        return not self._steps

    def feed(self, chunk: bytes) -> bytes:
        """What to show of it now."""
        for step in self._steps:
            chunk = step.feed(chunk)
        return chunk

    def finish(self) -> bytes:
        """What to show at the end."""
        rest = b""
        for step in self._steps:
            rest = (step.feed(rest) if rest else b"") + step.finish()
        return rest


def _safe(text: str) -> bytes:
    return _UNSAFE.sub(_shown, text).encode()


def _shown(match: re.Match[str]) -> str:
    found = match.group()
    if _SAFE.fullmatch(found):
        return found
    return f"^{chr(ord(found) ^ 0x40)}" if found < "\x80" else f"\\x{ord(found):02x}"
