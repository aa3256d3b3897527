"""The uploaded folder: what arrives is what was sent, and nothing lands outside."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pool.cli.pack import pack
from pool.runner.archive import Archives
from pool.runner.ledger import RefusedError


def _tar(*entries: tuple[str, bytes, str | bytes], mode: int = 0o644, form: int = tarfile.GNU_FORMAT) -> bytes:
    """(name, type, data or link target) -> a tar file's bytes."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=form) as tar:
        for name, kind, content in entries:
            member = tarfile.TarInfo(name)
            member.type, member.mode = kind, mode
            if isinstance(content, bytes):
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
            else:
                member.linkname = content
                tar.addfile(member)
    return made.getvalue()


def _keep(folder: Path, data: bytes) -> tuple[Archives, str]:
    archives = Archives(str(folder / "code"))
    digest = hashlib.sha256(data).hexdigest()
    archives.write(digest, 0, data)
    archives.finish(digest)
    return archives, digest


def _unpack(folder: Path, data: bytes) -> Path:
    archives, digest = _keep(folder, data)
    work = folder / "job" / "work"
    work.mkdir(parents=True)
    archives.unpack(digest, str(work), os.getuid(), os.getgid())
    return work


def _tree(folder: Path) -> dict[str, tuple[str, int, object]]:
    """Path -> (kind, mode, content) of everything below."""
    found: dict[str, tuple[str, int, object]] = {}
    for path in sorted(folder.rglob("*")):
        mode = path.lstat().st_mode & 0o7777
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = ("link", 0, os.readlink(path))
        elif path.is_dir():
            found[name] = ("folder", mode, None)
        else:
            found[name] = ("file", mode, path.read_bytes())
    return found


def test_a_folder_comes_out_as_it_went_in(tmp_path: Path) -> None:
    """Modes, links, empty folders and files, names with spaces and newlines, dates."""
    source = tmp_path / "source"
    (source / "deep" / "empty").mkdir(parents=True)
    (source / "deep" / "private").mkdir(mode=0o700)
    (source / "run.sh").write_text("#!/bin/sh\n")
    (source / "run.sh").chmod(0o755)
    (source / "secret").write_bytes(os.urandom(2_000_000))
    (source / "secret").chmod(0o600)
    (source / "nothing").touch()
    (source / "read only").touch(mode=0o444)
    (source / "new\nline \u00e4").touch(mode=0o644)
    (source / "long" / ("n" * 200)).parent.mkdir()
    (source / "long" / ("n" * 200)).touch()
    os.symlink("run.sh", source / "link")
    os.symlink("../run.sh", source / "deep" / "up")
    os.symlink("deep", source / "to folder")
    os.symlink("not there", source / "dangling")
    os.utime(source / "run.sh", (1e9, 1e9))
    packed = io.BytesIO()
    pack(str(source), packed)
    work = _unpack(tmp_path, packed.getvalue())
    assert _tree(work) == _tree(source)
    assert (work / "run.sh").stat().st_mtime == 1e9


@pytest.mark.parametrize("mode", [0o4755, 0o2755, 0o1777, 0o6777, 0o666, 0o7777])
def test_special_and_shared_modes_are_dropped(tmp_path: Path, mode: int) -> None:
    """setuid, setgid, sticky and write for others."""
    work = _unpack(tmp_path, _tar(("file", tarfile.REGTYPE, b"x"), ("folder", tarfile.DIRTYPE, b""), mode=mode))
    assert (work / "file").stat().st_mode & 0o7777 == mode & 0o755
    assert (work / "folder").stat().st_mode & 0o7777 == mode & 0o755 | 0o700


OUTSIDE = {
    "parent": [("../x", tarfile.REGTYPE, b"x")],
    "deep parent": [("a/../../x", tarfile.REGTYPE, b"x")],
    "absolute": [("/tmp/x", tarfile.REGTYPE, b"x")],
    "parent folder": [("../x", tarfile.DIRTYPE, b"")],
    "absolute link": [("link", tarfile.SYMTYPE, "/etc/passwd")],
    "link out": [("a/link", tarfile.SYMTYPE, "../../x")],
    "link to the parent": [("link", tarfile.SYMTYPE, "..")],
    "through a link": [("link", tarfile.SYMTYPE, "."), ("link/x", tarfile.REGTYPE, b"x")],
    "over a link": [("link", tarfile.SYMTYPE, "target"), ("link", tarfile.REGTYPE, b"x")],
    "link over a folder": [("d", tarfile.DIRTYPE, b""), ("d", tarfile.SYMTYPE, "x")],
    "folder over a file": [("d", tarfile.REGTYPE, b"x"), ("d/e", tarfile.REGTYPE, b"x")],
    "file over a file": [("x", tarfile.REGTYPE, b"x"), ("x", tarfile.REGTYPE, b"y")],
    "links in a chain": [
        ("a/b", tarfile.DIRTYPE, b""),
        ("a/b/root", tarfile.SYMTYPE, "../.."),
        ("out", tarfile.SYMTYPE, "a/b/root/.."),
    ],
    "hard link": [("x", tarfile.REGTYPE, b"x"), ("y", tarfile.LNKTYPE, "x")],
    "hard link out": [("y", tarfile.LNKTYPE, "/etc/passwd")],
    "device": [("null", tarfile.CHRTYPE, b"")],
    "disk": [("sda", tarfile.BLKTYPE, b"")],
    "pipe": [("pipe", tarfile.FIFOTYPE, b"")],
    "nul": [("a\0b", tarfile.SYMTYPE, "c\0d"), ("a", tarfile.DIRTYPE, b"")],
}


