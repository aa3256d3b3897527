"""Copies out of jobs and into them as a host does them: by a program that may meet a root of somebody else's making."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pool.runner import tree
from tests.conftest import REPOSITORY
from tests.e2e.test_runner_shell import bridge, host  # noqa: F401 - fixtures
from tests.runner_host import Bridge, RefusalError, RunnerHost, until
from tests.shells import deep, fetched

_PYTHON = os.environ.get("POOL_TEST_PYTHON", sys.executable)
_EVIL = "import os\nopen('/evil-' + str(os.getuid()), 'w').write(__name__)\n"
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="a root of one's own needs root")


@pytest.fixture
def job(bridge: Bridge) -> Iterator[str]:  # noqa: F811
    """A job that runs until it is stopped."""
    name = f"copy-{uuid.uuid4().hex[:12]}"
    bridge.run(name, "echo ready; sleep 1000")
    yield name
    bridge.ask("stop", job=name, abort=True)
    bridge.end_of(name)
    until(lambda: not bridge.ask("jobs")["ledger"], "free GPUs")


def test_much_that_is_skipped(host: RunnerHost, bridge: Bridge, job: str, tmp_path: Path) -> None:  # noqa: F811
    """More than a pipe holds the names of: the copy ends, and tells a hundred."""
    folder = Path(host.path(job, "work")) / "fifos"
    folder.mkdir()
    for number in range(1500):
        os.mkfifo(folder / f"{'n' * 100}-{number}")
    stream = bridge.open("copy_out", job=job, path="fifos")
    last: dict[str, Any] = {}
    while frame := stream.read():
        last = frame.head
    assert len(last["skipped"]) == 100 and (last["changed"], last["more"]) == ([], 1400)


def test_checkpoints_that_rotate(host: RunnerHost, bridge: Bridge, job: str, tmp_path: Path) -> None:  # noqa: F811
    """A folder in which files come and go all the time arrives, as often as one asks."""
    folder = Path(host.path(job, "work")) / "checkpoints"
    folder.mkdir()
    (folder / "kept").write_bytes(b"kept")
    over = threading.Event()

    def rotate() -> None:
        number = 0
        while not over.is_set():
            (folder / f"{number % 100}").write_bytes(os.urandom(1 << 18))
            with contextlib.suppress(FileNotFoundError):
                (folder / f"{(number + 50) % 100}").unlink()
            number += 1

    rotating = threading.Thread(target=rotate)
    rotating.start()
    try:
        for number in range(10):
            fetched(bridge, job, "checkpoints", str(tmp_path / str(number)))
            assert (tmp_path / str(number) / "kept").read_bytes() == b"kept"
    finally:
        over.set()
        rotating.join()


def test_what_cannot_be_begun_leaves_nothing_open(host: RunnerHost, bridge: Bridge, job: str) -> None:  # noqa: F811
    """No pipe of it."""
    files = f"/proc/{host.runner_pid()}/fd"
    with pytest.raises(RefusalError):
        bridge.open("copy_out", job=job, path="none")
    before = len(os.listdir(files))
    for path in 10 * ["none", "no\0name"]:
        with pytest.raises(RefusalError):
            bridge.open("copy_out", job=job, path=path)
    assert len(os.listdir(files)) <= before + 1


# -- a root of somebody else's making -----------------------------------------------------------------------------


@pytest.fixture
def ended(session_dir: str) -> Iterator[RunnerHost]:
    """A host with what is left of a container `j`, whose root has made all that an interpreter could look for."""
    made = RunnerHost(tempfile.mkdtemp(prefix="r", dir=session_dir), os.path.join(session_dir, "lab"))
    work = Path(made.path("j", "work"))
    work.mkdir(parents=True)
    container = {"user": "", "config": {"WorkingDir": "/workflow"}, "terminal": False}
    spec = {"job": "j", "pool": "p", "uid": 0, "gid": 0, "user": "root", "cwd": "/", "container": container}
    for name, content in (("spec.json", spec), ("started", {}), ("exit.json", {"exit_code": 0})):
        Path(made.path("j", name)).write_text(json.dumps(content), encoding="ascii")
    argv = [_PYTHON, "-I", "-S", "-c", "import sys; print(*sys.path, sep=chr(10)); print(*sys.modules, sep=chr(10))"]
    found = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.split()
    modules = {each.split(".")[0] for each in found if not each.startswith("/")} | {"bz2", "lzma", "gzip", "linecache"}
    for place in [each for each in found if each.startswith("/")]:
        folder = work / place[1:]
        for name in ("encodings/evil", "encodings/idna", *(modules | {"traceback", "locale", "_bootlocale"})):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / f"{name}.py").write_text(_EVIL, encoding="ascii")
    sources = work / made.argv()[3][1:] / "pool" / "runner"
    sources.mkdir(parents=True)
    for name in ("transfer", "tree", "sealed", "__main__"):
        (sources / f"{name}.py").write_text(f"# coding: evil\n{_EVIL}", encoding="ascii")
    yield made


def transfer(host: RunnerHost, *words: str, stdin: bytes = b"") -> tuple[int, bytes, list[dict[str, Any]]]:  # noqa: F811
    """The program that copies, run on its own: exit code, the tar, and what it told."""
    with tempfile.TemporaryFile() as told:
        argv = host.argv("transfer", "j", str(told.fileno()), *words)
        done = subprocess.run(
            argv, input=stdin, capture_output=True, pass_fds=[told.fileno()], cwd="/", timeout=60, check=False
        )
        told.seek(0)
        assert done.stderr == b""
        return done.returncode, done.stdout, [json.loads(line) for line in told]


@as_root
def test_nothing_of_a_hostile_root_is_run(ended: RunnerHost, tmp_path: Path) -> None:
    """Whatever it holds, and whatever goes wrong: it is copied, or one line says why not."""
    work = Path(ended.path("j", "work"))
    with deep(work / "deep"):
        code, data, told = transfer(ended, "out", ".")
    assert (code, told[0]["folder"], told[1]) == (0, True, {"skipped": [], "changed": [], "more": 0})
    assert b"encodings/evil.py" in data
    code, data, told = transfer(ended, "in", ".")
    assert (code, data, told) == (1, b"", [{"error": "the copy failed: IndexError"}])
    code, _, told = transfer(ended, "in", ".", "sent", "file", stdin=b"no tar")
    assert code == 1 and "not a tar file" in told[1]["error"]
    made: list[bytes] = []
    (tmp_path / "source").write_bytes(b"x")
    tree.pack(str(tmp_path / "source"), made.append)
    assert transfer(ended, "in", ".", "sent", "file", stdin=b"".join(made))[0] == 0
    assert (work / "sent").read_bytes() == b"x"
    assert not list(work.glob("evil*"))


_TRIES = """
import codecs, os, sys
sys.path.insert(0, {repository!r})
from pool.runner.sealed import Seal
from pool.runner import tree
status, seal = os.open("/proc/self/status", os.O_RDONLY), Seal()
seal.enter(os.open({root!r}, os.O_RDONLY))
seal.become({uid}, {uid})
for way in (
    lambda: __import__("sqlite3"),
    lambda: __import__("evil"),
    lambda: codecs.lookup("evil"),
    lambda: os.chroot("."),
    lambda: tree.open_file("/disk", seal.reopen),
    lambda: tree.open_file("/file", seal.reopen).read(),
):
    try:
        print(way())
    except Exception as error:
        print(type(error).__name__)
