"""The folder of a run, on two real hosts: what arrives, what of it is sent, and what is asked or told about it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pool.lab.loopback import LabHost
from pool.runner import processes
from tests.conftest import Cli, Result, add_ssh
from tests.runner_host import until

TASK = "t.dstack.yml"
LIST = (
    "import hashlib, os, json\n"
    "def one(p):\n"
    "    s = os.lstat(p)\n"
    "    if os.path.islink(p): return ['l', os.readlink(p).hex()]\n"
    "    if os.path.isdir(p): return ['d', s.st_mode & 0o7777]\n"
    "    h = hashlib.sha256(open(p, 'rb').read()).hexdigest()\n"
    "    return ['f', s.st_mode & 0o7777, s.st_mtime_ns, h]\n"
    "print(json.dumps({os.path.join(d, n)[2:].hex(): one(os.path.join(d, n))"
    " for d, ds, fs in os.walk(b'.') for n in ds + fs}))\n"
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder whose task tells everything that is in it."""
    made = tmp_path / "code"
    made.mkdir()
    (made / "list.py").write_text(LIST)
    write_task(made, "python3 list.py")
    return made


def write_task(folder: Path, *commands: str, **fields: Any) -> None:
    """Its task."""
    (folder / TASK).write_text(json.dumps({"type": "task", "commands": list(commands), **fields}))


def run(cli: Cli, folder: Path, *words: str) -> Result:
    """`pool run`."""
    return cli("run", str(folder), "-f", str(folder / TASK), "-y", *words)


