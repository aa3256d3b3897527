"""What this holds: one row of the table (us, the peers, the target) and what was measured of it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field

#: One measurement, in the row's unit.
Measure = Callable[[], float]


class SkipError(Exception):
    """The row cannot be measured here, and why."""


@dataclass(frozen=True)
class Target:
    """`times`: against the first peer; `limit`: in the row's unit. `least`: the value may not be below it."""

    times: float | None = None
    limit: float | None = None
    least: bool = False

    def words(self, unit: str) -> str:
        """As the table shows it."""
        sign = "≥" if self.least else "≤"
        return f"{sign} {self.times:g} ×" if self.times is not None else f"{sign} {self.limit:g} {unit}"

    def met(self, ours: float, ratio: float | None) -> bool:
        """Whether the medians keep it."""
        value, bound = (ratio, self.times) if self.times is not None else (ours, self.limit)
        assert value is not None and bound is not None
        return value >= bound if self.least else value <= bound


@dataclass(frozen=True)
class Row:
    """`ours` and every peer are measured in turn, `runs` times each; `warm_up` of ours come before and do not count."""

    what: str
    ours: Measure
    peers: dict[str, Measure] = field(default_factory=dict)
    target: Target | None = None
    unit: str = "ms"
    runs: int = 15
    warm_up: int = 1


@dataclass(frozen=True)
class Result:
    """The medians of one row; `skipped` says why there are none."""

    what: str
    unit: str = ""
    ours: float = 0.0
    peers: dict[str, float] = field(default_factory=dict)
    target: Target | None = None
    skipped: str | None = None

    @property
    def ratio(self) -> float | None:
        """Us to the first peer; None without a peer."""
        return self.ours / next(iter(self.peers.values())) if self.peers else None


def measure(row: Row, *, share: float = 1.0) -> Result:
    """The medians of the row: A B A B …, so that a busy moment of the machine meets both. `share` scales the runs."""
    for _ in range(row.warm_up):
        row.ours()
    for peer in row.peers.values() if row.warm_up else ():
        peer()
    ours: list[float] = []
    peers: dict[str, list[float]] = {name: [] for name in row.peers}
    for _ in range(max(1, round(row.runs * share))):
        ours.append(row.ours())
        for name, peer in row.peers.items():
            peers[name].append(peer())
    medians = {name: statistics.median(values) for name, values in peers.items()}
    return Result(row.what, row.unit, statistics.median(ours), medians, row.target)


def timed_cpu(work: Callable[[], object]) -> Measure:
    """Milliseconds of this process's CPU: for what waits for nothing, and must not seem slow on a busy machine."""

    def once() -> float:
        began = time.process_time()
        work()
        return (time.process_time() - began) * 1000

    return once


def timed(work: Callable[[], object]) -> Measure:
    """Milliseconds that `work` takes."""

    def once() -> float:
        began = time.perf_counter()
        work()
        return (time.perf_counter() - began) * 1000

    return once
