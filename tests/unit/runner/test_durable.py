"""Files that are whole after a crash, a full disk, and two writers at once."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pool.runner import durable
from tests.conftest import REPOSITORY

_WRITER = """
import sys
from pool.runner import durable
number = int(sys.argv[2])
while True:
    number += 1
    durable.write_json(sys.argv[1], {"number": number, "filler": "x" * 20000, "again": number})
    sys.stdout.write(f"{number}\\n")
    sys.stdout.flush()
"""


def test_a_writer_that_is_killed_leaves_a_whole_file(tmp_path: Path) -> None:
    """Killed 10 times at no particular moment: the file holds the last told value, or the one after it."""
    path = str(tmp_path / "file")
    told = 0
    for round_ in range(10):
        writer = subprocess.Popen(
            [sys.executable, "-c", _WRITER, path, str(told)], stdout=subprocess.PIPE, cwd=REPOSITORY, text=True
        )
        assert writer.stdout is not None
        for _ in range(3 + round_):
            told = int(writer.stdout.readline())
        writer.send_signal(signal.SIGKILL)
        rest = writer.communicate()[0].split("\n")
        told = max([told, *(int(line) for line in rest[:-1])])
        value = durable.read_json(path)
        assert value is not None
        assert value["number"] == value["again"]
        assert value["number"] in (told, told + 1)


def test_a_file_that_cannot_be_written_whole_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that takes only a part of the bytes and then none: the old value stays, nothing is left beside it."""
    path = str(tmp_path / "file")
    durable.write_json(path, {"old": 1})
    real, room = os.write, [10]

    def full(fd: int, data: bytes) -> int:
        if room[0] == 0:
            raise OSError(errno.ENOSPC, "full")
        count = real(fd, data[: room[0]])
        room[0] -= count
        return count

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="full"):
        durable.write_json(path, {"new": "x" * 100})
    room[0] = 10
    with pytest.raises(OSError, match="full"):
        durable.create_json(str(tmp_path / "once"), {"new": "x" * 100})
    assert durable.read_json(path) == {"old": 1}
    assert os.listdir(tmp_path) == ["file"]


def test_two_writers_at_once_never_mix(tmp_path: Path) -> None:
    """Threads of one process write the same file: it holds one of the values, whole, at every moment."""
    path = str(tmp_path / "file")
    durable.write_json(path, {"who": -1})

    def write(who: int) -> None:
        for _ in range(40):
            durable.write_json(path, {"who": who, "filler": str(who) * (1000 * (who + 1))})

    threads = [threading.Thread(target=write, args=(who,)) for who in range(3)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        value = durable.read_json(path)
        assert value is not None
        assert value.get("filler", "") == str(value["who"]) * len(value.get("filler", ""))
    assert os.listdir(tmp_path) == ["file"]


def test_create_makes_a_file_once(tmp_path: Path) -> None:
    """Of many who create it at once one succeeds, and what is read is what that one wrote."""
    path = str(tmp_path / "started")
    won: list[int] = []

    def create(who: int) -> None:
        try:
            durable.create_json(path, {"who": who})
        except FileExistsError:
            return
        won.append(who)

    threads = [threading.Thread(target=create, args=(who,)) for who in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert durable.read_json(path) == {"who": won[0]}
    assert os.listdir(tmp_path) == ["started"]


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "\x00" * 50, '{"a": 1} rest', "\ud800"])
def test_what_is_no_json_object_reads_as_none(tmp_path: Path, text: str) -> None:
    """A torn or damaged file is as good as none."""
    path = tmp_path / "file"
    path.write_bytes(text.encode(errors="surrogatepass"))
    assert durable.read_json(str(path)) is None


def test_a_missing_file_reads_as_none(tmp_path: Path) -> None:
    """No file, and a folder instead of one."""
    assert durable.read_json(str(tmp_path / "none")) is None
    assert durable.read_json(str(tmp_path)) is None


def test_files_are_private(tmp_path: Path) -> None:
    """0600, whatever the umask says."""
    before = os.umask(0)
    try:
        durable.write_json(str(tmp_path / "a"), {})
        durable.create_json(str(tmp_path / "b"), {})
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}


def test_a_record_with_room_behind_it_is_read(tmp_path: Path) -> None:
    """The exit record is written into spaces that were there before."""
    path = tmp_path / "exit.json"
    path.write_text(json.dumps({"exit_code": 3}) + " " * 4000, encoding="utf-8")
    assert durable.read_json(str(path)) == {"exit_code": 3}


def test_the_boot_has_one_identity() -> None:
    """The same twice, and the clock of the boot goes forward."""
    assert durable.boot_identity() == durable.boot_identity()
    assert durable.boot_clock() <= durable.boot_clock()
