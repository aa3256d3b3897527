"""A job in a container, on the fake engine; `tests/system` runs the same cases on Docker."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator

import pytest

from tests.container_cases import *  # noqa: F403 - the cases
from tests.container_cases import PRINTS, Bench
from tests.fake_engine import FakeEngine
from tests.runner_host import RunnerHost, until


@pytest.fixture
def engine(session_dir: str) -> Iterator[FakeEngine]:
    """An engine with three images."""
    made = FakeEngine(os.path.join(tempfile.mkdtemp(prefix="e", dir=session_dir), "docker.sock"))
    made.images = {"shell": {"Cmd": ["sh"]}, "prints": {"Cmd": PRINTS}, "bare": {"Cmd": ["/none"], "sh": False}}
    made.open()
    yield made
    made.close()


@pytest.fixture
def bench(session_dir: str, engine: FakeEngine) -> Iterator[Bench]:
    """A runner that speaks to it."""
    host = RunnerHost(tempfile.mkdtemp(prefix="r", dir=session_dir), os.path.join(session_dir, "lab"))
    host.env["DOCKER_HOST"] = f"unix://{engine.path}"
    yield Bench(host, engine.path, {name: name for name in engine.images})
    host.end()
    assert engine.containers == {}


_LASTS = """
echo begun; until [ -e gone ]; do sleep 0.05; done
echo alone; until [ -e go ]; do sleep 0.05; done
echo told; exit 5
"""


def test_commands_do_not_notice_that_their_engine_restarts(bench: Bench, engine: FakeEngine) -> None:
    """As under live-restore: the end is their own, and no byte is lost that was written while nobody served."""
    bench.start(_LASTS)
    bench.until_logged(b"begun\n")
    engine.close()
    bench.write("gone")
    bench.until_logged(b"alone\n")
    engine.open()
    bench.write("go")
    assert bench.bridge.end_of(bench.job)["exit_code"] == 5
    assert bench.bridge.log(bench.job) == b"begun\nalone\ntold\n"


def test_a_program_goes_on_while_its_engine_restarts(bench: Bench, engine: FakeEngine) -> None:
    """What it writes comes through the engine: the log says where output may be missing."""
    bench.start("", container={"argv": ["sh", "-c", _LASTS]})
    bench.until_logged(b"begun\n")
    engine.close()
    engine.open()
    gap = b"pool: the Docker engine was restarted: output may be missing here\n"
    until(lambda: engine.containers[f"pool-job-{bench.job}"].attached, "a new stream")
    bench.write("gone")
    bench.write("go")
    assert bench.bridge.end_of(bench.job)["exit_code"] == 5
    assert bench.bridge.log(bench.job) == b"begun\n" + gap + b"alone\ntold\n"


@pytest.mark.parametrize("live", [True, False])
def test_what_ends_while_no_engine_serves(bench: Bench, engine: FakeEngine, live: bool) -> None:
    """An engine that leaves containers alone kept the code; of one that ends them the end is not the job's own."""
    engine.info["LiveRestoreEnabled"] = live
    bench.start("echo begun; until [ -e go ]; do sleep 0.05; done; exit 5")
    bench.until_logged(b"begun\n")
    engine.close()
    bench.write("go")
    until(lambda: engine.containers[f"pool-job-{bench.job}"].ended.is_set(), "the end of the container")
    engine.open()
    end = bench.bridge.end_of(bench.job)
    assert (end["exit_code"], end["reason"]) == (5, None if live else "runtime_restart")


def test_a_container_that_somebody_removed_is_told_as_that(bench: Bench, engine: FakeEngine) -> None:
    """No exit code is invented."""
    bench.start("echo begun; sleep 1000")
    bench.until_logged(b"begun\n")
    made = engine.containers.pop(f"pool-job-{bench.job}")
    engine.close()
    engine.open()
    end = bench.bridge.end_of(bench.job)
    assert (end["exit_code"], end["reason"]) == (None, "container_removed")
    assert made.ended.wait(20)
