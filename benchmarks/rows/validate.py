"""`pool validate`: what checking one task file costs, and a hundred in one call."""

from __future__ import annotations

import os
from collections.abc import Iterator

from benchmarks.command import PYTHON_PASS, timed_run
from benchmarks.row import Row, SkipError, Target
from benchmarks.world import REPOSITORY, Worlds
from pool.cli.main import COMMANDS

_FILES = 100


def rows(worlds: Worlds) -> Iterator[Row]:
    if "validate" not in COMMANDS:
        raise SkipError("there is no such command yet")
    world = worlds.of(2)
    with open(os.path.join(REPOSITORY, "examples", "ring.dstack.yml"), encoding="utf-8") as file:
        text = file.read()
    paths = [os.path.join(world.folder, f"v{number}.dstack.yml") for number in range(_FILES)]
    for path in paths:
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
    one = timed_run(world.argv("validate", paths[0]), env=world.env)
    many = timed_run(world.argv("validate", *paths), env=world.env)
    yield Row("`pool validate`, one file", one, {"`python -c pass`": timed_run(PYTHON_PASS)}, Target(8))
    yield Row(f"`pool validate`, {_FILES} files", many, {"one file": one}, Target(3))
