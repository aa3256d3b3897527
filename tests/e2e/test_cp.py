"""`pool cp` as a person types it, both ways, while a job runs and after."""

from __future__ import annotations

import hashlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Cli
from tests.e2e.test_run import Write, until, write  # noqa: F401 - a fixture

_MAKES = """
mkdir -p results/empty results/deep
head -c 30000000 /dev/urandom > results/deep/big; sha256sum < results/deep/big > sum
echo '#!' > results/tool; chmod 750 results/tool
ln -s deep/big results/link; ln -s /etc/passwd results/out; mkfifo results/fifo
echo ready; sleep 1000
"""


@pytest.fixture
def run(ready: Cli, write: Write) -> Iterator[str]:  # noqa: F811
    """A live run that has made some files."""
    done = ready("run", ".", "-f", "t.dstack.yml", "-y", "-d", "-n", "cp-1", cwd=write(_MAKES.strip()))
    assert done.rc == 0, done
    until(ready, "cp-1", "running")
    while "ready" not in ready("logs", "cp-1").stdout:
        pass
    yield "cp-1"
    ready("stop", "cp-1", "--abort")


def check(folder: Path, total: str) -> None:
    """It is the folder `results`."""
    assert hashlib.sha256((folder / "deep" / "big").read_bytes()).hexdigest() == total.split()[0]
    assert (folder / "tool").stat().st_mode & 0o777 == 0o750
    assert os.readlink(folder / "link") == "deep/big"
    assert os.readlink(folder / "out") == "/etc/passwd"
    assert (folder / "empty").is_dir()
    assert not (folder / "fifo").exists()


def test_out_of_a_job(ready: Cli, run: str, tmp_path: Path) -> None:
    """Folders and files, as they are; into a folder that is there, else under the new name; after the end as well."""
    total = ready("ssh", run, "--", "cat sum").stdout
    ways = [("results/", ".", "results"), ("results", "new", "new"), ("./results", "new", "new/results")]
    for source, target, place in ways:
        done = ready("cp", f"{run}:{source}", target, cwd=tmp_path)
        assert (done.rc, done.stdout) == (0, ""), done
        assert done.stderr == "pool: skipped: 'results/fifo' is neither file, folder nor link\n"
        check(tmp_path / place, total)
    assert ready("cp", "-q", f"{run}:sum", "mine", cwd=tmp_path).rc == 0
    assert (tmp_path / "mine").read_text(encoding="ascii") == total
    assert ready("cp", f"{run}:/etc/hostname", ".", cwd=tmp_path).rc == 0
    assert (tmp_path / "hostname").read_bytes() == Path("/etc/hostname").read_bytes()
    ready("ssh", run, "--", "mkdir many; for each in $(seq 130); do mkfifo many/$each; done")
    done = ready("cp", f"{run}:many", ".", cwd=tmp_path)
    said = done.stderr.splitlines()
    assert (done.rc, len(said), said[-1]) == (0, 101, "pool: and 30 more"), done
    ready("stop", run, "--abort")
    until(ready, run, "stopped")
    assert ready("cp", f"{run}:results", "after", cwd=tmp_path).rc == 0
    check(tmp_path / "after", total)


def test_into_a_job(ready: Cli, run: str, tmp_path: Path) -> None:
    """The same the other way."""
    data = os.urandom(20 << 20)
    source = tmp_path / "source"
    source.mkdir()
    (source / "data").write_bytes(data)
    (source / "data").chmod(0o640)
    (source / "link").symlink_to("data")
    for target in ("", "results", "named"):
        done = ready("cp", "source", f"{run}:{target}", cwd=tmp_path)
        assert done.rc == 0, done
    expected = f"{hashlib.sha256(data).hexdigest()}  -\n640\ndata\n"
    for place in ("source", "results/source", "named"):
        shown = ready("ssh", run, "--", f"cd {place}; sha256sum < data; stat -c %a data; readlink link")
        assert shown.stdout == expected, place
    assert ready("cp", "source/data", f"{run}:sum", cwd=tmp_path).rc == 0
    assert ready("ssh", run, "--", "stat -c %s sum").stdout == f"{20 << 20}\n"


def test_what_cannot_be_copied(ready: Cli, run: str, tmp_path: Path) -> None:
    """One clear error each, and nothing is there afterwards."""
    for words, code, text in (
        ([f"{run}:none", "."], 3, "none: no such file or directory"),
        ([f"{run}:sum", "none/"], 3, "none/: no such folder"),
        ([f"{run}:results/fifo", "."], 2, "results/fifo: neither a file nor a folder"),
        (["none", f"{run}:"], 3, "none: no such file or directory"),
        ([".", f"{run}:sum"], 2, "sum: there is a file of that name"),
        (["a", "b"], 2, "one of the two has to be RUN:PATH, and the other a path here"),
        ([f"{run}:a", f"{run}:b"], 2, "one of the two has to be RUN:PATH, and the other a path here"),
        (["nonesuch:a", "."], 3, ""),
    ):
        done = ready("cp", *words, cwd=tmp_path)
        assert (done.rc, done.stdout) == (code, ""), done
        assert text in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["code0"]  # the task's own


def test_what_is_interrupted_leaves_no_half(ready: Cli, run: str, tmp_path: Path) -> None:
    """Neither here, nor there."""
    with open(tmp_path / "huge", "wb") as file:
        file.truncate(3 << 30)
    pushing = ready.start("cp", "-q", "huge", f"{run}:", cwd=tmp_path)
    while ".part" not in ready("ssh", run, "--", "ls -A").stdout:
        assert pushing.poll() is None
    pushing.send_signal(signal.SIGINT)
    assert pushing.wait(60) == 130
    deadline = time.monotonic() + 30
    while "huge" in (there := ready("ssh", run, "--", "ls -A").stdout):
        assert time.monotonic() < deadline, there
    ready("ssh", run, "--", "truncate -s 3G huge")
    pulling = ready.start("cp", "-q", f"{run}:huge", "mine", cwd=tmp_path)
    while not list(tmp_path.glob(".*.part")):
        assert pulling.poll() is None
    pulling.send_signal(signal.SIGINT)
    assert pulling.wait(60) == 130
    assert sorted(path.name for path in tmp_path.iterdir()) == ["code0", "huge"]
