"""Trees of files as a stream: exact both ways, and what was not asked for is refused."""

from __future__ import annotations

import io
import os
import stat
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pool.runner import tree
from pool.runner.tree import TOP, Left, TreeError
from tests.shells import deep


def copied(source: Path, target: Path, name: str = "copy") -> Path:
    """`source` by way of a stream, in the folder `target`."""
    made = io.BytesIO()
    tree.pack(str(source), made.write)
    made.seek(0)
    place = tree.place(str(target), name, bool(tree.measure(str(source))["folder"]))
    tree.unpack(made.read, place)
    return Path(place)


def shape(folder: Path) -> dict[str, tuple[int, bytes | str]]:
    """What is below a folder: mode, and bytes or where a link leads."""
    found: dict[str, tuple[int, bytes | str]] = {}
    for path in sorted(folder.rglob("*")):
        mode = path.lstat().st_mode
        content = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else b""
        found[os.fsdecode(os.fsencode(path.relative_to(folder)))] = (mode, content)
    return found


def archive(*members: tuple[str, bytes, str]) -> io.BytesIO:
    """A tar of `(name, type, link)`."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        for name, kind, link in members:
            member = tarfile.TarInfo(name)
            member.type, member.linkname, member.mode = kind, link, 0o755
            member.size = 4 if kind == tarfile.REGTYPE else 0
            tar.addfile(member, io.BytesIO(b"evil"))
    made.seek(0)
    return made


def test_a_folder_arrives_as_it_is(tmp_path: Path) -> None:
    """Modes, links wherever they lead, empty folders, odd names, what is read-only; what is no file is named."""
    source = tmp_path / "source"
    (source / "empty").mkdir(parents=True)
    (source / "deep" / "er").mkdir(parents=True)
    (source / "deep" / "er" / ("n" * 200)).write_bytes(os.urandom(300_000))
    Path(os.fsdecode(os.fsencode(str(source)) + b"/odd \xff\n'")).write_bytes(b"odd")
    (source / "run.sh").write_bytes(b"#!")
    (source / "run.sh").chmod(0o750)
    (source / "link").symlink_to("deep/er")
    (source / "out").symlink_to("/etc/passwd")
    (source / "deep").chmod(0o555)
    os.mkfifo(source / "fifo")
    made = io.BytesIO()
    assert vars(tree.pack(str(source), made.write)) == {"skipped": [str(source / "fifo")], "changed": [], "more": 0}
    (source / "fifo").unlink()
    done = copied(source, tmp_path)
    assert done == tmp_path / "copy"
    assert shape(done) == shape(source)
    assert stat.S_IMODE(done.stat().st_mode) == stat.S_IMODE(source.stat().st_mode)
    again = copied(source / "run.sh", done, "run.sh")
    assert shape(done) == shape(source) and again == done / "run.sh"
    (source / "deep").chmod(0o755)
    (done / "deep").chmod(0o755)


def test_where_a_copy_goes(tmp_path: Path) -> None:
    """As cp says: into a folder that is there, else the new name; never a folder for a file, or the reverse."""
    (tmp_path / "folder" / "taken").mkdir(parents=True)
    (tmp_path / "file").write_bytes(b"")
    here = str(tmp_path)
    assert tree.place(f"{here}/folder", "a", False) == f"{here}/folder/a"
    assert tree.place(f"{here}/folder/", "a", True) == f"{here}/folder/a"
    assert tree.place(f"{here}/new", "a", False) == f"{here}/new"
    assert tree.place(f"{here}/new/", "a", True) == f"{here}/new"
    assert tree.place(f"{here}/file", "a", False) == f"{here}/file"
    assert tree.place(f"{here}/folder", "", True) == f"{here}/folder"
    for target, name, folder, why in (
        ("new/", "a", False, "no such folder"),
        ("none/new", "a", False, "no such folder"),
        ("folder", "taken", False, "there is a folder of that name"),
        ("file", "a", True, "there is a file of that name"),
    ):
        with pytest.raises(TreeError, match=why):
            tree.place(f"{here}/{target}", name, folder)


FILE, FOLDER, LINK, HARD = tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE


@pytest.mark.parametrize(
    "members",
    [
        [("other", FILE, "")],
        [(TOP, FOLDER, ""), ("other", FILE, "")],
        [(TOP, FOLDER, ""), (f"{TOP}/../evil", FILE, "")],
        [(TOP, FOLDER, ""), ("/tmp/evil", FILE, "")],
        [(TOP, FOLDER, ""), (f"{TOP}//evil", FILE, "")],
        [(TOP, FOLDER, ""), (f"{TOP}/a", LINK, ".."), (f"{TOP}/a/evil", FILE, "")],
        [(TOP, FOLDER, ""), (f"{TOP}/a", LINK, "/"), (f"{TOP}/a/tmp", FOLDER, "")],
        [(TOP, FOLDER, ""), (f"{TOP}/a", LINK, ".."), (f"{TOP}/a", FOLDER, ""), (f"{TOP}/a/evil", FILE, "")],
        [(TOP, FOLDER, ""), (f"{TOP}/kept", LINK, ".."), (f"{TOP}/kept/evil", FILE, "")],
        [(TOP, LINK, "/etc")],
        [(TOP, FOLDER, ""), (f"{TOP}/hard", HARD, "/etc/passwd")],
        [(TOP, FOLDER, ""), (f"{TOP}/dev", tarfile.CHRTYPE, "")],
        [(TOP, FOLDER, ""), (f"{TOP}/fifo", tarfile.FIFOTYPE, "")],
        [(TOP, FILE, ""), (f"{TOP}/evil", FILE, "")],
        [],
    ],
)
def test_what_was_not_asked_for_is_refused(tmp_path: Path, members: list[tuple[str, bytes, str]]) -> None:
    """Nothing is written beside the one place, through no link, whatever comes."""
    (tmp_path / "in" / "target" / "kept").mkdir(parents=True)
    made = archive(*members)
    place = tree.place(str(tmp_path / "in"), "target" if len(members) != 2 or members[0][1] == FOLDER else "new", True)
    with pytest.raises(TreeError):
        tree.unpack(made.read, place)
    assert not [path for path in tmp_path.rglob("*") if path.name in ("evil", "tmp", "hard", "dev", "fifo")]
    assert not list(tmp_path.rglob("*.part"))


def test_what_is_cut_off_has_no_name(tmp_path: Path) -> None:
    """No half of a file is left, and one that was there stays."""
    source = tmp_path / "source"
    source.write_bytes(os.urandom(100_000))
    made = io.BytesIO()
    tree.pack(str(source), made.write)
    (tmp_path / "target").write_bytes(b"before")
    half = io.BytesIO(made.getvalue()[:50_000])
    with pytest.raises(TreeError, match="cut off"):
        tree.unpack(half.read, str(tmp_path / "target"))
    assert (tmp_path / "target").read_bytes() == b"before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source", "target"]


def changing(source: Path, change: Callable[[], object]) -> tuple[Left, io.BytesIO]:
    """What is left of a folder that changes once the copy has begun, and what was sent."""
    made, began = io.BytesIO(), False

    def write(data: bytes) -> None:
        nonlocal began
        if not began:
            began = True
            change()
        made.write(data)

    left = tree.pack(str(source), write)
    made.seek(0)
    return left, made


def test_a_folder_that_lives_is_copied(tmp_path: Path) -> None:
    """What is deleted, shortened or becomes another thing meanwhile is named, and the rest arrives."""
    source = tmp_path / "source"
    (source / "b").mkdir(parents=True)
    (source / "c").mkdir()
    for name in ("a", "b/gone", "d-gone", "e-other", "f-short", "g-grows", "z"):
        (source / name).write_bytes(b"x" * 600_000)
    (source / "c" / "in").write_bytes(b"in")
    (source / "y-link").symlink_to("z")

    def change() -> None:
        for name in ("b/gone", "d-gone", "e-other", "c/in"):
            (source / name).unlink()
        (source / "c").rmdir()
        (source / "e-other").mkdir()
        os.truncate(source / "f-short", 1000)
        with open(source / "g-grows", "ab") as file:
            file.write(b"y" * 100_000)

    left, made = changing(source, change)
    tree.unpack(made.read, str(tmp_path / "copy"))
    done = shape(tmp_path / "copy")
    assert {"a", "b", "g-grows", "y-link", "z"} <= set(done)
    assert not {"b/gone", "d-gone", "c/in"} & set(done)
    assert done["g-grows"][1][:600_000] == b"x" * 600_000  # type: ignore[comparison-overlap]
    assert left.skipped == [] and left.more == 0
    assert {str(source / name) for name in ("c", "d-gone")} <= set(left.changed)

    inside: list[int] = []

    def write(data: bytes) -> None:
        inside.append(len(data))
        if len(inside) == 1:
            os.truncate(source / "z", 1000)

    left = tree.pack(str(source / "z"), write)
    assert left.changed == [str(source / "z")]
    assert sum(inside) >= 600_000


def test_what_is_left_is_named_within_bounds(tmp_path: Path) -> None:
    """A hundred of each, none of them long, and how many more: also what a host says of it."""
    for number in range(130):
        os.mkfifo(tmp_path / f"fifo-{number:03}")
    left = tree.pack(str(tmp_path), lambda _: None)
    assert (len(left.skipped), left.more) == (100, 30)
    told = Left(["x" * 1000, 7], "no list", "many")
    assert [len(each) for each in told.skipped] == [303, 1] and (told.changed, told.more) == ([], 0)


def test_a_folder_that_is_deep_or_large(tmp_path: Path) -> None:
    """Its depth is no matter of ours, nor how long it takes to measure."""
    with deep(tmp_path / "deep"):
        made = io.BytesIO()
        assert vars(tree.pack(str(tmp_path), made.write)) == vars(Left())
        assert b"/d/file" in made.getvalue()
        assert tree.measure(str(tmp_path)) == {"folder": True, "bytes": 4}
        assert tree.measure(str(tmp_path), limit_s=0) == {"folder": True, "bytes": 0}


def test_only_files_are_opened(tmp_path: Path) -> None:
    """Neither a device nor a FIFO that has come in the place of a file; through no link."""
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "link").symlink_to("file")
    os.mkfifo(tmp_path / "fifo")
    with tree.open_file(str(tmp_path / "link"), None) as file:
        assert file.read() == b"x"
    for path, flags in (("/dev/zero", 0), (str(tmp_path / "fifo"), 0), (str(tmp_path / "link"), os.O_NOFOLLOW)):
        opened: list[int] = []
        with pytest.raises(OSError, match="something else"):
            tree.open_file(path, lambda fd, opened=opened: opened.append(fd) or -1, flags)  # type: ignore[misc]
        assert not opened
        with pytest.raises(OSError, match="something else"):
            tree.open_file(path, None, flags)


def test_a_name_of_as_many_bytes_as_fit_arrives(tmp_path: Path) -> None:
    """Also where a letter is several."""
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / ("\u5b57" * 85)).write_bytes(b"x")
    assert shape(copied(tmp_path / "source", tmp_path)) == shape(tmp_path / "source")


def pax(**records: bytes) -> bytes:
    """A member's extended header."""
    data = b""
    for name, value in ((name.replace("__", "."), value) for name, value in records.items()):
        size = len(name) + len(value) + 3
        size += len(str(size + len(str(size))))
        data += b"%d %s=%s\n" % (size, name.encode(), value)
    return header("x", tarfile.XHDTYPE, len(data)) + data + bytes(-len(data) % 512)


