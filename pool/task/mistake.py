"""What this makes: a mistake in a task file, and the TaskError that shows it: place, line, caret, fix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pydantic_core import PydanticCustomError

from pool.errors import TaskError

#: A key path inside a document: mapping keys and list positions.
Path = tuple[str | int, ...]

#: Mistakes shown in full; more are counted.
SHOWN = 5
_EXCERPT_WIDTH = 160


@dataclass(frozen=True, slots=True)
class Place:
    """Line and column, both counted from 1."""

    line: int
    column: int


@dataclass(frozen=True, slots=True)
class Mistake:
    """One thing that is wrong, where, and how to write it instead."""

    place: Place
    message: str
    hint: str | None = None


def mistake(message: str, hint: str | None = None, path: Path = (), *, at_key: bool = False) -> PydanticCustomError:
    """The error a validator raises: `path` is relative to the value it was given, `at_key` points at the key itself."""
    context = {"message": message, "hint": hint, "path": path, "at_key": at_key}
    return PydanticCustomError("pool", "{message}", context)


def task_error(source: str, lines: Sequence[str], mistakes: Sequence[Mistake]) -> TaskError:
    """One TaskError for all `mistakes` (at least one): the first gives place and hint, the others follow."""
    ordered = sorted(mistakes, key=lambda m: (m.place.line, m.place.column))
    first, others = ordered[0], ordered[1:SHOWN]
    blocks = [_block(source, lines, first)]
    blocks += [_block(source, lines, m) + (f"\n  fix: {m.hint}" if m.hint else "") for m in others]
    if len(ordered) > SHOWN:
        blocks.append(f"and {len(ordered) - SHOWN} more mistakes")
    return TaskError(
        "\n".join(blocks),
        hint=first.hint,
        file=source,
        line=first.place.line,
        column=first.place.column,
        mistakes=[
            {"line": m.place.line, "column": m.place.column, "message": m.message, "hint": m.hint} for m in ordered
        ],
    )


def _block(source: str, lines: Sequence[str], found: Mistake) -> str:
    place = found.place
    head = f"{source}:{place.line}:{place.column}: {found.message}"
    if not 0 < place.line <= len(lines):
        return head
    text = lines[place.line - 1].replace("\t", " ")
    start = max(0, place.column - 1 - _EXCERPT_WIDTH // 2) if len(text) > _EXCERPT_WIDTH else 0
    shown = "".join(c if c.isprintable() else "?" for c in text[start : start + _EXCERPT_WIDTH])
    gutter = f"{place.line:>4} | "
    return f"{head}\n{gutter}{shown}\n{' ' * (len(gutter) - 2)}| {' ' * (place.column - 1 - start)}^"
