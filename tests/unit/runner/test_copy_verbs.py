"""The program that copies, seen from the daemon: whatever becomes of it, nobody waits for ever and nothing is left."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from pool.runner import copy_verbs, frames
from pool.runner.copy_verbs import _Copy
from pool.runner.frames import Frame
from pool.runner.jobs import JobFolder
from pool.runner.ledger import RefusedError
from pool.runner.streams import Stream

_BEGINS = 'import os, sys, time\nos.write(int(sys.argv[5]), b\'{"place": "x"}\\n\')\n'


def files() -> int:
    """How many this process has open."""
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What is run in the place of the runner's own."""
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "program.py")])
    for name in ("_BEGINS_S", "_STALLS_S"):
        monkeypatch.setattr(copy_verbs, name, 1.0)
    monkeypatch.setattr(copy_verbs, "_CLEARS_S", 0.1)
    return tmp_path / "program.py"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("import time; time.sleep(1000)", "hangs"),
        ("", "was ended"),
        ("import os, sys; os.write(int(sys.argv[5]), b'no JSON\\n')", "was ended"),
    ],
)
def test_what_does_not_begin_is_refused(program: Path, text: str, why: str) -> None:
    """Before the server that asked gives up."""
    program.write_text(text, encoding="ascii")
    before = files()
    with pytest.raises(RefusedError, match=why):
        _Copy("state", JobFolder("state", "j"), ["out", "."])
    assert files() == before


def test_what_cannot_be_started_leaves_no_pipe(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However often that is."""
    monkeypatch.setattr(sys, "executable", "/none")
    before = files()
    with pytest.raises(FileNotFoundError):
        _Copy("state", JobFolder("state", "j"), ["out", "."])
    assert files() == before


@pytest.mark.parametrize("way", ["send", "take"])
def test_what_hangs_on_the_way_is_ended(program: Path, way: str) -> None:
    """It neither sends nor takes any more: the stream is closed with the reason, and the program is gone."""
    program.write_text(_BEGINS + "time.sleep(1000)", encoding="ascii")
    sent: list[Frame] = []
    before, began = files(), time.monotonic()
    copy = _Copy("state", JobFolder("state", "j"), ["in", ".", "x", "file"])
    stream = Stream(1, sent.append, lambda _: None)
    for _ in range(8):
        stream.take(Frame(frames.DATA, 1, {}, bytes(1 << 18)))
    getattr(copy, way)(stream)
    assert "hangs" in sent[-1].head["message"]
    assert time.monotonic() - began < 10
    assert files() == before
