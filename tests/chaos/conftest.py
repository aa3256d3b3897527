"""What chaos tests may ask for: two lab hosts in a pool, made as a person makes them, for the whole session."""

from __future__ import annotations

import os
import random
import shutil
import tempfile
from collections.abc import Iterator

import pytest

from tests.chaos.world import Pool, World
from tests.runner_host import until


@pytest.fixture(scope="session")
def world(session_dir: str) -> Iterator[World]:
    """Hosts gpu1 and gpu2 with two cards each."""
    folder = tempfile.mkdtemp(prefix="c", dir=session_dir)
    made = World(folder)
    yield made
    left = made.end()
    shutil.rmtree(folder, ignore_errors=True)
    assert not left, f"processes were left behind: {left}"


@pytest.fixture
def pool(world: World) -> Iterator[Pool]:
    """The first pool, its server running, both hosts ready. Afterwards no job is live and no GPU is held."""
    world.pool.settle()
    yield world.pool
    world.pool.settle()
    assert [run["name"] for run in world.pool.get("/runs?live=1")] == []
    until(lambda: not world.held(), "free GPUs", patience_s=5.0)  # sooner than a reservation expires


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> Iterator[random.Random]:
    """Chance that can be repeated: POOL_CHAOS_SEED; told when the test fails."""
    number = int(os.environ.get("POOL_CHAOS_SEED") or random.randrange(1 << 32))
    print(f"POOL_CHAOS_SEED={number}")  # noqa: T201 - pytest shows it with a failure
    yield random.Random(number)


@pytest.fixture
def rounds() -> int:
    """How often the repeated parts are repeated: POOL_CHAOS_ROUNDS times as often as by default."""
    return int(os.environ.get("POOL_CHAOS_ROUNDS") or 1)
