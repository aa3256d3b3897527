"""What this decides: how sizes, ranges and counts are written in misses and suggestions."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from pool.offer import Range


def number(value: float) -> str:
    """The number with at most one decimal place, rounded down so that it never promises more than there is."""
    return f"{int(value * 10) / 10:g}" if value < 1e6 else f"{int(value)}"


def size(mib: float) -> str:
    """MiB as GB of a task file (1024 MiB each); below 1 GB as MB."""
    return f"{number(mib / 1024)}GB" if mib >= 1024 or mib == 0 else f"{number(mib)}MB"


def bounds(asked: Range, write: Callable[[float], str] = number) -> str:
    """A range as a person would say it: `4`, `≥ 4`, `≤ 8`, `4..8`, each number written by `write`."""
    if asked.min is None:
        return "any" if asked.max is None else f"≤ {write(asked.max)}"
    if asked.max is None:
        return f"≥ {write(asked.min)}"
    return write(asked.min) if asked.min == asked.max else f"{write(asked.min)}..{write(asked.max)}"


def capability(value: tuple[int, int] | None) -> str:
    """A compute capability as NVIDIA writes it, `9.0`."""
    return "unknown" if value is None else f"{value[0]}.{value[1]}"


def distinct(words: Iterable[str]) -> str:
    """Each word once, in the order it first came, with commas between."""
    return ", ".join(dict.fromkeys(words))


def count(number_of: int, noun: str) -> str:
    """`1 host`, `2 hosts`."""
    return f"{number_of} {noun}" + ("" if number_of == 1 else "s")