sys.stdout.write(os.pread(status, 1 << 16, 0).decode())
sys.stdout.flush()
raise ValueError
"""


@as_root
@pytest.mark.parametrize(("uid", "kept"), [(0, "a"), (1234, "0")])
def test_who_is_sealed_can_do_little(ended: RunnerHost, uid: int, kept: str) -> None:
    """It loads nothing, has two rights over files as a root and none as another user, and opens no device."""
    work = Path(ended.path("j", "work"))
    os.chmod(work, 0o755)
    (work / "file").write_bytes(b"x")
    with contextlib.suppress(PermissionError):  # not every machine lets its root make one
        os.mknod(work / "disk", 0o600 | 0o60000, os.makedev(7, 0))
    program = _TRIES.format(repository=str(REPOSITORY), root=str(work), uid=uid)
    done = subprocess.run([_PYTHON, "-I", "-S", "-c", program], input="", capture_output=True, text=True, check=False)
    lines = done.stdout.splitlines()
    assert lines[:6] == ["ImportError", "ImportError", "LookupError", "PermissionError", lines[4], "b'x'"], done
    assert lines[4] in ("OSError", "FileNotFoundError")
    status = dict(line.split(":\t", 1) for line in lines[6:])
    assert [status[name].lstrip("0") or "0" for name in ("CapPrm", "CapEff")] == [kept, kept]
    assert [status[name].lstrip("0") or "0" for name in ("CapInh", "CapBnd", "CapAmb")] == ["0", "a", "0"]
    assert (status["NoNewPrivs"], status["Groups"].strip()) == ("1", str(uid))
    assert (done.returncode, done.stderr) == (1, "")
    assert not list(work.glob("evil*"))
