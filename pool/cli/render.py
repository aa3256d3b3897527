"""How things look in a terminal: tables, sizes, times, colours. Plain when piped."""

from __future__ import annotations

import os
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

_COLOURS = {
    "ready": "32",
    "running": "32",
    "done": "32",
    "failed": "31",
    "broken": "31",
    "interrupted": "31",
    "unreachable": "33",
    "running?": "33",
    "starting?": "33",
    "stopping?": "33",
    "stopping": "33",
    "draining": "33",
}


def table(headers: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Columns as wide as they need, two spaces apart, statuses coloured on a terminal."""
    cells = [[str("" if value is None else value) for value in row] for row in rows]
    widths = [max(len(line[i]) for line in [list(headers), *cells]) for i in range(len(headers))]
    coloured = sys.stdout.isatty()
    lines = [_line(headers, widths, False)] + [_line(row, widths, coloured) for row in cells]
    return "\n".join(lines) + "\n"


def gigabytes(mib: float | None) -> str:
    """A size in MiB as people say it: `80GB`, `1.8TB`; empty for None."""
    if mib is None:
        return ""
    gib = mib / 1024
    return f"{gib / 1024:.1f}TB" if gib >= 1024 else f"{gib:.0f}GB" if gib >= 1 else f"{mib:.0f}MB"


def ago(at: float | None) -> str:
    """How long ago a Unix time was: `12s`, `5m`, `3h`, `2d`; empty for None."""
    return "" if at is None else span(max(0.0, time.time() - at))


def span(seconds: float) -> str:
    """A length of time, its largest unit only."""
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f}{unit}"
    return f"{seconds:.0f}s"


def write_json(value: Any) -> None:
    """To stdout, indented."""
    import json

    sys.stdout.write(json.dumps(value, indent=2) + "\n")


def write_bytes(data: bytes) -> None:
    """To stdout at once, all of it: with PYTHONUNBUFFERED a single write may take only a part."""
    left = memoryview(data)
    while left:
        left = left[sys.stdout.buffer.write(left) :]
    sys.stdout.buffer.flush()


def write_all(fd: int, data: bytes) -> None:
    """To a descriptor at once, all of it: a single write may take only a part."""
    left = memoryview(data)
    while left:
        left = left[os.write(fd, left) :]


def note(text: str) -> None:
    """A line for the person, on stderr: stdout is for results. What was written there before is shown before."""
    sys.stdout.flush()
    sys.stderr.write(plain(text) + "\n")


def plain(text: str) -> str:
    """`text`, in which may stand what a host or a file name says, so that no terminal obeys it. Lines stay lines."""
    if text.replace("\n", "").isprintable():
        return text
    shown = (c if c.isprintable() or c == "\n" else c.encode("unicode_escape", "replace").decode() for c in text)
    return "".join(shown)


def waiting(why: str) -> None:
    """Say that a run is waited for."""
    note(f"pool: waiting: {why}")


def confirm(question: str, *, yes: bool) -> None:
    """Return on a yes. InputError when there is no terminal to ask at; InterruptError on a no."""
    from pool.errors import InputError, InterruptError

    if yes:
        return
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise InputError("there is no terminal to ask at", hint="add -y to go on without a question")
    sys.stderr.write(f"{question} [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise InterruptError("nothing was changed")


def _line(cells: Sequence[str], widths: Sequence[int], coloured: bool) -> str:
    padded = []
    for cell, width in zip(cells, widths, strict=True):
        text = cell.ljust(width)
        colour = _COLOURS.get(cell) if coloured else None
        padded.append(f"\x1b[{colour}m{text}\x1b[0m" if colour else text)
    return "  ".join(padded).rstrip()