def tree(folder: Path) -> dict[str, Any]:
    """What LIST tells of it, here."""
    done = subprocess.run(["python3", "-c", LIST], cwd=folder, capture_output=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def packs(*folders: str) -> int:
    """Bytes of contents that are kept there."""
    return sum(
        file.stat().st_size
        for folder in folders
        for file in Path(folder, "code", "packs").iterdir()
        if not file.name.endswith(".index")
    )


def state(host: LabHost) -> str:
    """The runner's folder."""
    return os.path.join(host.home, ".local", "state", "pool-runner")


def test_it_arrives_exactly(ready: Cli, folder: Path) -> None:
    """Modes of files and folders, dates, links, empty folders, odd names, and a file of 300 MB."""
    (folder / "empty").mkdir(mode=0o750)
    (folder / "wide").mkdir()
    (folder / "wide").chmod(0o777)
    (folder / "closed").mkdir()
    (folder / "closed" / "once").write_text("x")
    (folder / "closed" / "once").chmod(0o400)
    (folder / "closed").chmod(0o555)
    for odd in (b"-rf", b"a b", b"new\nline", b"\xff\xfe", "\N{SNOWMAN}".encode(), b"esc\x1b[2J", b".hidden"):
        Path(os.fsdecode(os.path.join(os.fsencode(folder), odd))).write_bytes(odd)
    (folder / "run.sh").write_text("#!/bin/sh\n")
    (folder / "run.sh").chmod(0o4775)
    os.utime(folder / "run.sh", ns=(1, 1_234_567_890_123_456_789))
    os.symlink("closed/../run.sh", folder / "link")
    os.symlink("../nowhere", folder / "wide" / "dangling")
    with open(folder / "large", "wb") as file:
        block = os.urandom(1 << 20)
        for number in range(300):
            file.write(block[number:] + block[:number])
    done = run(ready, folder, "-q")
    assert done.rc == 0, done
    expected = tree(folder)
    expected[b"run.sh".hex()][1] = 0o775  # never setuid
    assert json.loads(done.stdout) == expected


def test_only_what_is_new_is_sent(ready: Cli, folder: Path, lab: list[LabHost]) -> None:
    """One changed file of many, to the server and to each of two hosts; of an unchanged folder nothing."""
    write_task(folder, "cat mark; ls | wc -l", nodes=2)
    for number in range(500):
        (folder / f"file{number}").write_bytes(os.urandom(2000))
    (folder / "mark").write_text("one\n")
    stores = (ready.env["POOL_STATE_DIR"], state(lab[0]), state(lab[1]))
    before = [packs(each) for each in stores]
    lines = ["[0] 503", "[0] one", "[1] 503", "[1] one"]
    assert sorted(run(ready, folder, "-q").stdout.splitlines()) == lines
    sizes = [packs(each) - old for each, old in zip(stores, before, strict=True)]
    assert all(1_000_000 < size < 1_010_000 for size in sizes), sizes
    (folder / "mark").write_text("two\n")
    before = [packs(each) for each in stores]
    for _ in range(2):
        done = run(ready, folder, "-q")
        assert sorted(done.stdout.splitlines()) == [line.replace("one", "two") for line in lines]
        assert [packs(each) - old for each, old in zip(stores, before, strict=True)] == [4, 4, 4]


def test_a_job_has_a_folder_of_its_own(ready: Cli, folder: Path, lab: list[LabHost]) -> None:
    """What one job writes, the next one of the same code does not see; also where its folder was made ahead."""
    write_task(folder, "cat mark; echo spoilt > mark; echo x > more; ls | wc -l")
    (folder / "mark").write_text("clean\n")
    trees = Path(state(lab[0]), "jobs", ".trees")
    for _ in range(3):
        assert run(ready, folder, "-q", "--instance", "gpu1").stdout == "clean\n4\n"
        until(lambda: [one for one in trees.iterdir() if one.name.startswith("spare")], "the folder made ahead")


def test_as_git_sees_it(ready: Cli, folder: Path) -> None:
    """.gitignore and .poolignore count; .git only when it is asked for."""
    subprocess.run(["git", "init", "-q", str(folder)], check=True)
    (folder / ".gitignore").write_text("*.log\n")
    (folder / ".poolignore").write_text("/data\n")
    (folder / "data").mkdir()
    for name in ("x.log", "data/big", "new"):
        (folder / name).write_text(name)
    done = run(ready, folder, "-q")
    names = {bytes.fromhex(name).decode() for name in json.loads(done.stdout)}
    assert names == {".gitignore", ".poolignore", "list.py", "new", TASK}
    done = run(ready, folder, "-q", "--git")
    names = {bytes.fromhex(name).decode() for name in json.loads(done.stdout)}
    assert {".git", ".git/HEAD", "new"} < names


def test_files(ready: Cli, folder: Path, tmp_path: Path) -> None:
    """They lie in the folder, whatever is ignored; what cannot is an error before anything is sent."""
    (tmp_path / "labels.csv").write_text("a,b")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "x").write_text("x")
    (folder / ".poolignore").write_text("kept\n")
    (folder / "kept").write_text("k")
    write_task(
        folder,
        "cat in/l.csv labels.csv set/x kept",
        files=["../labels.csv", "../labels.csv:in/l.csv", "../set", "kept"],
    )
    done = run(ready, folder)
    assert (done.rc, done.stdout) == (0, "a,ba,bxk"), done
    assert "no effect" not in done.stderr
    runs = len(json.loads(ready("runs", "--json").stdout))
    for files, said in (
        (["nowhere"], "pool: files: nowhere: No such file or directory"),
        (["kept:/data/kept"], "pool: files: kept:/data/kept: its place has to be in the folder that is sent"),
    ):
        write_task(folder, "true", files=files)
        done = run(ready, folder)
        assert done.rc == 2, done
        assert done.stderr.splitlines()[-2].startswith(said), done
    assert len(json.loads(ready("runs", "--json").stdout)) == runs


def test_a_folder_that_is_too_large(ready: Cli, folder: Path) -> None:
    """2 at once, before it is read or sent: most likely it is the wrong folder. With a terminal it is asked."""
    write_task(folder, "true")
    (folder / "data").mkdir()
    for name, size in (("data/a", 3 << 30), ("b.bin", 5 << 20)):
        with open(folder / name, "wb") as file:
            file.truncate(size)
    runs = len(json.loads(ready("runs", "--json").stdout))
    done = run(ready, folder)
    assert done.rc == 2, done
    assert done.stderr.splitlines()[-6:] == [
        "   3.0GB  data",
        "     5MB  b.bin",
        "     0MB  list.py",
        "     0MB  t.dstack.yml",
        "pool: the folder has 3.0GB in 4 new files: more than the limit of 1.0GB",
        "try: --size-limit 4GB, or name what is not code in .poolignore",
    ]
    assert len(json.loads(ready("runs", "--json").stdout)) == runs
    bad = run(ready, folder, "--size-limit", "much")
    assert (bad.rc, bad.stderr.splitlines()[-1]) == (2, "try: --size-limit 5GB"), bad
    os.truncate(folder / "data" / "a", 12 << 20)
    person = ready.person("run", str(folder), "-f", str(folder / TASK), "--size-limit", "10MB")
    person.expect_exact("Run it? [y/N] ")
    person.sendline("y")
    person.expect_exact("12MB  data")
    person.expect_exact("Send 17MB in 4 new files? (.poolignore leaves out) [y/N] ")
    person.sendline("n")
    assert person.wait() == 130
    assert len(json.loads(ready("runs", "--json").stdout)) == runs
    assert run(ready, folder, "--size-limit", "20MB").rc == 0
    assert run(ready, folder, "--size-limit", "1MB").rc == 0  # nothing of it is new


