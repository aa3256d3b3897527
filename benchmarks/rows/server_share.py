"""What the server and the host take of a run: from the request's first byte to the first command of the task.

One machine, one clock: the task itself writes the time at which its shell began.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

from benchmarks.command import run
from benchmarks.row import Row, SkipError, Target
from benchmarks.world import World, Worlds


def rows(worlds: Worlds) -> Iterator[Row]:
    world = worlds.of(2)
    probe = os.path.join(world.folder, "began")
    task = world.task("share", f"printf %s $EPOCHREALTIME > {probe}")
    if not run(["bash", "-c", "printf %s $EPOCHREALTIME"]):
        raise SkipError("bash here cannot tell the time")
    yield Row(
        "request in → process started, one warm host",
        lambda: _share(world, task, probe),
        target=Target(limit=60),
        runs=25,
        warm_up=3,
    )


def _share(world: World, task: list[str], probe: str) -> float:
    """Milliseconds; the run is sent as the CLI sends it, and then waited for."""
    with open(task[3], encoding="utf-8") as file:
        text = file.read()
    client = world.client()
    body = {"id": os.urandom(8).hex(), "text": text, "source": task[3], "folder": task[1], "env": {}}
    asked = time.time()
    name = client.post("/runs", body)["name"]
    for head, _ in client.stream("GET", f"/runs/{name}/states"):
        if "end" in head and head["end"]["exit_code"] != 0:
            raise RuntimeError(f"{name}: {head['end']}")
    with open(probe, encoding="utf-8") as file:
        return (float(file.read()) - asked) * 1000
