"""Folders made of lists: exactly as they were, never outside, and changed into one another."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pool.runner.code import Code
from pool.runner.jobs import remove
from pool.runner.ledger import RefusedError
from pool.runner.manifest import Manifest, decode
from pool.runner.unfold import change, unfold
from tests.code import keep, listed, mode_and_date, tree

ME = (os.geteuid(), os.getegid())


def store(path: Path) -> Code:
    """A store without a limit."""
    return Code(str(path), lambda: 1 << 40, list)


def unfolded(code: Code, manifest: Manifest, to: Path, owner: tuple[int, int] = ME) -> Path:
    """The folder, made."""
    reader = code.reader()
    unfold(manifest, str(to), owner, reader)
    reader.close()
    return to


def test_a_folder_is_made_as_it_was(tmp_path: Path) -> None:
    """Modes of files and folders, links, empty ones, odd names, dates, a large file, one content under two names."""
    large = os.urandom(3_000_000)
    entries: list[tuple[Any, ...]] = [
        ("d", "closed", 0o555),
        ("f", "closed/in", b"x", 0o400),
        ("d", "empty", 0o700),
        ("d", "shared", 0o777),
        ("f", "large", large, 0o644, 1_700_000_000_123_456_789),
        ("f", "large2", large, 0o666),
        ("f", "nothing", b"", 0o000, 0),
        ("f", "\udcff\n \N{SNOWMAN}", b"odd", 0o755),
        ("l", "shared/up", "../large"),
        ("l", "dangling", "nowhere \udcff"),
    ]
    manifest, contents = listed(*entries)
    code = store(tmp_path / "code")
    assert keep(code, manifest, contents) == len(large) + 1 + 3
    made = tree(unfolded(code, manifest, tmp_path / "made"))
    for kind, path, *more in entries:
        name = path.encode("utf-8", "surrogateescape")
        if kind == "l":
            assert made.pop(name) == ("l", more[0].encode("utf-8", "surrogateescape"))
        elif kind == "d":
            assert made.pop(name) == ("d", more[0])
        else:
            mode, mtime = mode_and_date(*more[1:])
            assert made.pop(name) == ("f", mode, more[0], mtime)
    assert made == {}


def test_it_belongs_to_its_user(tmp_path: Path) -> None:
    """Each path, links too."""
    user = (1234, 1235) if os.getuid() == 0 else ME
    manifest, contents = listed(("d", "a", 0o755), ("f", "a/b", b"x"), ("l", "l", "a"))
    code = store(tmp_path / "code")
    keep(code, manifest, contents)
    made = unfolded(code, manifest, tmp_path / "made", user)
    for path in [made, *made.rglob("*")]:
        assert (path.lstat().st_uid, path.lstat().st_gid) == user, path


_NAME = st.sampled_from(["a", "b", "c"])
_PATH = st.lists(_NAME, min_size=1, max_size=3).map("/".join)
_ENTRY = st.one_of(
    st.tuples(st.just("d"), _PATH, st.sampled_from([0o755, 0o500])),
    st.tuples(st.just("f"), _PATH, st.sampled_from([b"", b"x", b"yy"]), st.sampled_from([0o644, 0o400])),
    st.tuples(st.just("l"), _PATH, st.sampled_from(["a", "../a", "b/c", "../../b", "none/../../x"])),
)


def _valid(entries: list[tuple[Any, ...]]) -> tuple[Manifest, dict[str, bytes]] | None:
    made, contents = listed(*sorted({entry[1]: entry for entry in entries}.values(), key=lambda entry: entry[1]))
    try:
        return decode(made.data), contents
    except RefusedError:
        return None


@given(st.lists(_ENTRY, max_size=12), st.lists(_ENTRY, max_size=12))
def test_a_folder_changed_is_as_one_made(
    tmp_path_factory: pytest.TempPathFactory, first: list[tuple[Any, ...]], second: list[tuple[Any, ...]]
) -> None:
    """Whatever one folder was and the other is; and nothing of either is outside."""
    before, after = _valid(first), _valid(second)
    if before is None or after is None:
        return
    tmp_path = tmp_path_factory.mktemp("any")
    code = store(tmp_path / "code")
    for manifest, contents in (before, after):
        keep(code, manifest, contents)
    changed = unfolded(code, before[0], tmp_path / "changed")
    reader = code.reader()
    change(before[0], after[0], str(changed), ME, reader)
    reader.close()
    assert tree(changed) == tree(unfolded(code, after[0], tmp_path / "made"))
    for path in changed.rglob("*"):
        assert Path(os.path.realpath(path)).is_relative_to(changed), path
    assert {path.name for path in tmp_path.iterdir()} == {"code", "changed", "made"}


def test_the_next_folder_is_made_ahead(tmp_path: Path) -> None:
    """Exact, taken once, changed where little differs, and never the one that a job has."""
    manifest, contents = listed(*(("f", f"file{number}", b"%d" % number) for number in range(20)))
    other, more = listed(*(("f", f"file{number}", b"%d" % (number or 99)) for number in range(20)), ("d", "new", 0o755))
    code = store(tmp_path / "code")
    keep(code, manifest, contents)
    keep(code, other, more)
    trees = tmp_path / "code" / "trees"
    code.trees.take(manifest, ME, str(tmp_path / "one"))
    code.trees._make_spare(manifest, ME)
    (spare,) = trees.iterdir()
    number = spare.stat().st_ino
    (tmp_path / "one" / "file1").write_text("by the job")
    code.trees.take(other, ME, str(tmp_path / "two"))
    assert (tmp_path / "two").stat().st_ino == number
    assert list(trees.iterdir()) == []
    assert tree(tmp_path / "two") == tree(unfolded(code, other, tmp_path / "fresh"))
    assert code.trees.size == 0


def test_a_spare_is_only_for_its_owner(tmp_path: Path) -> None:
    """Another user's job gets a folder of its own."""
    if os.geteuid():
        return
    manifest, contents = listed(("f", "a", b"x"))
    code = store(tmp_path / "code")
    keep(code, manifest, contents)
    code.trees._make_spare(manifest, (1234, 1234))
    code.trees.take(manifest, ME, str(tmp_path / "mine"))
    assert (tmp_path / "mine" / "a").stat().st_uid == ME[0]
    assert len(list((tmp_path / "code" / "trees").iterdir())) == 1


