"""The start of a shell that is a process: what goes wrong leaves nothing behind, and no number of files is too many."""

from __future__ import annotations

import contextlib
import os
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pool.runner import process_shell
from pool.runner.ledger import RefusedError
from pool.runner.process_shell import ProcessShell

#: Stands for the runner's program: enters nothing, and becomes a shell.
_ENTERS = """
import os, sys
os.close(int(sys.argv[5]))
os.execv("/bin/sh", ["sh", *sys.argv[6:]])
"""


@pytest.fixture(autouse=True)
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of the program that is started."""
    path = tmp_path / "program.py"
    path.write_text(_ENTERS, encoding="ascii")
    monkeypatch.setattr(sys, "argv", [str(path)])
    return path


@pytest.fixture
def files() -> Iterator[tuple[int, int]]:
    """The limit of open files, soft and hard, which is put back."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield limit
    resource.setrlimit(resource.RLIMIT_NOFILE, limit)


def opened(*words: str, tty: bool = False) -> ProcessShell:
    """One of a job that nothing else is of."""
    return ProcessShell("/nowhere", "unit-process-shell", list(words), {"rows": 24, "cols": 80} if tty else None)


def fds() -> list[str]:
    """What this process has open."""
    return os.listdir("/proc/self/fd")


def closed_but(before: list[str]) -> bool:
    """True once no more is open than before: the end of a process is seen beside."""
    until = time.monotonic() + 30
    while len(fds()) > len(before) and time.monotonic() < until:
        os.sched_yield()
    return len(fds()) <= len(before)


@pytest.mark.parametrize("tty", [False, True])
def test_with_more_files_open_than_select_knows(files: tuple[int, int], tty: bool) -> None:
    """Output and input are served all the same."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (files[1], files[1]))
    many = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]
    try:
        shell = opened("-c", "head -c 300000 | wc -c; exit 3", tty=tty)
        shell.write((b"x" * 999 + b"\n") * 300)
        said = b"".join(chunk for _, chunk in shell.output())
        assert b"300000" in said
        assert shell.code() == 3
        shell.close()
    finally:
        for fd in many:
            os.close(fd)


@pytest.mark.parametrize("tty", [False, True])
def test_where_no_more_files_can_be_opened(files: tuple[int, int], tty: bool) -> None:
    """Wherever on the way that is: what was opened is closed again."""
    before = fds()
    for limit in range(3, 200):  # among the numbers in use there may be free ones
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, files[1]))
        shell = None
        with contextlib.suppress(OSError):
            shell = opened("-c", "exit 0", tty=tty)
        resource.setrlimit(resource.RLIMIT_NOFILE, files)
        if shell:
            list(shell.output())
            shell.code()
            shell.close()
        assert closed_but(before)
        if shell:
            break
    assert 10 < limit < 199


@pytest.mark.parametrize("tty", [False, True])
def test_what_hangs_on_the_way_in_is_given_up(program: Path, monkeypatch: pytest.MonkeyPatch, tty: bool) -> None:
    """With a word of what it may be, and nothing is left of it."""
    program.write_text("import signal; signal.pause()", encoding="ascii")
    monkeypatch.setattr(process_shell, "_OPENS_S", 0.3)
    before = fds()
    with pytest.raises(RefusedError, match="does a file system of the job hang"):
        opened(tty=tty)
    assert closed_but(before)
    with pytest.raises(RefusedError, match="no luck"):
        program.write_text("import os, sys; os.write(int(sys.argv[5]), b'no luck')", encoding="ascii")
        opened(tty=tty)