def header(name: str, kind: bytes, size: int = 0) -> bytes:
    """A member's header."""
    member = tarfile.TarInfo(name)
    member.type, member.size = kind, size
    return member.tobuf(tarfile.GNU_FORMAT)


_FILE = header(TOP, FILE) + bytes(1024)
_HOLES = {"GNU__sparse__major": b"1", "GNU__sparse__minor": b"0", "GNU__sparse__name": TOP.encode()}


@pytest.mark.parametrize(
    "data",
    [
        pax(mtime=b"1e300") + _FILE,
        pax(mtime=b"nan") + _FILE,
        pax(path=TOP.encode() + b"/a\0b") + _FILE,
        header(TOP, FOLDER) + pax(path=TOP.encode() + b"/a\0b") + _FILE,
        pax(size=b"-5") + _FILE,
        header(TOP, FILE, -1) + bytes(1024),
        header("x", tarfile.XHDTYPE, 150 << 20) + b"1" * (20 << 20),
        header("x", tarfile.GNUTYPE_LONGNAME, 1000) + b"1" * 1024 + _FILE,
        header("x", tarfile.XGLTYPE, 512) + b"1" * 512 + _FILE,
        pax(comment=b"x") * 5000 + _FILE,
        pax(**_HOLES) + header(TOP, FILE, 1 << 20) + b"999999999999\n" * 80000,
    ],
    ids=["late", "no time", "NUL", "NUL below", "size", "size -1", "huge", "long", "global", "many", "holes"],
)
def test_a_hostile_tar_is_refused_at_once(tmp_path: Path, data: bytes) -> None:
    """In words, whatever its headers say, and nothing is left."""
    began = time.monotonic()
    with pytest.raises(TreeError):
        tree.unpack(io.BytesIO(data).read, str(tmp_path / "target"))
    assert time.monotonic() - began < 10
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
