"""What a single value means: text, whole number, number, true or false, one word of a few, a list of texts.

Each reader takes what a document or a caller gave and returns it exactly, or raises a mistake.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from typing import Any, TypeVar

from pydantic_core import PydanticCustomError

from pool.task.document import Word
from pool.task.mistake import mistake

T = TypeVar("T")

_YES = frozenset({"yes", "on", "true"})
_NO = frozenset({"no", "off", "false"})


def plain(value: Any) -> Any:
    """The core-schema value of a plain scalar, everything else as it is."""
    return value.value if isinstance(value, Word) else value


def show(value: Any, limit: int = 60) -> str:
    """`value` as an error names it: short, printable, quoted when text."""
    if value is None:
        return "nothing"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, (list, tuple)):
        return "a list"
    text = str(value) if not isinstance(value, bool) else str(value).lower()
    clean = "".join(c if c.isprintable() else "?" for c in text)
    clean = clean if len(clean) <= limit else clean[:limit] + "…"
    return clean if isinstance(plain(value), (int, float)) else f'"{clean}"'


def text(value: Any) -> str:
    """A text, byte for byte: an unquoted number keeps the way it was written (`1.10`, `007`)."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (str, int, float)):
        found = str(value)
        if "\0" in found:
            raise mistake("a text cannot hold a NUL character", "remove it")
        return found
    raise mistake(f"expected a text, not {show(value)}", "write a text, in quotes where needed")


def filled(value: Any) -> str:
    """A text with at least one character that is not a space."""
    found = text(value)
    if not found.strip():
        raise mistake("expected a text, not an empty one", "fill it in, or remove it")
    return found


def whole(name: str, low: int, high: int) -> Callable[[Any], int]:
    """A reader of whole numbers `low..high`; 2.7, true, `1_0`, `22:22` and .inf are refused."""

    def read(value: Any) -> int:
        found = plain(value)
        if isinstance(found, str) and found.strip().isascii() and found.strip().isdigit() and len(found) < 20:
            found = int(found)
        if isinstance(found, float) and math.isfinite(found) and found == int(found) and "e" not in str(value).lower():
            found = int(found)
        if isinstance(found, bool) or not isinstance(found, int):
            raise mistake(f"{name} is a whole number, not {show(value)}", f"write {name}: {max(low, 1)}")
        if not low <= found <= high:
            raise mistake(
                f"{name} is {low} to {high}, not {show(value)}", f"write {name}: {low if found < low else high}"
            )
        return found

    return read


def number(name: str, above: float) -> Callable[[Any], float]:
    """A reader of finite numbers greater than `above`."""

    def read(value: Any) -> float:
        found = plain(value)
        if isinstance(found, str):
            try:
                found = float(found)
            except ValueError:
                found = None
        if isinstance(found, bool) or not isinstance(found, (int, float)) or not math.isfinite(found):
            raise mistake(f"{name} is a number, not {show(value)}", f"write {name}: {above + 1:g}")
        if found <= above:
            raise mistake(f"{name} is more than {above:g}, not {show(value)}", f"write {name}: {above + 1:g}")
        return float(found)

    return read


def truth(value: Any) -> bool:
    """true or false; the words yes, no, on and off are understood as what they say."""
    found = plain(value)
    if isinstance(found, bool):
        return found
    if isinstance(found, str) and found.lower() in _YES | _NO:
        return found.lower() in _YES
    raise mistake(f"expected true or false, not {show(value)}", "write `true` or `false`")


def one_of(name: str, words: Sequence[str]) -> Callable[[Any], str]:
    """A reader of one word out of `words`."""

    def read(value: Any) -> str:
        found = str(value) if isinstance(value, str) else ""
        if found in words:
            return found
        meant = [*get_close_matches(found.lower(), words, 1, 0.6), words[0]][0]
        message = f"{name} is one of {', '.join(words)}, not {show(value)}"
        raise mistake(message, f"write {meant}" if " " in name else f"write {name}: {meant}")

    return read


def listed(read: Callable[[Any], T], what: str) -> Callable[[Any], tuple[T, ...]]:
    """A reader of a list of what `read` reads; one bare value is a list of one."""

    def read_list(value: Any) -> tuple[T, ...]:
        if isinstance(value, (str, int, float)) and not isinstance(value, bool):
            value = [value]
        if not isinstance(value, (list, tuple)):
            raise mistake(f"expected a list of {what}, not {show(value)}", "start each item on its own line with `- `")
        return tuple(within(i, read, item) for i, item in enumerate(value))

    return read_list


def within(key: str | int, read: Callable[[Any], T], value: Any) -> T:
    """`read(value)`, its mistakes placed under `key`."""
    try:
        return read(value)
    except PydanticCustomError as error:
        context = error.context or {}
        path = (key, *context.get("path", ()))
        raise mistake(error.message(), context.get("hint"), path, at_key=context.get("at_key", False)) from None


def commands(value: Any) -> tuple[str, ...]:
    """A list of command texts; an item that is only a YAML comment is an empty command."""
    if isinstance(value, str):
        first = (value.strip().splitlines() or ["…"])[0]
        raise mistake("expected a list of commands", f"write `- {first}` on its own line")
    return listed(lambda item: "" if item is None else text(item), "commands")(value)
