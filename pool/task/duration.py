"""How long: `90s`, `30m`, `2h`, `1d`, `1w`, `1h30m`, or a bare number of seconds; `off` where no end is meant."""

from __future__ import annotations

import re
from typing import Any, Literal

from pool.task.mistake import mistake
from pool.task.scalar import plain, show

OFF: Literal["off"] = "off"
#: Ten years: longer is a slip of the pen.
DURATION_MAX_S = 10 * 365 * 86400

_UNITS = {"w": 604800, "d": 86400, "h": 3600, "m": 60, "s": 1}
_DURATION = re.compile(r"(?:(\d+)w)?(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?")
_HINT = "write seconds, or a number with s, m, h, d or w: 90s, 30m, 2h, 1h30m, 1d, 1w"


def parse_duration(value: Any) -> int:
    """Seconds, 0 or more."""
    found = plain(value)
    if isinstance(found, str):
        compact = found.replace(" ", "").lower()
        if compact.isascii() and compact.isdigit() and len(compact) < 20:
            found = int(compact)
        elif len(compact) < 60 and compact and (match := _DURATION.fullmatch(compact)):
            found = sum(int(n) * size for n, size in zip(match.groups(), _UNITS.values(), strict=True) if n)
    if isinstance(found, bool) or not isinstance(found, int) or found < 0:
        raise mistake(f"{show(value)} is not a duration", _HINT)
    if found > DURATION_MAX_S:
        raise mistake(f"{show(value)} is more than ten years", _HINT)
    return found


def parse_limit(value: Any) -> int | Literal["off"]:
    """Seconds, 1 or more, or `off` (also false and -1): no limit."""
    found = plain(value)
    if found is False or found == -1 or (isinstance(found, str) and found.lower() == OFF):
        return OFF
    if isinstance(found, bool):
        raise mistake(f"{show(value)} is not a duration", "write `off` for no limit, or a duration such as 2h")
    seconds = parse_duration(value)
    if seconds == 0:
        raise mistake("a limit of 0 seconds leaves no time", "write `off` for no limit")
    return seconds


def format_duration(seconds: int | Literal["off"]) -> str:
    """The shortest usual form: 5400 is `1h30m`, 259200 is `3d`."""
    if seconds == OFF:
        return OFF
    parts, rest = "", int(seconds)
    for unit, size in _UNITS.items():
        if unit == "w" and rest % size:
            continue
        count, rest = divmod(rest, size)
        parts += f"{count}{unit}" if count else ""
    return parts or "0s"
