"""Groups hosts of which the same is to be said, and names them shortly: `gpu[1-3,7]`, as clush does."""

from __future__ import annotations

import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable

_NUMBER = re.compile(r"\d+")


def grouped(said: Iterable[tuple[str, Hashable]]) -> list[list[str]]:
    """The names of which the same was said, each group and the groups themselves in the order of their names."""
    groups: dict[Hashable, list[str]] = {}
    for name, what in sorted(said, key=lambda each: by_number(each[0])):
        groups.setdefault(what, []).append(name)
    return list(groups.values())


def by_number(name: str) -> list[tuple[int, str]]:
    """A key that sorts gpu2 before gpu10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def folded(names: Iterable[str]) -> str:
    """`gpu[1-3,7],head`: names that differ in their last number are one word, with its zeros as they are written."""
    words: dict[tuple[str, str], list[str]] = {}
    for name in names:
        found = list(_NUMBER.finditer(name))
        frame = (name[: found[-1].start()], name[found[-1].end() :]) if found else (name, "")
        words.setdefault(frame, []).append(found[-1].group() if found else "")
    return ",".join(before + _ranges(numbers) + after for (before, after), numbers in words.items())


def _ranges(numbers: list[str]) -> str:
    """`[1-3,7]`; alone, a number stands as it is."""
    runs: list[list[str]] = []
    for number in numbers:
        if runs and int(number) == int(runs[-1][-1]) + 1 and _same_width(runs[-1][-1], number):
            runs[-1].append(number)
        else:
            runs.append([number])
    if len(numbers) == 1:
        return numbers[0]
    return f"[{','.join(run[0] if len(run) == 1 else f'{run[0]}-{run[-1]}' for run in runs)}]"


def _same_width(one: str, next_one: str) -> bool:
    """09 and 10 are of one range, and 9 and 10; 09 and 10 of three digits would be 010."""
    return len(one) == len(next_one) or not (one.startswith("0") or next_one.startswith("0"))
