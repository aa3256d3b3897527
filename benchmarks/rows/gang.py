"""The same trivial task as a gang: two nodes of two, and eight nodes of eight, against one node of the same pool."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.command import timed_run
from benchmarks.row import Row, Target
from benchmarks.world import Worlds


def rows(worlds: Worlds) -> Iterator[Row]:
    for nodes in (2, 8):
        world = worlds.of(nodes)
        one = timed_run(world.argv(*world.task("one", "echo hi")), env=world.env)
        gang = timed_run(world.argv(*world.task("gang", "echo hi", nodes=nodes)), env=world.env)
        yield Row(f"the same on {nodes} hosts as one gang", gang, {"one host": one}, Target(2), runs=15, warm_up=3)