def test_closed_folders_change_too(as_nobody: Path) -> None:
    """Of a runner that is not root: files in a folder that nobody may write to, made, changed, taken away, removed."""
    before, contents = listed(("d", "a", 0o555), ("d", "a/b", 0o555), ("f", "a/b/c", b"1"), ("f", "a/d", b"2"))
    after, more = listed(("d", "a", 0o555), ("f", "a/b", b"3"), ("d", "a/new", 0o500), ("f", "a/new/x", b"4"))
    me = (os.geteuid(), os.getegid())
    code = store(as_nobody / "code")
    for manifest, each in ((before, contents), (after, more)):
        keep(code, manifest, each)
    changed = unfolded(code, before, as_nobody / "changed", me)
    reader = code.reader()
    change(before, after, str(changed), me, reader)
    reader.close()
    assert tree(changed) == tree(unfolded(code, after, as_nobody / "made", me))
    for name in ("changed", "made"):
        remove(str(as_nobody / name))
        assert not (as_nobody / name).exists()


@pytest.fixture
def as_nobody() -> Iterator[Path]:
    """A folder of an ordinary user, as whom the test then runs: root may write everywhere."""
    folder = Path(tempfile.mkdtemp(prefix="unfold", dir="/tmp"))
    root = os.geteuid() == 0
    if root:
        os.chown(folder, 65534, os.getegid())
        os.seteuid(65534)
    yield folder
    if root:
        os.seteuid(0)
    shutil.rmtree(folder)
