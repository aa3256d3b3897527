"""What of a folder is sent: as git sees it, less what .poolignore names; asked of the real git."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pool.errors import InputError
from pool.folder.walk import walk


def git(folder: Path, *words: str) -> None:
    """Run it, with nobody's settings."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    who = ["-c", "user.name=x", "-c", "user.email=x@x", "-c", "protocol.file.allow=always"]
    subprocess.run(["git", "-C", str(folder), *who, *words], check=True, capture_output=True, env=env)


def make(folder: Path, *names: str) -> None:
    """Files with something in them, and folders where the name ends in `/`."""
    for name in names:
        path = folder / name
        (path if name.endswith("/") else path.parent).mkdir(parents=True, exist_ok=True)
        if not name.endswith("/"):
            path.write_bytes(os.fsencode(name))


def sent(folder: Path, **how: bool) -> list[str]:
    """The paths, folders with a `/`."""
    found = walk(str(folder), **how)
    assert found.notes == []
    return sorted(path + ("/" if os.path.isdir(place) else "") for path, (_, place) in found.paths.items())


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A HOME of this test's own, so that git has no settings but the test's."""
    made = tmp_path / "home"
    made.mkdir()
    monkeypatch.setenv("HOME", str(made))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    return made


@pytest.fixture
def repo(tmp_path: Path, home: Path) -> Path:
    """An empty repository."""
    made = tmp_path / "repo"
    made.mkdir()
    git(made, "init", "-q")
    return made


def test_a_repository_as_git_sees_it(repo: Path, home: Path) -> None:
    """Tracked, changed, untracked; ignored by any of git's files; empty folders; no .git and no __pycache__."""
    make(repo, "tracked.log", "tracked", "new", "empty/", "build/out", "sub/x.tmp", "sub/keep.tmp", "a/x.bak", "a/y")
    make(repo, "__pycache__/c.pyc", "sub/__pycache__/c", "mine", "theirs", "only/ignored.log", "sub/.hidden")
    (repo / ".gitignore").write_text("*.log\n/build/\n*.tmp\n")
    (repo / "sub" / ".gitignore").write_text("!keep.tmp\n")
    (repo / ".git" / "info" / "exclude").write_text("mine\n")
    (home / ".config" / "git").mkdir(parents=True)
    (home / ".config" / "git" / "ignore").write_text("theirs\n*.bak\n")
    git(repo, "add", "-f", "tracked.log", "tracked")
    (repo / "tracked").write_text("changed")
    assert sent(repo) == [
        *(".gitignore", "a/", "a/y", "empty/", "new", "only/"),
        *("sub/", "sub/.gitignore", "sub/.hidden", "sub/keep.tmp", "tracked", "tracked.log"),
    ]


def test_our_own_files_count_on_top(repo: Path) -> None:
    """At any level, for tracked files too; the deeper one decides, and what git ignores stays ignored."""
    make(repo, "data/big", "data/small", "data/deep/big", "tracked.bin", "x.log", "keep/x.bin", "y.ckpt")
    (repo / ".gitignore").write_text("*.log\n")
    (repo / ".poolignore").write_text("*.bin\n/data/big\n!x.log\n")
    (repo / ".dstackignore").write_text("*.ckpt\n")
    (repo / "keep" / ".poolignore").write_text("!x.bin\n")
    git(repo, "add", "tracked.bin")
    assert sent(repo) == [
        *(".dstackignore", ".gitignore", ".poolignore", "data/", "data/deep/", "data/deep/big", "data/small"),
        *("keep/", "keep/.poolignore", "keep/x.bin"),
    ]


def test_repositories_inside(repo: Path, tmp_path: Path) -> None:
    """A submodule and a nested one as they see themselves; a nested one that is ignored stays behind."""
    module = tmp_path / "module"
    module.mkdir()
    git(module, "init", "-q")
    make(module, "code", "x.o")
    (module / ".gitignore").write_text("*.o\n")
    git(module, "add", "-f", ".")
    git(module, "commit", "-qm", "x")
    git(repo, "submodule", "add", "-q", str(module), "sub/module")
    make(repo, "sub/module/new", "sub/module/y.o", "nested/a", "nested/b.log", "ignored/a", "x.log")
    for name in ("nested", "ignored"):
        git(repo / name, "init", "-q")
    (repo / "nested" / ".gitignore").write_text("a\n")
    (repo / ".gitignore").write_text("*.log\n/ignored/\n")
    assert sent(repo) == [
        *(".gitignore", ".gitmodules", "nested/", "nested/.gitignore", "nested/b.log", "sub/", "sub/module/"),
        *("sub/module/.gitignore", "sub/module/code", "sub/module/new", "sub/module/x.o"),
    ]


