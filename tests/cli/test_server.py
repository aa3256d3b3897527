"""`pool server`, and the state folder: one server a folder, started by whoever needs it, ours alone."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

from pool.lab import loopback, processes
from tests.conftest import Cli, add_ssh

#: Becomes the server, with a socket as its descriptor 3.
_AS_SYSTEMD = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"}
os.execv(sys.executable, [sys.executable, "-m", "pool.server.main"])
"""


def test_start_status_stop(cli: Cli) -> None:
    """Each says how things stand, twice is as good as once, and 5 means that it does not run."""
    for _ in range(2):
        down = cli("server", "status")
        assert (down.rc, down.stdout) == (5, "")
        assert down.stderr == "pool: the pool server does not run\ntry: pool server start\n"
        assert cli("server", "stop").stdout == "the pool server does not run\n"
    first = cli("server", "start")
    assert first.rc == 0, first
    assert cli("server", "start").stdout == cli("server", "status").stdout == first.stdout
    told = json.loads(cli("server", "status", "--json").stdout)
    assert told["folder"] == cli.env["POOL_STATE_DIR"]
    assert f"pid {told['pid']}," in first.stdout
    assert cli("server", "stop").stdout == "the pool server has ended\n"
    assert not processes.started(told["pid"])
    assert cli("server").rc == 2


def test_many_commands_at_once_start_one_server(cli: Cli) -> None:
    """And all of them are answered by it."""
    started = [cli.start("ps", "--json") for _ in range(8)]
    for each in started:
        stdout, stderr = each.communicate(timeout=60)
        assert (each.returncode, stdout) == (0, "[]\n"), stderr
    pid = json.loads(cli("server", "status", "--json").stdout)["pid"]
    deadline = time.monotonic() + 30
    while _servers(cli) != [pid] and time.monotonic() < deadline:  # those that came late end by themselves
        time.sleep(0.1)
    assert _servers(cli) == [pid]


def _servers(cli: Cli) -> list[int]:
    return [pid for pid in processes.belonging(cli.env["POOL_LAB"]) if _serves(pid, cli.env["POOL_STATE_DIR"])]


def _serves(pid: int, folder: str) -> bool:
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        words = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
    return b"pool.server.main" in words and f"POOL_STATE_DIR={folder}".encode() in environment


def test_a_killed_server_is_started_again(cli: Cli) -> None:
    """Its leftovers are in nobody's way."""
    assert cli("ps").rc == 0
    pid = json.loads(cli("server", "status", "--json").stdout)["pid"]
    os.kill(pid, signal.SIGKILL)
    assert cli("server", "status").rc == 5
    assert cli("ps", "--json").stdout == "[]\n"
    assert json.loads(cli("server", "status", "--json").stdout)["pid"] != pid


def test_the_state_folder_is_ours_alone(cli: Cli) -> None:
    """Whatever the umask of the command that started the server: no one else reads it or talks to it."""
    mask = subprocess.run(
        ["sh", "-c", 'umask 000; exec "$@"', "sh", *cli.argv("ps")], env=cli.env, capture_output=True, timeout=60
    )
    assert mask.returncode == 0, mask
    folder = Path(cli.env["POOL_STATE_DIR"])
    for path in (folder, folder / "server.sock", folder / "pool.db", folder / "secrets"):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


def test_modules_of_the_caller_s_folder_are_not_the_server_s(cli: Cli, tmp_path: Path) -> None:
    """A project may well have a queue.py, and be gone before the server is."""
    for name in ("queue.py", "secrets.py", "uvicorn.py"):
        (tmp_path / name).write_text("raise SystemExit('not mine')")
    words = cli.argv("server", "start")
    done = subprocess.run(
        [words[0], "-P", *words[1:]], cwd=tmp_path, env=cli.env, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done
    pid = json.loads(cli("server", "status", "--json").stdout)["pid"]
    assert os.readlink(f"/proc/{pid}/cwd") == cli.env["POOL_STATE_DIR"]


def test_a_server_that_cannot_start(cli: Cli) -> None:
    """5, with the last thing it said and where the rest is."""
    os.mkdir(os.path.join(cli.env["POOL_STATE_DIR"], "pool.db"))
    done = cli("ps")
    assert done.rc == 5, done
    assert done.stderr.startswith("pool: the server ended at its start: "), done
    assert done.stderr.splitlines()[-1] == f"try: tail {cli.env['POOL_STATE_DIR']}/server.log"
    assert "Traceback" not in done.stderr


def test_lab_down_ends_what_runs_there(cli: Cli, session_dir: str, tmp_path: Path) -> None:
    """`pool lab` on its own: up, status, a job that runs, down; nothing is left of any of it."""
    root = os.path.join(cli.env["POOL_STATE_DIR"], "lab")
    assert cli("lab", "status").stdout == "no lab is up\ntry: pool lab up\n"
    assert cli("lab", "up", "--hosts", "0").rc == 2
    up = cli("lab", "up", "--hosts", "1", "--gpus", "1")
    assert up.rc == 0, up
    host = loopback.hosts(root)[0]
    assert f"  pool {' '.join(add_ssh(host))}\n" in up.stdout
    assert json.loads(cli("lab", "status", "--json").stdout)[0]["fingerprint"] == host.fingerprint
    assert cli(*add_ssh(host)).rc == 0
    (tmp_path / "t.dstack.yml").write_text("type: task\ncommands: [sleep 4321]\n")
    assert cli("run", ".", "-f", "t.dstack.yml", "-y", "-d", cwd=tmp_path).rc == 0
    down = cli("lab", "down")
    assert down.stdout == "the lab is down: 1 hosts\n", down
    assert processes.belonging(root) == {}
    assert not any(words == b"sleep\x004321\x00" for words in _command_lines())
    assert cli("lab", "down").stdout == "no lab is up\n"


def _command_lines() -> list[bytes]:
    found = []
    for entry in os.listdir("/proc"):
        try:
            found += [Path("/proc", entry, "cmdline").read_bytes()] if entry.isdigit() else []
        except OSError:
            continue
    return found


def test_a_socket_that_systemd_hands_over(cli: Cli, tmp_path: Path) -> None:
    """Served beside the server's own, for who names it; nobody stops by it a server that is not theirs alone."""
    shared = str(tmp_path / "shared.sock")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(shared)
        listener.listen()
        argv = [sys.executable, "-c", _AS_SYSTEMD, str(listener.fileno())]
        server = subprocess.Popen(argv, env=cli.env, pass_fds=[listener.fileno()])
    try:
        mine = str(tmp_path / "mine")
        asked = cli("server", "status", "--json", POOL_SERVER=shared, POOL_STATE_DIR=mine)
        assert (json.loads(asked.stdout)["pid"], json.loads(asked.stdout)["folder"]) == (
            server.pid,
            cli.env["POOL_STATE_DIR"],
        )
        assert cli("ps", "--json", POOL_SERVER=shared, POOL_STATE_DIR=mine).stdout == "[]\n"
        refused = cli("server", "stop", POOL_SERVER=shared)
        assert (refused.rc, "is not yours alone" in refused.stderr) == (4, True), refused
        assert cli("server", "stop").stdout == "the pool server has ended\n"
        refused = cli("ps", POOL_SERVER=shared)
        assert (refused.rc, refused.stderr.split(":")[0]) == (5, "pool"), refused
    finally:
        server.kill()
        server.wait(timeout=30)
