"""What of a folder is sent: the same files give the same bytes, and what stays behind is named."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pool.cli.pack import pack, repo_id
from pool.errors import InputError


def packed(folder: Path) -> tuple[bytes, list[str]]:
    """The archive, and what was left out."""
    into = io.BytesIO()
    sha256, size, left_out = pack(str(folder), into)
    assert (sha256, size) == (hashlib.sha256(into.getvalue()).hexdigest(), len(into.getvalue()))
    return into.getvalue(), left_out


def names(archive: bytes) -> list[str]:
    """What stands in it."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        return tar.getnames()


def test_the_same_files_give_the_same_bytes(tmp_path: Path) -> None:
    """Wherever they lie and whoever owns them; one changed byte or mode is another archive."""
    first, second = tmp_path / "a", tmp_path / "b"
    (first / "sub").mkdir(parents=True)
    (first / "sub" / "x").write_text("x")
    (first / "y").write_text("y")
    shutil.copytree(first, second, copy_function=shutil.copy2)
    for path in (first / "sub", second / "sub"):
        os.utime(path, (1, 1))
    one = packed(first)[0]
    assert one == packed(second)[0]
    assert names(one) == ["sub", "y", "sub/x"]
    (second / "y").chmod(0o600)
    assert packed(second)[0] != one


def test_what_stays_behind(tmp_path: Path) -> None:
    """.git and __pycache__ at any depth; links that leave, special files, each named on one plain line."""
    for folder in (".git", "sub/.git", "__pycache__", "kept"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "file").write_text("")
    os.symlink("../../etc", tmp_path / "sub" / "out")
    os.symlink("kept/file", tmp_path / "in")
    os.symlink("loop", tmp_path / "loop")
    os.mkfifo(tmp_path / "new\nline\x1b[2J")
    archive, left_out = packed(tmp_path)
    assert names(archive) == ["in", "kept", "loop", "sub", "kept/file"]
    assert left_out == [
        "'new\\nline\\x1b[2J': a special file cannot be sent",
        "sub/out: the link to ../../etc leaves the folder",
    ]


def test_hard_links_are_files(tmp_path: Path) -> None:
    """Each name has the content."""
    (tmp_path / "a").write_text("content")
    os.link(tmp_path / "a", tmp_path / "b")
    with tarfile.open(fileobj=io.BytesIO(packed(tmp_path)[0])) as tar:
        for member in tar.getmembers():
            file = tar.extractfile(member)
            assert file is not None
            assert file.read() == b"content"


def test_too_large(tmp_path: Path) -> None:
    """Refused before it is read."""
    with open(tmp_path / "a", "wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(InputError, match="larger than 2 GiB"):
        packed(tmp_path)


@pytest.fixture
def as_somebody() -> Iterator[Path]:
    """A folder of an ordinary user, as whom the test then runs: root may read everything."""
    folder = Path(tempfile.mkdtemp(prefix="pack", dir="/tmp"))
    root = os.geteuid() == 0
    if root:
        os.chown(folder, 65534, 65534)
        os.seteuid(65534)
    yield folder
    if root:
        os.seteuid(0)
    shutil.rmtree(folder)


def test_what_cannot_be_read(as_somebody: Path) -> None:
    """An error that names it: code that is half there is worse than none."""
    folder = as_somebody / "closed"
    folder.mkdir()
    folder.chmod(0)
    with pytest.raises(InputError, match=r"closed cannot be read: Permission denied"):
        packed(as_somebody)
    folder.rmdir()
    (as_somebody / "secret").write_text("")
    (as_somebody / "secret").chmod(0)
    with pytest.raises(InputError, match=r"secret cannot be read: Permission denied"):
        packed(as_somebody)


def test_repo_id(tmp_path: Path) -> None:
    """The same folder has one id, by whatever path."""
    os.symlink(tmp_path, tmp_path / "link")
    assert repo_id(str(tmp_path)) == repo_id(str(tmp_path / "link"))
    assert repo_id(str(tmp_path)) != repo_id("/")
