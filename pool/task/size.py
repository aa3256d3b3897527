"""Sizes and ranges: `8GB`, `512MB`, `24GB..80GB`, `..8`, `4`, and their canonical spelling.

Sizes are MiB (2**20 bytes): 1GB = 1024 MiB, whether written G, GB or GiB. A bare number is GB.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

from pool.offer import Range
from pool.task.mistake import mistake
from pool.task.scalar import plain, show, within

#: An exabyte in MiB: larger is a slip of the pen.
SIZE_MAX_MIB = 2**40
COUNT_MAX = 100_000

_UNITS = {"M": 1, "G": 1024, "T": 1024 * 1024, "P": 1024**3}
_SIZE = re.compile(r"(\d{1,15}(?:\.\d{1,20})?|\.\d{1,20})\s*(?:([MGTP])(?:I?B)?)?", re.IGNORECASE)
_SIZE_HINT = "write a size with MB, GB or TB: 512MB, 24GB, 1TB; a bare number is GB"
_RANGE_HINT = "write 4, 4.., ..8 or 4..8"


def parse_size(value: Any) -> float:
    """One size in MiB."""
    found = plain(value)
    if isinstance(found, (bool, dict, list)) or found is None:
        raise mistake(f"{show(value)} is not a size", _SIZE_HINT)
    match = _SIZE.fullmatch(str(value).strip())
    if not match:
        hint = _SIZE_HINT
        if re.fullmatch(r"[\d.]+\s*(K|KB|KIB|B)", str(value).strip(), re.IGNORECASE):
            hint = "the smallest unit is MB"
        raise mistake(f"{show(value)} is not a size", hint)
    size = float(match[1]) * _UNITS[(match[2] or "G").upper()]
    if size > SIZE_MAX_MIB:
        raise mistake(f"{show(value)} is more than an exabyte", _SIZE_HINT)
    if 0 < size < 1:
        raise mistake(f"{show(value)} is less than 1MB", _SIZE_HINT)
    return int(size) if size == int(size) else size


def parse_count(value: Any) -> float:
    """One whole number, 0 or more."""
    text = str(value).strip()
    if isinstance(plain(value), bool) or not re.fullmatch(r"[0-9]{1,12}", text):
        raise mistake(f"{show(value)} is not a whole number", _RANGE_HINT)
    if int(text) > COUNT_MAX:
        raise mistake(f"{show(value)} is more than {COUNT_MAX}", _RANGE_HINT)
    return int(text)


def parse_range(value: Any, one: Callable[[Any], float], *, bare_is_minimum: bool) -> Range:
    """`a..b`, `a..`, `..b`, {min, max}, or a bare value: the minimum, or both ends when not `bare_is_minimum`."""
    if isinstance(value, dict):
        return _range_from_mapping(value, one)
    text = str(value) if isinstance(value, str) else None
    if text is None or ".." not in text:
        found = one(value)
        return Range(found, None) if bare_is_minimum else Range(found, found)
    low, _, high = text.partition("..")
    if not low.strip() and not high.strip():
        raise mistake(f"{show(value)} has neither end", _RANGE_HINT)
    if ".." in high or high.startswith("."):
        raise mistake(f"{show(value)} is not a range", _RANGE_HINT)
    return _ordered(one(low) if low.strip() else None, one(high) if high.strip() else None, value)


def _range_from_mapping(value: dict[Any, Any], one: Callable[[Any], float]) -> Range:
    for key in value:
        if key not in ("min", "max"):
            raise mistake(f"unknown key {show(key)}", "a range has min and max", (key,), at_key=True)
    ends = {key: within(key, one, end) for key, end in value.items() if plain(end) is not None}
    if not ends:
        raise mistake("the range has neither min nor max", "write {min: 4, max: 8}, or one of the two")
    return _ordered(ends.get("min"), ends.get("max"), value)


def _ordered(low: float | None, high: float | None, value: Any) -> Range:
    if low is not None and high is not None and low > high:
        shown = show(value) if isinstance(value, str) else f"{low:g}..{high:g}"
        raise mistake(f"{shown} begins above its end", "write the smaller end first")
    return Range(low, high)


def format_size(mib: float) -> str:
    """The canonical spelling of a size: `512MB`, `8GB`, `1TB`."""
    for unit, size in (("TB", _UNITS["T"]), ("GB", _UNITS["G"])):
        if mib >= size and (mib / size) == int(mib / size):
            return f"{int(mib / size)}{unit}"
    return f"{_digits(mib)}MB"


def format_count(count: float) -> str:
    """The canonical spelling of a count."""
    return _digits(count)


def format_range(found: Range, one: Callable[[float], str], *, bare_is_minimum: bool) -> str:
    """The canonical spelling of a range; parsing it with the same `bare_is_minimum` gives `found` again."""
    if found.min is not None and found.min == found.max and not bare_is_minimum:
        return one(found.min)
    low = "" if found.min is None else one(found.min)
    high = "" if found.max is None else one(found.max)
    return f"{low}..{high}"


def gigabytes(mib: float | None) -> float | int | None:
    """MiB as GB for JSON: a whole number where it is one."""
    if mib is None:
        return None
    found = mib / 1024
    return int(found) if found == int(found) else found


def whole_mib(mib: float) -> int:
    """The size in whole MiB, never less than asked."""
    return math.ceil(mib)


def _digits(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)
