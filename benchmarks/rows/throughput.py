"""Trivial runs per second through one server, eight callers at once. Nothing to compare with is installed here."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from benchmarks.row import Row
from benchmarks.world import World, Worlds

_RUNS = 60


def rows(worlds: Worlds) -> Iterator[Row]:
    world = worlds.of(2)
    task = world.task("many", "true")
    yield Row(f"{_RUNS} trivial runs through one server", lambda: _rate(world, task), unit="runs/s", runs=3, warm_up=0)


def _rate(world: World, task: list[str]) -> float:
    client = world.client()
    with open(task[3], encoding="utf-8") as file:
        text = file.read()

    def one(number: int) -> None:
        body = {"id": os.urandom(8).hex(), "text": text, "source": task[3], "folder": task[1], "env": {}}
        name = client.post("/runs", body)["name"]
        for head, _ in client.stream("GET", f"/runs/{name}/states"):
            if "end" in head and head["end"]["exit_code"] != 0:
                raise RuntimeError(f"run {number}: {head['end']}")

    began = time.perf_counter()
    with ThreadPoolExecutor(8) as callers:
        list(callers.map(one, range(_RUNS)))
    return _RUNS / (time.perf_counter() - began)