@pytest.mark.parametrize("entries", OUTSIDE.values(), ids=OUTSIDE.keys())
def test_nothing_lands_outside(tmp_path: Path, entries: list[tuple[str, bytes, str | bytes]]) -> None:
    """Refused, or put inside; never a file or link that leads out."""
    try:
        work = _unpack(tmp_path, _tar(*entries))
    except (RefusedError, OSError):
        work = tmp_path / "job" / "work"
    assert {path.name for path in (tmp_path / "job").iterdir()} == {"work"}
    assert {path.name for path in tmp_path.iterdir()} == {"code", "job"}
    for path in work.rglob("*"):
        assert Path(os.path.realpath(path)).is_relative_to(work), path
        assert path.is_symlink() or path.is_dir() or path.is_file()


@pytest.mark.parametrize("kind", ["gzip", "sparse", "noise", "cut"])
def test_only_a_plain_whole_tar_is_unpacked(tmp_path: Path, kind: str) -> None:
    """No compression and no holes, which may grow without bound; nothing that ends early."""
    plain = _tar(("file", tarfile.REGTYPE, b"x" * 3000))
    sparse = bytearray(_tar(("hole", b"S", b"")))
    if kind == "gzip":
        data = gzip.compress(plain)
    elif kind == "sparse":
        sparse[483:495] = b"77777777777\0"  # the real size, 8 GiB less one byte
        header = bytes(sparse[:148]) + b" " * 8 + bytes(sparse[156:512])
        sparse[148:156] = b"%06o\0 " % sum(header)
        data = bytes(sparse)
    else:
        data = os.urandom(10_000) if kind == "noise" else plain[:2000]
    with pytest.raises(RefusedError) as refusal:
        _unpack(tmp_path, data)
    assert refusal.value.cause == "bad_archive"


@given(st.lists(st.tuples(st.from_regex(r"([a-c]|\.|\.\.|)(/([a-c]|\.\.|\.)){0,3}", fullmatch=True),
                          st.sampled_from([tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE]),
                          st.from_regex(r"([a-c]|\.\.)(/([a-c]|\.\.)){0,3}", fullmatch=True)), max_size=6))  # fmt: skip
def test_any_tar_stays_inside(tmp_path_factory: pytest.TempPathFactory, entries: list[tuple[str, bytes, str]]) -> None:
    """Whatever folders, files and links a tar names, in whatever order."""
    tmp_path = tmp_path_factory.mktemp("any")
    made = [(name, kind, target if kind == tarfile.SYMTYPE else b"") for name, kind, target in entries]
    try:
        work = _unpack(tmp_path, _tar(*made))
    except (RefusedError, OSError):
        return
    for path in [tmp_path / "job", *work.rglob("*")]:
        if path.exists() and path != tmp_path / "job":
            assert Path(os.path.realpath(path)).is_relative_to(work), path
    assert {path.name for path in (tmp_path / "job").iterdir()} == {"work"}


@pytest.mark.parametrize("name", ["", "x", "../" + "0" * 61, "0" * 63, "0" * 65, "A" * 64, "0" * 63 + "\n", 5, None])
def test_what_is_no_hash_is_no_path(tmp_path: Path, name: object) -> None:
    """A hash becomes a file name, so it is one or refused."""
    with pytest.raises(RefusedError, match="not a sha256"):
        Archives(str(tmp_path)).file(name)  # type: ignore[arg-type]


def test_a_damaged_archive_is_dropped(tmp_path: Path) -> None:
    """Its hash decides; sent again it is kept."""
    archives = Archives(str(tmp_path))
    digest = hashlib.sha256(b"right").hexdigest()
    archives.write(digest, 0, b"wrong")
    with pytest.raises(RefusedError, match="damaged"):
        archives.finish(digest)
    assert not archives.has(digest)
    archives.write(digest, 2, b"ght")
    archives.write(digest, 0, b"ri")
    archives.finish(digest)
    assert archives.has(digest)
    assert os.listdir(tmp_path) == [digest + ".tar"]


def test_every_folder_belongs_to_the_user(tmp_path: Path) -> None:
    """Also one that the archive does not name itself."""
    user = (1234, 1235) if os.getuid() == 0 else (os.getuid(), os.getgid())
    archives, digest = _keep(tmp_path, _tar(("a/b/c", tarfile.REGTYPE, b"x"), ("l/m", tarfile.SYMTYPE, "../a")))
    (tmp_path / "work").mkdir()
    archives.unpack(digest, str(tmp_path / "work"), *user)
    for path in (tmp_path / "work").rglob("*"):
        assert (path.lstat().st_uid, path.lstat().st_gid) == user, path
