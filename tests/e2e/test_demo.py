"""`examples/demo.sh`, as `make demo` runs it: it ends well, and however it ends it leaves nothing."""

from __future__ import annotations

import glob
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pool.lab import processes
from tests.conftest import REPOSITORY

DEMO = str(REPOSITORY / "examples" / "demo.sh")


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    """The environment of a person who has `pool` on PATH; `FAIL` names a command that is to fail with 9."""
    program = tmp_path / "bin" / "pool"
    program.parent.mkdir()
    command = f"'{sys.executable}' -m pool.cli.main"
    program.write_text(f'#!/bin/sh\n[ "$1" != "${{FAIL:-}}" ] || exit 9\nexec {command} "$@"\n', encoding="utf-8")
    program.chmod(0o755)
    home = tmp_path / "home"
    home.mkdir()
    own = {name: value for name, value in os.environ.items() if not name.startswith(("POOL_", "DSTACK_"))}
    path = f"{program.parent}{os.pathsep}{own['PATH']}"
    return own | {"PATH": path, "HOME": str(home), "PYTHONPATH": str(REPOSITORY)}


def _left() -> set[str]:
    return set(glob.glob("/tmp/pool-demo.*"))


def _lab_root(output: str) -> str:
    """The lab's folder, from the first `pool add-ssh` line that was shown."""
    words = output.split()
    return os.path.dirname(words[words.index("-i") + 1])


def test_the_demo_runs_to_its_end(env: dict[str, str]) -> None:
    """Every command is shown, the two nodes did communicate, and afterwards nothing is left."""
    before = _left()
    done = subprocess.run(
        [DEMO], env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    shown = [line.split()[2] for line in done.stdout.splitlines() if line.startswith("$ pool ")]
    assert shown == ["lab", "add-ssh", "add-ssh", "ps", "run", "runs", "logs", "rm", "rm", "server", "lab"]
    for rank in (0, 1):
        assert f"I am rank {rank} of 2" in done.stdout
    assert done.stdout.count("every sum is correct") == 4  # of two ranks, by `pool run` and by `pool logs`
    assert _left() == before
    assert processes.belonging(_lab_root(done.stdout)) == {}


def test_a_step_that_fails_ends_the_demo(env: dict[str, str]) -> None:
    """The exit code is the step's, and everything is taken down."""
    before = _left()
    done = subprocess.run(
        [DEMO], env=env | {"FAIL": "add-ssh"}, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 9, done.stdout + done.stderr
    assert "the demo ended early" in done.stderr
    assert _left() == before
    assert processes.belonging(_lab_root(done.stdout)) == {}


def test_an_interrupted_demo_leaves_nothing(env: dict[str, str]) -> None:
    """Ctrl-C in the middle of a step ends the demo with 130."""
    before = _left()
    demo = subprocess.Popen(
        [DEMO], env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    )  # fmt: skip
    assert demo.stdout is not None
    output = ""
    for line in demo.stdout:
        output += line
        if line.startswith("$ pool add-ssh"):
            break
    os.killpg(demo.pid, signal.SIGINT)
    output += demo.communicate(timeout=120)[0]
    assert demo.returncode == 130, output
    assert _left() == before
    assert processes.belonging(_lab_root(output)) == {}
