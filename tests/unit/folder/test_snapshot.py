"""A folder as it is now: the same files give one name, unchanged ones are not read again, and what is asked first."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from pool.errors import InputError
from pool.folder import index as indexes
from pool.folder import snapshot as snapshots
from pool.folder.snapshot import Large, Snapshot, repo_id, take


@pytest.fixture(autouse=True)
def _state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POOL_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("_FINE_NS", "_COARSE_NS"):  # these files were not written while others read them
        monkeypatch.setattr(indexes, name, -1)
    (tmp_path / "f").mkdir()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty one."""
    return tmp_path / "f"


def paths(snapshot: Snapshot) -> list[str]:
    """What is in it."""
    return [entry[1] for entry in snapshot.manifest.entries]


def old(*files: Path) -> None:
    """Let them have been changed long ago, as far as their dates tell."""
    for path in files:
        os.utime(path, (1e9, 1e9))


def read_files(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that are read from now on."""
    read: list[str] = []
    real = snapshots._read

    def noted(path: str, place: str, index: Any) -> Any:
        read.append(path)
        return real(path, place, index)

    monkeypatch.setattr(snapshots, "_read", noted)
    return read


def test_the_same_files_have_one_name(folder: Path, tmp_path: Path) -> None:
    """Wherever they lie; one changed byte, mode, date or link makes another."""
    (folder / "sub").mkdir()
    (folder / "sub" / "x").write_text("x")
    os.symlink("sub/x", folder / "l")
    shutil.copytree(folder, tmp_path / "b", symlinks=True)
    first = take(str(folder)).manifest
    assert first.sha256 == take(str(tmp_path / "b")).manifest.sha256
    assert [entry[:2] for entry in first.entries] == [["l", "l"], ["d", "sub"], ["f", "sub/x"]]
    names = {first.sha256}
    (folder / "sub" / "x").chmod(0o600)
    names.add(take(str(folder)).manifest.sha256)
    os.utime(folder / "sub" / "x", (1, 1))
    names.add(take(str(folder)).manifest.sha256)
    (folder / "sub").chmod(0o700)
    names.add(take(str(folder)).manifest.sha256)
    (folder / "sub" / "x").write_text("y")
    names.add(take(str(folder)).manifest.sha256)
    (folder / "l").unlink()
    names.add(take(str(folder)).manifest.sha256)
    assert len(names) == 6


def test_unchanged_files_are_not_read_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is changed is, also with its size and date as before."""
    for name in ("a", "b", "c"):
        (folder / name).write_text(name)
    old(folder / "a", folder / "b", folder / "c")
    first = take(str(folder)).manifest
    read = read_files(monkeypatch)
    assert take(str(folder)).manifest.sha256 == first.sha256
    assert read == []
    (folder / "b").write_text("B")
    os.utime(folder / "b", (1e9, 1e9))
    second = take(str(folder)).manifest
    assert read == ["b"]
    assert [entry[5] for entry in second.entries if entry[1] == "b"] == [hashlib.sha256(b"B").hexdigest()]
    os.replace(folder / "a", folder / "c")
    read.clear()
    take(str(folder))
    assert "c" in read


def test_a_file_that_was_just_written_is_read_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another write within one tick of the clock would not show in its dates."""
    (folder / "a").write_text("a")
    monkeypatch.setattr(indexes, "_FINE_NS", 10**12)
    take(str(folder))
    read = read_files(monkeypatch)
    take(str(folder))
    assert read == ["a"]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"version": 0}', '{"version": 1, "files": 5, "warned": []}'])
def test_a_torn_index_is_none(folder: Path, tmp_path: Path, text: str) -> None:
    """Everything is read again."""
    (folder / "a").write_text("a")
    wanted = take(str(folder)).manifest.sha256
    (tmp_path / "state" / "index" / repo_id(str(folder))).write_text(text)
    assert take(str(folder)).manifest.sha256 == wanted


def test_a_large_folder_is_asked_about(folder: Path) -> None:
    """Before it is read: how much, and what it is; not again for what was read before."""
    (folder / "data").mkdir()
    for name, size in (("data/a", 3000), ("data/b", 2000), ("code", 10)):
        (folder / name).write_bytes(b"x" * size)
    old(folder / "data" / "a", folder / "data" / "b", folder / "code")
    asked: list[Large] = []
    take(str(folder), limit=5010, on_large=asked.append)
    assert asked == []
    shutil.rmtree(folder.parent / "state")
    take(str(folder), limit=5009, on_large=asked.append)
    (large,) = asked
    assert (large.size, large.count, large.largest) == (5010, 3, [("data", 5000), ("code", 10)])
    take(str(folder), limit=0, on_large=asked.append)
    assert len(asked) == 1


def test_secrets_are_told_once(folder: Path) -> None:
    """By their names; they are sent all the same."""
    names = [".env", ".env.local", "server.pem", "deep/id_ed25519", ".netrc", "x/.aws/credentials"]
    for name in [*names, ".env.example", "environment", "id_ed25519.pub", "code.py"]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")
    first = take(str(folder))
    assert first.secrets == sorted(names)
    assert set(names) <= set(paths(first))
    assert take(str(folder)).secrets == []
    (folder / "new.key").write_text("x")
    assert take(str(folder)).secrets == ["new.key"]


def test_links_that_leave_are_left_out(folder: Path) -> None:
    """By themselves, or by way of another; each named."""
    os.symlink("/etc/passwd", folder / "absolute")
    os.symlink("..", folder / "up")
    os.symlink("sub/../in", folder / "fine")
    (folder / "sub").mkdir()
    os.symlink("..", folder / "sub" / "top")
    os.symlink("sub/top/..", folder / "round\nabout")
    made = take(str(folder))
    assert paths(made) == ["fine", "sub", "sub/top"]
    assert made.left_out == [
        "'round\\nabout': the link to sub/top/.. leaves the folder",
        "absolute: the link to /etc/passwd leaves the folder",
        "up: the link to .. leaves the folder",
    ]


def test_files_go_along(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From anywhere to a place in the folder, folders too, over what is there and what is ignored."""
    (tmp_path / "labels.csv").write_text("l")
    (tmp_path / "set" / "deep").mkdir(parents=True)
    (tmp_path / "set" / "deep" / "x").write_text("x")
    (folder / ".poolignore").write_text("data\n")
    (folder / "data").mkdir()
    (folder / "data" / "kept").write_text("k")
    (folder / "old").mkdir()
    (folder / "old" / "gone").write_text("g")
    files = ["~/labels.csv", "../set:old", f"{tmp_path}/labels.csv:new/deep/l.csv", "data/kept"]
    made = take(str(folder), files=files)
    assert paths(made) == [
        *(".poolignore", "data", "data/kept", "labels.csv", "new", "new/deep", "new/deep/l.csv"),
        *("old", "old/deep", "old/deep/x"),
    ]
    again = take(str(folder), files=files)
    assert again.manifest.sha256 == made.manifest.sha256


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("nowhere", "nowhere: No such file or directory"),
        ("/etc/hostname:/etc/x", "has to be in the folder that is sent"),
        ("/etc/hostname:../x", "not in the folder"),
        ("/etc/hostname:a/b", "a is not a folder"),
        (".", "the folder itself"),
        ("/dev/null", "special file"),
    ],
)
def test_files_that_cannot_go_along(folder: Path, written: str, said: str) -> None:
    """An error before anything is sent."""
    (folder / "a").write_text("a")
    with pytest.raises(InputError, match=said) as raised:
        take(str(folder), files=[written])
    assert raised.value.hint


def test_a_file_that_keeps_changing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is named, after some tries."""
    (folder / "log").write_text("x")
    real = os.read

    def read(fd: int, count: int) -> bytes:
        with open(folder / "log", "a") as file:
            file.write("x")
        return real(fd, count)

    monkeypatch.setattr(os, "read", read)
    monkeypatch.setattr(snapshots, "_TRIES", 2)
    with pytest.raises(InputError, match="log keeps changing"):
        take(str(folder))


def test_far_too_many_files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than a host would take."""
    for number in range(5):
        (folder / str(number)).touch()
    monkeypatch.setattr(snapshots.manifests, "MAX_ENTRIES", 4)
    with pytest.raises(InputError, match="has 5 files and folders; more than 4 cannot be sent"):
        take(str(folder))


def test_repo_id(tmp_path: Path, folder: Path) -> None:
    """The same folder has one id, by whatever path."""
    os.symlink(folder, tmp_path / "link")
    assert repo_id(str(folder)) == repo_id(str(tmp_path / "link"))
    assert repo_id(str(folder)) != repo_id("/")