def test_a_part_of_a_repository(repo: Path) -> None:
    """A folder below: the files above it count. One that is ignored was asked for, and is sent."""
    make(repo, "part/x.log", "part/y", "part/deep/z.log", "out/x.log", "out/y")
    (repo / ".gitignore").write_text("*.log\n/out\n")
    assert sent(repo / "part") == ["deep/", "y"]
    assert sent(repo / "out") == ["x.log", "y"]


def test_a_plain_folder(tmp_path: Path, home: Path) -> None:
    """Without git its .gitignore files count all the same; names that are not text too."""
    folder = tmp_path / "plain"
    make(folder, "x.log", "y", "deep/x.log", "deep/z", "out/a", "\udcff \n")
    (folder / ".gitignore").write_text("*.log\nout/\n")
    (folder / "deep" / ".gitignore").write_text("!x.log\nz\n")
    assert sent(folder) == [".gitignore", "deep/", "deep/.gitignore", "deep/x.log", "y", "\udcff \n"]


def test_git_that_does_not_answer(repo: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Not installed, or it refuses the folder: .gitignore counts, and a refusal is told."""
    make(repo, "x.log", "y")
    (repo / ".gitignore").write_text("*.log\n")
    path = os.environ["PATH"]
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    assert sent(repo) == [".gitignore", "y"]
    monkeypatch.setenv("PATH", path)
    (repo / ".git" / "config").write_text("[broken")
    found = walk(str(repo))
    assert sorted(found.paths) == [".gitignore", "y"]
    assert len(found.notes) == 1
    assert found.notes[0].startswith("git does not say what it ignores in this folder (fatal: bad config")


def test_with_git(repo: Path) -> None:
    """All of .git when it is asked for."""
    make(repo, "x")
    assert ".git/HEAD" in sent(repo, git=True)
    assert sent(repo) == ["x"]


def test_special_files_are_named(tmp_path: Path, home: Path) -> None:
    """On one plain line each."""
    os.mkfifo(tmp_path / "new\nline\x1b[2J")
    with socket.socket(socket.AF_UNIX) as bound:
        here = os.getcwd()
        os.chdir(tmp_path)  # a socket's path is short
        bound.bind("sock")
        os.chdir(here)
        found = walk(str(tmp_path))
    assert sorted(found.left_out) == [
        "'new\\nline\\x1b[2J': a special file cannot be sent",
        "sock: a socket cannot be sent",
    ]
    assert sorted(found.paths) == ["home"]


def test_a_pattern_that_is_none(tmp_path: Path, home: Path) -> None:
    """Named with its file."""
    (tmp_path / ".poolignore").write_text("a\n!\n")
    with pytest.raises(InputError, match=r"\.poolignore: "):
        walk(str(tmp_path))


@pytest.fixture
def as_somebody() -> Iterator[Path]:
    """A folder of an ordinary user, as whom the test then runs: root may read everything."""
    folder = Path(tempfile.mkdtemp(prefix="walk", dir="/tmp"))
    root = os.geteuid() == 0
    if root:
        os.chown(folder, 65534, 65534)
        os.seteuid(65534)
    yield folder
    if root:
        os.seteuid(0)
    shutil.rmtree(folder)


def test_a_folder_that_cannot_be_read(as_somebody: Path) -> None:
    """An error that names it: code that is half there is worse than none."""
    (as_somebody / "closed").mkdir()
    (as_somebody / "closed").chmod(0)
    with pytest.raises(InputError, match=r"closed cannot be read: Permission denied"):
        walk(str(as_somebody))
    (as_somebody / "closed").rmdir()
