"""A dev-environment: it starts as a task does, stays up, and ends when it is stopped or nobody has been there long."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from typing import Any

from pool.client import Client
from pool.task.script import STAY
from tests.conftest import Cli
from tests.e2e.test_streams import ECHO, client  # noqa: F401 - a fixture
from tests.runner_host import RunnerHost, until


def write(folder: Path, **fields: Any) -> Path:
    """A file of a dev-environment in `folder`."""
    (folder / "dev.dstack.yml").write_text(json.dumps({"type": "dev-environment", **fields}), encoding="utf-8")
    return folder


def one(cli: Cli, name: str) -> dict[str, Any]:
    """The run, as --json tells it."""
    found: dict[str, Any] = json.loads(cli("runs", name, "--json").stdout)
    return found


def test_it_stays_up_until_it_is_stopped(ready: Cli, tmp_path: Path) -> None:
    """init, setup and commands run in the folder that one is in; a stop is its good end, and takes no time."""
    (tmp_path / "here").write_text("from the folder\n")
    folder = write(tmp_path, name="dev", init=["cat here"], setup=["echo setup"], commands=["echo commands"])
    person = ready.person("run", "-f", "dev.dstack.yml", "-y", cwd=folder)
    person.expect_exact("dev.dstack.yml (dev-environment)")
    person.expect_exact("; at most 6h")
    person.expect_exact("pool: it is up until: pool stop dev")
    while "commands" not in (logs := ready("logs", "dev").stdout):
        time.sleep(0.1)
    assert logs == "from the folder\nsetup\ncommands\n"
    assert one(ready, "dev")["status"] == "running"
    began = time.monotonic()
    assert ready("stop", "dev", "-y").rc == 0
    assert time.monotonic() - began < 10, "it waited for the kill"
    person.expect_exact("pool: dev stopped on gpu")
    assert person.wait() == 0


def test_ssh_and_an_editor_find_it_by_name(ready: Cli, tmp_path: Path) -> None:
    """Asked once, the entry is put in; the link that is printed leads to the folder that `ssh NAME` comes into."""
    home = tmp_path / "home"
    home.mkdir()
    cli = Cli(ready.env | {"HOME": str(home)})
    folder = write(tmp_path, name="dev-ssh", ide="cursor", working_dir="inner")
    (folder / "inner").mkdir()
    (folder / "inner" / "kept").touch()
    person = cli.person("run", ".", "-f", "dev.dstack.yml", cwd=folder)
    person.expect_exact("Run it? [y/N]")
    person.sendline("y")
    person.expect_exact("Put it there? [y/N]")
    person.sendline("y")
    person.expect_exact("pool: ssh dev-ssh")
    person.expect(r"pool: cursor://vscode-remote/ssh-remote\+dev-ssh(/\S+)")
    assert person.match
    linked = person.match.group(1)
    try:
        argv = ["ssh", "-F", str(home / ".ssh" / "config"), "dev-ssh", "pwd; ls"]
        done = subprocess.run(argv, env=cli.env, capture_output=True, text=True, timeout=60, check=False)
        assert done.stdout == f"{linked}\nkept\n", done
        assert done.returncode == 0
    finally:
        assert cli("stop", "dev-ssh", "-y").rc == 0
    assert person.wait() == 0


def test_a_no_to_the_entry_is_remembered(ready: Cli, tmp_path: Path) -> None:
    """Nothing is written, it is not asked again, and what to type is told all the same."""
    home = tmp_path / "home"
    home.mkdir()
    refused = Path(ready.env["POOL_STATE_DIR"], "ssh", "no-include")
    refused.unlink(missing_ok=True)
    cli = Cli(ready.env | {"HOME": str(home)})
    folder = write(tmp_path)
    for number, answers in enumerate((["y", "n"], ["y"])):
        person = cli.person("run", ".", "-f", "dev.dstack.yml", "-n", f"dev-no-{number}", cwd=folder)
        for answer in answers:
            person.expect_exact("[y/N]")
            person.sendline(answer)
        person.expect_exact(f"pool: pool ssh dev-no-{number}")
        person.expect_exact("pool: for `ssh`, `scp` and editors, once: pool ssh-config --install")
        assert cli("stop", f"dev-no-{number}", "-y").rc == 0
        assert person.wait() == 0
    assert not (home / ".ssh").exists()
    refused.unlink()


def test_a_beginning_that_fails_ends_it(ready: Cli, tmp_path: Path) -> None:
    """The run fails with the exit code of the command, and what comes after does not run."""
    folder = write(tmp_path, name="dev-bad", init=["echo one", "exit 5"], commands=["echo two"])
    done = ready("run", "-f", "dev.dstack.yml", "-y", "-q", cwd=folder)
    assert (done.rc, done.stdout) == (5, "one\n"), done
    assert one(ready, "dev-bad")["status"] == "failed"


def test_it_is_stopped_when_nobody_is_there(ready: Cli, client: Client, tmp_path: Path) -> None:  # noqa: F811
    """The plan says so, and afterwards the reason; one that is watched, and one with an open connection, stay up."""
    folder = write(tmp_path, inactivity_duration="1s", commands=["python3 echo.py &"])
    (folder / "echo.py").write_text(ECHO, encoding="ascii")
    words = ("run", "-f", "dev.dstack.yml", "-y", "-n")
    plan = ready(*words, "dev-idle", "--dry-run", cwd=folder)
    assert "; at most 6h; stopped when nobody was connected for 1s\n" in plan.stderr, plan
    watched = ready.start(*words, "dev-watched", cwd=folder)
    assert ready(*words, "dev-open", "-d", cwd=folder).rc == 0
    _, stream = client.open(
        "port", attached=True, run="dev-open", rank=0, port=int(until(lambda: ready("logs", "dev-open").stdout, "it"))
    )
    assert ready(*words, "dev-idle", "-d", cwd=folder).rc == 0
    until(lambda: one(ready, "dev-idle")["finished"], "its end")
    time.sleep(2)  # the others have begun before it
    assert [one(ready, name)["status"] for name in ("dev-watched", "dev-open")] == ["running", "running"]
    stream.close()
    run = one(ready, "dev-idle")
    assert (run["status"], run["exit_code"]) == ("stopped", None)
    assert run["jobs"][0]["reason"] == "nobody was connected to it for longer than inactivity_duration"
    assert ready("attach", "dev-idle").rc == 0
    until(lambda: one(ready, "dev-open")["finished"], "the end of the one that was let go")
    assert ready("stop", "dev-watched", "-y").rc == 0
    watched.communicate(timeout=30)
    assert watched.returncode == 0


def test_no_server_and_no_runner_are_needed_for_that(host: RunnerHost) -> None:
    """The supervisor stops it by itself; what was written of a connection counts."""
    bridge = host.connect()
    bridge.run("idle-1", f"echo up; {STAY}", inactivity_s=1, stop_duration_s=30)
    began = time.monotonic()
    while time.monotonic() - began < 6:
        bridge.request("read_log", job="idle-1", offset=3, wait_s=1)
    assert host.read("idle-1", "exit.json") is None
    bridge.close()
    host.kill_runner()
    ended = until(lambda: host.read("idle-1", "exit.json"), "its end")
    assert ended["reason"] == "inactivity"
    assert host.alive("idle-1") == []
