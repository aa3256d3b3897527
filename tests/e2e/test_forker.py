"""The forker: whatever happens to it, the next job starts, and what it has started goes on.

A job's processes are found by its id, all over the machine: no other file of tests has those of these.
"""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from pool.runner import processes
from tests.runner_host import PATIENCE_S, RunnerHost, until


def _forkers(host: RunnerHost) -> list[int]:
    """The live forkers of the host's runner."""
    wanted = [os.fsencode(word) for word in host.argv("forker")][1:]
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
            name = (folder / "comm").read_text().strip()
        except OSError:
            continue
        if words[1:-1] == wanted and name == "pool-forker":
            found.append(int(folder.name))
    return found


def _forker(host: RunnerHost) -> int:
    return int(until(lambda: _forkers(host), "a forker")[0])


def test_a_supervisor_is_its_own_session_and_no_child_of_the_runner(host: RunnerHost) -> None:
    """It leads a session, is known by its name, and is what `started` says."""
    bridge = host.connect()
    bridge.run("forked", "sleep 1000")
    supervisor = int((host.read("forked", "started") or {})["supervisor"]["pid"])
    assert os.getsid(supervisor) == supervisor
    assert Path(f"/proc/{supervisor}/comm").read_text() == "pool-supervisor\n"
    assert bridge.ask("stop", job="forked", abort=True)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP])
def test_a_forker_that_dies_or_freezes_is_replaced(host: RunnerHost, number: signal.Signals) -> None:
    """The job it had started goes on; the next one starts, by another forker."""
    bridge = host.connect()
    bridge.run("forked-before", "sleep 0.5; echo on; exit 4")
    first = _forker(host)
    os.kill(first, number)
    bridge.run("forked-after", "echo ran; exit 5")
    assert bridge.end_of("forked-after")["exit_code"] == 5
    assert bridge.end_of("forked-before")["exit_code"] == 4
    assert bridge.log("forked-before") == b"on\n"
    assert first not in until(lambda: _forkers(host), "another forker")


def test_a_forker_goes_with_its_runner(host: RunnerHost) -> None:
    """After kill -9 of the runner, and after its orderly stop, when it is gone before `stop` returns."""
    bridge = host.connect()
    bridge.run("forked", "sleep 1; exit 6")
    for end in (host.kill_runner, lambda: subprocess.run(host.argv("stop"), env=host.env, timeout=PATIENCE_S)):
        who = processes.identity(_forker(host))
        end()
        until(lambda who=who: not processes.alive(who), "the forker's end")
        until(bridge.ended.is_set, "the bridge's end")
        bridge = host.connect()
    assert bridge.end_of("forked")["exit_code"] == 6
