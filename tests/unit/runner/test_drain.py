"""A host's drains: whose they are, what is on disk, and that a job is never taken while there is one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pool.runner import drain as module
from pool.runner import durable
from pool.runner.drain import Drain, sentence
from pool.runner.ledger import RefusedError


def takes(drain: Drain) -> bool:
    """Whether a job would be taken."""
    try:
        with drain.none():
            return True
    except RefusedError as refusal:
        assert refusal.cause == "draining"
        assert sentence(drain.told) in str(refusal)
        return False


def test_each_takes_back_their_own(tmp_path: Path) -> None:
    """A playbook's end leaves a person's drain; a person's undrain leaves none."""
    drain = Drain(str(tmp_path))
    assert takes(drain)
    assert drain.begin("site.yml", "a new driver")
    assert drain.begin("alice", "new fans")
    assert not drain.begin("alice", "")
    assert sentence(drain.told) == "a new driver (site.yml); new fans (alice)"
    assert drain.end("site.yml")
    assert not drain.end("site.yml")
    assert not drain.end("bob")
    assert sentence(drain.told) == "new fans (alice)"
    assert not takes(drain)
    assert drain.begin("site.yml", "")
    assert drain.end()
    assert takes(drain)
    assert not drain.end()


def test_it_is_on_disk_before_it_is_told(tmp_path: Path) -> None:
    """What was told is what a restart finds, and each word has a higher number than the one before."""
    told: list[dict[str, Any]] = []

    def hear(word: dict[str, Any]) -> None:
        assert Drain(str(tmp_path)).told == word
        told.append(word)

    drain = Drain(str(tmp_path), hear)
    drain.begin("alice", "one")
    drain.begin("alice", "two")
    drain.end("alice")
    assert [sentence(word) for word in told] == ["one (alice)", "two (alice)", ""]
    assert [word["number"] for word in told] == [1, 2, 3]
    assert told[0]["by"][0]["at"] == told[1]["by"][0]["at"]


def test_a_full_disk_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What could not be written down did not happen."""
    drain = Drain(str(tmp_path))
    monkeypatch.setattr(module.durable, "write_json", _full)
    with pytest.raises(OSError, match="full"):
        drain.begin("alice", "one")
    assert takes(drain)


def _full(*_: object) -> None:
    raise OSError(28, "full")


@pytest.mark.parametrize(
    "damage", [b"", b"{", b"[]", b'{"drains": 3, "number": 1}', b'{"drains": {"a": {}}, "number": 1}']
)
def test_a_damaged_file_drains_the_host(tmp_path: Path, damage: bytes) -> None:
    """It may have said so; a person takes that back."""
    (tmp_path / "drain.json").write_bytes(damage)
    drain = Drain(str(tmp_path))
    assert not takes(drain)
    assert "cannot be read" in sentence(drain.told)
    assert drain.end()
    assert takes(Drain(str(tmp_path)))
    assert (durable.read_json(str(tmp_path / "drain.json")) or {})["drains"] == {}


def test_words_are_plain(tmp_path: Path) -> None:
    """Nothing that a terminal would obey, on one line, not too long; a drain of nobody is refused."""
    drain = Drain(str(tmp_path))
    drain.begin("eve\x1b[2J\n", "a\nb\x07 " + "x" * 1000)
    (told,) = drain.told["by"]
    assert told["by"] == "eve [2J"
    assert told["reason"].startswith("a b xxx")
    assert len(told["reason"]) == 300
    with pytest.raises(RefusedError, match="who drains"):
        drain.begin("\n", "why")
