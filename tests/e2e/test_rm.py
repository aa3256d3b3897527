"""`pool rm` as a person types it: what adding did is undone, what a run wrote is kept, nothing goes by accident."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pool.lab import loopback
from pool.lab.loopback import LabHost
from tests.conftest import Cli, Result, add_ssh

Machine = Callable[[], LabHost]
TASK = {"type": "task", "commands": ["head -c 300000 /dev/zero | tr '\\0' x", "echo", "echo end"]}


def listing(host: LabHost) -> list[tuple[str, int, bytes]]:
    """Everything in the host's home: path, mode, content."""
    found = []
    for folder, folders, files in os.walk(host.home):
        for name in folders + files:
            path = os.path.join(folder, name)
            content = Path(path).read_bytes() if os.path.isfile(path) else b""
            found.append((os.path.relpath(path, host.home), os.stat(path).st_mode, content))
    return sorted(found)


def runs_on(host: LabHost) -> dict[int, str]:
    """What runs with the host's home, sshd's sessions apart: pid and command line."""
    found = {}
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            if f"HOME={host.home}".encode() in Path("/proc", entry, "environ").read_bytes().split(b"\0"):
                words = Path("/proc", entry, "cmdline").read_bytes().replace(b"\0", b" ")
                found[int(entry)] = words.decode(errors="replace")
        except OSError:
            continue
    return found


def hosts(cli: Cli) -> dict[str, dict[str, Any]]:
    """What `pool ps` knows, by name."""
    return {host["name"]: host for host in json.loads(cli("ps", "--json").stdout)}


def run(cli: Cli, folder: Path, *words: str, **task: Any) -> Result:
    """Run a task in the folder."""
    (folder / "t.dstack.yml").write_text(json.dumps(TASK | task), encoding="utf-8")
    return cli("run", ".", "-f", "t.dstack.yml", "-y", *words, cwd=folder)


def gone(host: LabHost) -> bool:
    """True once nothing of pool runs there any more."""
    deadline = time.monotonic() + 10
    while runs_on(host) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not runs_on(host)


def test_rm_undoes_what_adding_did(cli: Cli, machine: Machine, tmp_path: Path) -> None:
    """The home is as before, nothing runs there; logs are kept, also after the host was added anew."""
    host = machine()
    Path(host.home, ".local", "share").mkdir(parents=True)
    Path(host.home, ".local", "share", "mine").write_text("a person's own")
    before = listing(host)
    assert cli(*add_ssh(host)).rc == 0
    done = run(cli, tmp_path, "-q", name="kept")
    assert done.rc == 0, done
    assert len(listing(host)) > len(before)
    for words, code, said in (
        ([host.name], 2, "there is no terminal to ask at"),
        (["nobody", host.name, "-y"], 3, "there is no host nobody"),
        ([], 2, "the following arguments are required: HOST"),
    ):
        refused = cli("rm", *words)
        assert (refused.rc, refused.stdout) == (code, ""), refused
        assert refused.stderr.startswith(f"pool: {said}"), refused
    person = cli.person("rm", host.name)
    person.expect_exact(f"Remove {host.name} and everything of pool on it? [y/N] ")
    person.sendline("n")
    assert person.wait() == 130
    assert hosts(cli)[host.name]["status"] == "ready"
    removed = cli("rm", host.name, "-y")
    assert removed.rc == 0, removed
    assert f"{host.name}  Remove what was installed  changed" in removed.stderr
    assert removed.stderr.endswith(f"{host.name} is removed\n")
    assert listing(host) == before
    assert gone(host)
    assert hosts(cli) == {}
    assert cli("logs", "kept").stdout == done.stdout
    ranks = json.loads(cli("logs", "kept", "--json").stdout)
    assert ranks[0]["log_sha256"] == hashlib.sha256(done.stdout.encode()).hexdigest()
    assert [ranks[0]["host"], ranks[0]["log_bytes"]] == [host.name, len(done.stdout)]
    assert cli("rm", host.name, "-y").rc == 3
    assert Path(cli.env["POOL_STATE_DIR"], "known_hosts").read_text() == ""


def test_rm_of_a_host_with_jobs(cli: Cli, machine: Machine, tmp_path: Path) -> None:
    """4 while a job is on it, which goes on; by force the job is ended first, and then all is undone."""
    host = machine()
    before = listing(host)
    assert cli(*add_ssh(host)).rc == 0
    assert run(cli, tmp_path, "-d", name="busy", commands=["sleep 1234"]).rc == 0
    deadline = time.monotonic() + 20
    while not any("sleep 1234" in words for words in runs_on(host).values()) and time.monotonic() < deadline:
        time.sleep(0.05)
    refused = cli("rm", host.name, "-y")
    assert refused.rc == 4, refused
    assert refused.stderr == f"pool: {host.name} has a job going on, of busy\ntry: pool stop busy\n"
    assert hosts(cli)[host.name]["status"] == "ready"
    assert any("sleep 1234" in words for words in runs_on(host).values())
    forced = cli("rm", host.name, "-y", "--force")
    assert forced.rc == 0, forced
    assert gone(host)
    assert listing(host) == before
    assert json.loads(cli("runs", "busy", "--json").stdout)["status"] == "stopped"


def test_rm_of_a_host_that_is_dead(cli: Cli, machine: Machine, tmp_path: Path) -> None:
    """It stays listed, with what to type; by force it is forgotten, its live runs end, its logs are said to be lost."""
    host = machine()
    assert cli(*add_ssh(host)).rc == 0
    assert run(cli, tmp_path, "-q", name="was").rc == 0
    assert run(cli, tmp_path, "-d", name="is", commands=["sleep 1235"]).rc == 0
    deadline = time.monotonic() + 20
    while json.loads(cli("runs", "is", "--json").stdout)["status"] != "running" and time.monotonic() < deadline:
        time.sleep(0.05)
    loopback.stop(host)
    while hosts(cli)[host.name]["status"] == "ready" and time.monotonic() < deadline:
        time.sleep(0.05)
    known = hosts(cli)[host.name]
    assert known["status"] == "unreachable", known
    assert any("sleep 1235" in words for words in runs_on(host).values())
    assert "running?" in cli("runs", "is").stdout
    refused = cli("rm", host.name, "-y")
    assert refused.rc == 4, refused
    assert cli("stop", "is", "--no-wait").rc == 0
    lost = cli("logs", "was")
    assert lost.rc == 10, lost
    assert f"pool: rank 0: {host.name}" in lost.stderr, lost
    forced = cli("rm", host.name, "-y", "--force")
    assert forced.rc == 0, forced
    assert f"{host.name} is forgotten as it is" in forced.stderr, forced
    assert hosts(cli) == {}
    assert json.loads(cli("runs", "is", "--json").stdout)["status"] == "interrupted"
    lost = cli("logs", "was")
    assert lost.rc == 10, lost
    assert f"{host.name} was removed, and the log with it" in lost.stderr, lost
    for pid in runs_on(host):
        os.kill(pid, signal.SIGKILL)  # what lived on there


def test_rm_of_a_dead_host_without_jobs(cli: Cli, machine: Machine) -> None:
    """11, its reason, and the word that forgets it."""
    host = machine()
    assert cli(*add_ssh(host)).rc == 0
    loopback.stop(host)
    refused = cli("rm", host.name, "-y")
    assert refused.rc == 11, refused
    assert refused.stderr.splitlines()[-1].endswith(f"pool rm {host.name} --force"), refused
    assert host.name in hosts(cli)
    assert cli("rm", host.name, "-y", "--force").rc == 0
    assert hosts(cli) == {}
