"""Commands, run to their end: what is timed is from the start of the process to all of its output received."""

from __future__ import annotations

import subprocess
import sys

from benchmarks.row import Measure, timed

#: The peer of everything that starts up: this very interpreter, doing nothing.
PYTHON_PASS = [sys.executable, "-c", "pass"]


def run(argv: list[str], *, env: dict[str, str] | None = None, cwd: str | None = None) -> str:
    """Its stdout; RuntimeError when it fails: a benchmark of errors is worth nothing."""
    done = subprocess.run(argv, env=env, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{argv} ended with {done.returncode}: {done.stderr.decode(errors='replace')[-2000:]}")
    return done.stdout.decode(errors="replace")


def timed_run(argv: list[str], *, env: dict[str, str] | None = None, cwd: str | None = None) -> Measure:
    """Milliseconds of one run."""
    return timed(lambda: run(argv, env=env, cwd=cwd))
