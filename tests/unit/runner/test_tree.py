"""Trees of files as a stream: exact both ways, and what was not asked for is refused."""

from __future__ import annotations

import io
import os
import stat
import tarfile
from pathlib import Path

import pytest

from pool.runner import tree
from pool.runner.tree import TOP, TreeError


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
    assert tree.pack(str(source), made.write) == [str(source / "fifo")]
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
