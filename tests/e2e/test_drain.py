"""Draining a host: no new jobs, from any pool; the jobs it has go on; it is remembered by the host alone."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pool.lab.loopback import LabHost
from tests.conftest import REPOSITORY, Cli, _environment, add_ssh
from tests.e2e.conftest import Ssh
from tests.runner_host import Bridge, RefusalError, RunnerHost, until

Machine = Callable[[], LabHost]


@pytest.fixture
def other(session_dir: str) -> Iterator[Cli]:
    """The CLI of another pool."""
    cli = Cli(_environment(session_dir, tempfile.mkdtemp(prefix="s", dir=session_dir)))
    yield cli
    assert cli("server", "stop", timeout=60).rc in (0, 5)


def typed(host: RunnerHost, *words: str) -> tuple[int, dict[str, Any], str]:
    """`pool-runner …` on the host itself: exit code, its JSON, stderr."""
    done = subprocess.run(
        host.argv(*words, "--json"), env=host.env, capture_output=True, text=True, timeout=60, check=False
    )
    return done.returncode, json.loads(done.stdout or "{}"), done.stderr


def reserve(bridge: Bridge, job: str) -> str | None:
    """Why a job is not taken; None when it is."""
    try:
        bridge.ask("reserve", job=job, gpus=[], ttl_s=60)
    except RefusalError as refusal:
        return str(refusal.cause)
    return None


def listed(cli: Cli) -> dict[str, dict[str, Any]]:
    """The hosts of a pool."""
    return {each["name"]: each for each in json.loads(cli("ps", "--json").stdout)}


def status(cli: Cli, run: str) -> str:
    """How a run stands."""
    return str(json.loads(cli("runs", run, "--json").stdout)["status"])


def test_a_drained_host_takes_no_job(host: RunnerHost) -> None:
    """`reserve` is refused, what runs goes on, every pool is told; a kill -9 of the runner changes nothing of it."""
    bridge, south = host.connect(), host.connect(pool="b" * 32)
    bridge.run("before", "while [ ! -e go ]; do sleep 0.05; done; echo went on")
    code, said, _ = typed(host, "drain", "--reason", "new fans", "--by", "alice")
    assert (code, said["changed"], said["reason"], said["jobs"]) == (0, True, "new fans (alice)", ["before"])
    for each in (bridge, south):
        told = until(lambda each=each: _event(each, "drain"), "the word of it")
        assert [(d["by"], d["reason"]) for d in told["drain"]["by"]] == [("alice", "new fans")]
        assert reserve(each, "after") == "draining"
    host.kill_runner()
    again = host.connect()
    assert again.ask("facts")["drain"] == told["drain"]
    assert reserve(again, "after") == "draining"
    Path(host.path("before", "work/go")).touch()
    assert again.log("before") == b"went on\n"
    assert typed(host, "undrain")[:2][1]["drained"] is False
    assert reserve(again, "after") is None


def test_a_host_can_be_drained_while_no_runner_runs(host: RunnerHost) -> None:
    """The file is changed under the runner's lock; the next runner reads it."""
    host.connect().close()
    subprocess.run(host.argv("stop"), env=host.env, check=True, timeout=60)
    assert typed(host, "drain", "--reason", "off")[1]["drained"]
    code, said, _ = typed(host, "status")
    assert (code, said["running"], [d["reason"] for d in said["drain"]["by"]]) == (3, False, ["off"])
    assert reserve(host.connect(), "j") == "draining"


def test_waiting_for_jobs_on_the_host(host: RunnerHost) -> None:
    """4 and drained when the time is up; 0 once the last job has ended; what is waited for is told."""
    bridge = host.connect()
    bridge.run("waited", "while [ ! -e go ]; do sleep 0.05; done")
    code, said, errors = typed(host, "drain", "--wait", "0.5")
    assert (code, said["drained"], said["jobs"]) == (4, True, ["waited"])
    assert "waiting for job waited" in errors
    threading.Timer(1.0, Path(host.path("waited", "work/go")).touch).start()
    assert typed(host, "drain", "--wait", "60")[:2][1]["jobs"] == []
    wrong = subprocess.run(
        host.argv("drain", "--wait", "soon"), env=host.env, capture_output=True, text=True, timeout=60
    )
    assert wrong.returncode == 2


