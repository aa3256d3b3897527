"""Contents on their way to the server: in pieces, of the files as the snapshot says they are."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pool.errors import InputError
from pool.folder.send import _pieces
from pool.folder.snapshot import Snapshot, take


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """With a large file and many small ones."""
    monkeypatch.setenv("POOL_STATE_DIR", str(tmp_path / "state"))
    made = tmp_path / "f"
    made.mkdir()
    (made / "large").write_bytes(os.urandom(5_000_000))
    for number in range(50):
        (made / f"small{number:02}").write_bytes(b"%d" % number * 1000)
    return made


def sent(snapshot: Snapshot) -> tuple[list[bytes], list[tuple[int, int]]]:
    """The pieces, and what was said of how far it is."""
    said: list[tuple[int, int]] = []
    contents = snapshot.manifest.contents
    total = sum(size for _, size in contents)
    return list(_pieces(snapshot, contents, total, lambda *far: said.append(far))), said


def test_contents_go_as_one_stream(folder: Path) -> None:
    """In the order of the list; of pieces that are neither tiny nor huge."""
    snapshot = take(str(folder))
    pieces, said = sent(snapshot)
    stream = b"".join(pieces)
    assert stream == b"".join(Path(snapshot.sources[sha256]).read_bytes() for sha256, _ in snapshot.manifest.contents)
    assert all(1 << 20 <= len(piece) < 1 << 21 for piece in pieces[:-1])
    assert said[-1] == (len(stream), len(stream))
    assert [done for done, _ in said] == sorted(done for done, _ in said)


@pytest.mark.parametrize("how", ["shorter", "gone"])
def test_a_file_that_changed_meanwhile(folder: Path, how: str) -> None:
    """Told apart from what cannot be sent at all: another snapshot is taken then."""
    snapshot = take(str(folder))
    if how == "shorter":
        os.truncate(folder / "large", 10)
    else:
        (folder / "large").unlink()
    with pytest.raises(InputError, match="large changed while it was sent") as raised:
        sent(snapshot)
    assert raised.value.details["changed"]


def test_what_grew_is_sent_as_it_was(folder: Path) -> None:
    """So much of it as the snapshot says."""
    snapshot = take(str(folder))
    before = sent(snapshot)[0]
    with open(folder / "large", "ab") as file:
        file.write(b"more")
    assert sent(snapshot)[0] == before
