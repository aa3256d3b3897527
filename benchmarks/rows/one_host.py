"""A trivial task on one host whose link is warm, the whole command, against a cold `ssh host cmd`."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.command import timed_run
from benchmarks.row import Row, Target
from benchmarks.world import Worlds


def rows(worlds: Worlds) -> Iterator[Row]:
    world = worlds.of(2)
    peers = {
        "cold `ssh host cmd`": timed_run(world.ssh("echo hi")),
        "warm ControlMaster": timed_run(world.warm_ssh("echo hi")),
    }
    ours = timed_run(world.argv(*world.task("one", "echo hi")), env=world.env)
    yield Row("`pool run` of `echo hi`, one warm host", ours, peers, Target(0.8), runs=25, warm_up=3)