def test_every_pool_sees_it_and_places_nothing_there(cli: Cli, other: Cli, machine: Machine, tmp_path: Path) -> None:
    """`draining` with the reason in both; a run waits, and starts after undrain; a job that ran was not touched."""
    host = machine()
    for each in (cli, other):
        assert each(*add_ssh(host)).rc == 0
    task = {"type": "task", "commands": ["until [ -e ~/go ]; do sleep 0.1; done"], "resources": {"gpu": 2}}
    (tmp_path / ".dstack.yml").write_text(json.dumps(task))
    assert cli("run", str(tmp_path), "-n", "first", "-y", "-d").rc == 0
    until(lambda: status(cli, "first") == "running", "a running job")
    for each in (cli, other):  # its GPUs are busy, so they wait
        until(lambda each=each: listed(each)[host.name]["gpus_free"] == 0, "busy, in both pools")
        assert each("run", str(tmp_path), "-n", "waits", "-y", "-d").rc == 0
    done = cli("drain", host.name, "--reason", "new\nfans")
    assert done.rc == 0, done
    assert f"{host.name} takes no new jobs: new fans (" in done.stderr
    for each in (cli, other):
        until(lambda each=each: listed(each)[host.name]["status"] == "draining", "draining, in both pools")
        assert listed(each)[host.name]["reason"].startswith("new fans (")
        blocked = each("run", str(tmp_path), "-y", "-d")
        assert (blocked.rc, "has draining (new fans" in blocked.stderr) == (6, True), blocked
    late = cli("drain", host.name, "--wait", "1s")
    assert late.rc == 4, late
    assert f"pool: {host.name} still has a job after 1 s; it stays drained" in late.stderr
    Path(host.home, "go").touch()
    idle = cli("drain", host.name, "--wait", "--json")
    assert idle.rc == 0, idle
    assert [(h["status"], h["jobs"], h["changed"]) for h in json.loads(idle.stdout)] == [("draining", 0, False)]
    until(lambda: status(cli, "first") == "done", "the end of the job that ran")
    assert cli("server", "stop").rc == 0
    assert listed(cli)[host.name]["status"] == "draining"
    assert {status(each, "waits") for each in (cli, other)} == {"submitted"}
    back = other("undrain", host.name)
    assert (back.rc, back.stderr) == (0, f"{host.name} takes jobs again\n")
    for each in (cli, other):
        until(lambda each=each: status(each, "waits") == "done", "the end of a run that waited")
    assert "was not drained" in cli("undrain", host.name).stderr


def test_a_host_that_is_drained_on_itself(cli: Cli, machine: Machine, ssh: Ssh) -> None:
    """`pool-runner drain` there: seen here at once; adding it again or failing to remove it does not undo that."""
    host = machine()
    assert cli(*add_ssh(host)).rc == 0
    assert ssh(host, ".local/bin/pool-runner drain --reason 'by hand'").returncode == 0
    until(lambda: listed(cli)[host.name]["status"] == "draining", "draining")
    assert cli(*add_ssh(host)).rc == 0
    until(lambda: listed(cli)[host.name]["status"] == "draining", "still draining")
    assert "by hand" in listed(cli)[host.name]["reason"]
    assert cli("rm", host.name, "-y").rc == 0


def test_what_cannot_be_drained(ready: Cli, lab: list[LabHost]) -> None:
    """A name that is none changes nothing of the others, and bad words nothing at all."""
    host = lab[0]
    for words, code, said in (
        (["drain", host.name, "nobody"], 3, "there is no host nobody"),
        (["drain", host.name, "--wait", "soon"], 2, "--wait: not a length of time: 'soon'"),
        (["drain"], 2, "the following arguments are required: HOST"),
    ):
        refused = ready(*words)
        assert (refused.rc, refused.stdout) == (code, ""), refused
        assert refused.stderr.startswith(f"pool: {said}"), refused
    assert listed(ready)[host.name]["status"] == "ready"


def test_a_playbook_drains_waits_and_takes_back_its_own_drain(host: RunnerHost, tmp_path: Path) -> None:
    """`tasks_from: drain` and `undrain` of the role, as driver.yml has them; another's drain stays."""
    (tmp_path / "pool-runner").write_text(f'#!/bin/sh\nexec {shlex.join(host.argv())} "$@"\n')
    (tmp_path / "pool-runner").chmod(0o755)
    bridge = host.connect()
    bridge.run("played", "while [ ! -e go ]; do sleep 0.05; done")
    late = _play(host, tmp_path, "drain", runner_drain_wait=1)
    assert late.returncode == 2, late.stdout + late.stderr
    assert "jobs are still there after 1 s: played" in late.stdout
    Path(host.path("played", "work/go")).touch()
    bridge.end_of("played")
    drained = _play(host, tmp_path, "drain", "count", runner_drain_wait=20)
    assert (drained.returncode, "changed=0" in drained.stdout) == (0, True), drained.stdout
    assert reserve(bridge, "k") == "draining"
    assert typed(host, "drain", "--by", "alice")[0] == 0
    back = _play(host, tmp_path, "undrain")
    assert (back.returncode, "changed=1" in back.stdout) == (0, True), back.stdout
    assert [drain["by"] for drain in bridge.ask("facts")["drain"]["by"]] == ["alice"]
    assert "changed=0" in _play(host, tmp_path, "undrain").stdout


def _play(host: RunnerHost, folder: Path, *tasks: str, **variables: Any) -> subprocess.CompletedProcess[str]:
    """These tasks of the role `runner`, on this machine."""
    play = {
        "hosts": "localhost",
        "connection": "local",
        "gather_facts": False,
        "vars": {
            "ansible_python_interpreter": sys.executable,
            "runner_bin_dir": str(folder),
            "runner_become": False,
            "runner_drain_by": "site.yml",
            **variables,
        },
        "tasks": [
            {"name": name, "ansible.builtin.include_role": {"name": "runner", "tasks_from": name}} for name in tasks
        ],
    }
    (folder / "play.yml").write_text(json.dumps([{"name": "Drain", **play}]))
    env = {**os.environ, **host.env, "ANSIBLE_ROLES_PATH": str(REPOSITORY / "roles"), "ANSIBLE_NOCOLOR": "1"}
    env["PATH"] = os.environ["PATH"]
    return subprocess.run(
        [sys.executable, "-m", "ansible", "playbook", "-i", "localhost,", str(folder / "play.yml")],
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def _event(bridge: Bridge, kind: str) -> dict[str, Any] | None:
    deadline = time.monotonic() + 1
    while time.monotonic() < deadline and not bridge.events.empty():
        event = bridge.events.get()
        if event.get("event") == kind:
            return event
    return None
