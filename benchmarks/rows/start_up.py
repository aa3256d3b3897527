"""What each command costs before it does anything: `pool --help`, and `pool ps` with a running server."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.command import PYTHON_PASS, timed_run
from benchmarks.row import Row, Target
from benchmarks.world import Worlds


def rows(worlds: Worlds) -> Iterator[Row]:
    world = worlds.of(2)
    peer = {"`python -c pass`": timed_run(PYTHON_PASS)}
    yield Row("`pool --help`", timed_run(world.argv("--help"), env=world.env), peer, Target(3), runs=41)
    yield Row("`pool ps`, two hosts", timed_run(world.argv("ps"), env=world.env), peer, Target(5), runs=41)
