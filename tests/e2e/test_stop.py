"""`pool stop`, and what a follower sees when runs and servers end under it."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pool.lab import processes
from tests.conftest import Cli

Begin = Callable[..., str]


@pytest.fixture
def begin(ready: Cli, tmp_path: Path) -> Begin:
    """`begin(name, *commands, **fields)` starts a run and waits until it runs; its name."""

    def begin(name: str, *commands: str, status: str = "running", **fields: Any) -> str:
        task = {"type": "task", "name": name, "commands": list(commands), **fields}
        (tmp_path / "t.dstack.yml").write_text(json.dumps(task), encoding="utf-8")
        done = ready("run", ".", "-f", "t.dstack.yml", "-y", "-d", cwd=tmp_path)
        assert (done.rc, done.stdout) == (0, f"{name}\n"), done
        deadline = time.monotonic() + 30
        while one(ready, name)["status"] != status:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        return name

    return begin


def one(cli: Cli, name: str) -> dict[str, Any]:
    """The run, as --json tells it."""
    found: dict[str, Any] = json.loads(cli("runs", name, "--json").stdout)
    return found


def lines(cli: Cli, name: str, count: int) -> None:
    """Wait until the run has written that many lines."""
    deadline = time.monotonic() + 30
    while len(cli("logs", name).stdout.splitlines()) < count:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_stop_asks_first(ready: Cli, begin: Begin) -> None:
    """SIGINT, and the task's own last words are kept; nothing more is done to a run that has ended."""
    begin("polite", "trap 'echo bye; exit 4' INT; echo up; while :; do sleep 0.05; done")
    lines(ready, "polite", 1)
    done = ready("stop", "polite")
    assert (done.rc, done.stdout, done.stderr) == (0, "", "polite stopped\n")
    assert ready("logs", "polite").stdout == "up\nbye\n"
    again = ready("stop", "polite")
    assert (again.rc, again.stderr) == (0, "polite has ended already: stopped\n")


def test_stop_kills_after_the_stop_duration(ready: Cli, begin: Begin) -> None:
    """A task that ignores SIGINT has its stop_duration; --abort waits for nothing; children go too."""
    stubborn = "trap '' INT; sleep 300 & echo $!; while :; do sleep 0.05; done"
    began = time.monotonic()
    begin("deaf", stubborn, stop_duration="1s")
    lines(ready, "deaf", 1)
    child = int(ready("logs", "deaf").stdout)
    assert ready("stop", "deaf").rc == 0
    assert time.monotonic() - began >= 1
    assert processes.started(child) is None
    began = time.monotonic()
    begin("deafer", stubborn, stop_duration="1h")
    lines(ready, "deafer", 1)
    assert ready("stop", "deafer", "--abort").rc == 0
    assert time.monotonic() - began < 10
    assert one(ready, "deafer")["jobs"][0]["reason"] is None or one(ready, "deafer")["status"] == "stopped"


def test_stop_several_and_one_that_waits(ready: Cli, begin: Begin) -> None:
    """One that still waits for hosts is stopped at once; a name that is wrong stops none of them."""
    for name in ("holds-1", "holds-2"):
        begin(name, "sleep 300", resources={"gpu": 2})
    begin("waits", "true", resources={"gpu": 2}, status="submitted")
    wrong = ready("stop", "holds-1", "no-such-run")
    assert (wrong.rc, wrong.stderr) == (3, "pool: there is no run no-such-run\ntry: pool runs\n")
    assert one(ready, "holds-1")["status"] == "running"
    done = ready("stop", "waits", "holds-1", "holds-2")
    assert done.rc == 0, done
    assert done.stderr == "waits stopped\nholds-1 stopped\nholds-2 stopped\n"
    attached = ready("attach", "waits")
    assert attached.rc == 7, attached
    assert attached.stderr.endswith("pool: waits stopped\ntry: pool logs waits\n")


def test_stop_without_waiting(ready: Cli, begin: Begin) -> None:
    """--no-wait returns while the run is still ending."""
    begin("slow-end", "trap 'sleep 0.5; exit 0' INT; while :; do sleep 0.05; done")
    done = ready("stop", "slow-end", "--no-wait")
    assert (done.rc, done.stderr) == (0, "slow-end is being stopped\n")
    ended = ready("attach", "slow-end")
    assert ended.rc == 7, ended
    assert "pool: slow-end stopping on gpu1\n" in ended.stderr


def test_stop_at_a_terminal_asks(ready: Cli, begin: Begin) -> None:
    """A person is asked; a no changes nothing, -y is not asked."""
    begin("asked", "sleep 300")
    person = ready.person("stop", "asked")
    person.expect_exact("Stop asked? [y/N] ")
    person.sendline("n")
    person.expect_exact("nothing was changed")
    assert person.wait() == 130
    assert one(ready, "asked")["status"] == "running"
    person = ready.person("stop", "asked", "-y")
    person.expect_exact("asked stopped")
    assert person.wait() == 0


def test_a_follower_outlives_the_server(ready: Cli, begin: Begin, tmp_path: Path) -> None:
    """A server that was killed is started again by its followers; one that was stopped is waited for. No byte twice."""
    begin("long", f"i=0; while ! [ -e {tmp_path}/end ]; do i=$((i+1)); echo $i; sleep 0.02; done; echo end")
    follower = ready.start("logs", "long", "-f")
    assert follower.stdout is not None
    assert follower.stderr is not None
    assert follower.stdout.readline() == "1\n"
    pid_file = Path(ready.env["POOL_STATE_DIR"], "server.pid")
    os.kill(int(pid_file.read_text()), signal.SIGKILL)
    read = 1
    for _ in range(50):
        read += 1
        assert follower.stdout.readline() == f"{read}\n"
    assert ready("server", "stop").rc == 0
    said = list(iter(follower.stderr.readline, "try: pool server start\n"))
    assert said[-1] == "pool: the server was stopped; waiting for it\n"
    assert not pid_file.exists()
    assert ready("server", "start").rc == 0
    (tmp_path / "end").write_text("")
    rest = follower.stdout.read().splitlines()
    assert follower.wait(timeout=60) == 0
    assert rest[-1] == "end"
    assert rest[:-1] == [str(number) for number in range(read + 1, read + len(rest))]
    assert one(ready, "long")["exit_code"] == 0