def test_secrets_and_what_is_left_out_are_told(ready: Cli, folder: Path) -> None:
    """Secrets once; what cannot be sent each time."""
    (folder / ".env").write_text("TOKEN=x")
    os.mkfifo(folder / "pipe")
    os.symlink("/etc/passwd", folder / "out")
    first, second = run(ready, folder), run(ready, folder)
    told = "pool: sent along, though it may hold secrets: .env; .poolignore keeps files here"
    assert told in first.stderr.splitlines()
    assert told not in second.stderr
    for done in (first, second):
        assert done.rc == 0
        assert b".env".hex() in json.loads(done.stdout)
        assert [line for line in done.stderr.splitlines() if "left out" in line] == [
            "pool: left out out: the link to /etc/passwd leaves the folder",
            "pool: left out pipe: a special file cannot be sent",
        ]


def test_the_disk_limit_takes_nothing_from_a_job(ready: Cli, folder: Path, lab: list[LabHost]) -> None:
    """A host that may keep nothing runs jobs all the same, and one that runs keeps its folder."""
    policy = Path(state(lab[0]), "policy.json")
    policy.write_text('{"code_gb": 0}')
    try:
        write_task(folder, "until [ -e go ]; do sleep 0.05; done; cat mark", name="keeps")
        (folder / "mark").write_text("mine\n")
        assert run(ready, folder, "-d", "--instance", "gpu1").rc == 0
        jobs = until(lambda: _running(ready, "keeps"), "the run")
        for number in range(3):
            (folder / "mark").write_text(f"{number}\n")
            write_task(folder, "cat mark")
            assert run(ready, folder, "-q", "--instance", "gpu1").stdout == f"{number}\n"
        Path(state(lab[0]), "jobs", jobs[0]["id"], "work", "go").touch()
        assert ready("logs", "keeps", "-f").stdout == "mine\n"
    finally:
        policy.unlink()


def _running(cli: Cli, name: str) -> list[dict[str, Any]]:
    found = json.loads(cli("runs", name, "--json").stdout)
    jobs: list[dict[str, Any]] = found["jobs"]
    return jobs if found["status"] == "running" else []


def test_a_server_that_is_killed_in_mid_upload(cli: Cli, folder: Path, machine: Callable[[], LabHost]) -> None:
    """On the way in, and again on the way to the host: the folder arrives, and nothing is left of what was cut off."""
    with open(folder / "large", "wb") as file:
        for _ in range(100):
            file.write(os.urandom(1 << 20))
    host = machine()
    assert cli(*add_ssh(host)).rc == 0
    running = cli.start("run", str(folder), "-f", str(folder / TASK), "-y", "-q")
    for store in (cli.env["POOL_STATE_DIR"], state(host)):
        until(lambda store=store: _coming(store), "an upload")
        _kill_server(cli)
    stdout, stderr = running.communicate(timeout=120)
    assert running.returncode == 0, stderr
    assert json.loads(stdout) == tree(folder)
    assert _coming(cli.env["POOL_STATE_DIR"]) == []
    assert cli("rm", host.name, "-y").rc == 0


def _coming(store: str) -> list[str]:
    parts = os.path.join(store, "code", "parts")
    return os.listdir(parts) if os.path.isdir(parts) else []


def _kill_server(cli: Cli) -> None:
    who = processes.identity(int(Path(cli.env["POOL_STATE_DIR"], "server.pid").read_text()))
    os.kill(int(who["pid"]), signal.SIGKILL)
    deadline = time.monotonic() + 10
    while processes.alive(who):
        assert time.monotonic() < deadline
        time.sleep(0.01)
