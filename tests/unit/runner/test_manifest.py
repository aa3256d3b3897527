"""What a folder's list may say: hostile ones are refused, and nothing that is taken can leave its folder."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pool.runner.ledger import RefusedError
from pool.runner.manifest import MAX_BYTES, MAX_ENTRIES, decode, encode, flagged, flags, leaving

EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def data(entries: Any, version: Any = 1) -> bytes:
    """As a stranger would write it."""
    return json.dumps({"version": version, "entries": entries}).encode()


def file(path: Any, mode: Any = 0o644, mtime: Any = 1, size: Any = 0, sha256: Any = EMPTY) -> list[Any]:
    """One entry."""
    return ["f", path, mode, mtime, size, sha256]


def test_a_list_comes_back_as_it_was() -> None:
    """Odd names too; its hash is its name, and contents are there once, in the order of the files."""
    other = "0" * 64
    entries = [
        ["d", "a b", 0o555],
        file("a b/\udcff\n\N{SNOWMAN}"),
        file("a b/again", size=5, sha256=other),
        ["l", "up", "a b/../a b"],
        file("x", size=5, sha256=other),
    ]
    made = encode(entries)
    read = decode(made.data)
    assert (read.entries, read.sha256) == (entries, made.sha256)
    assert read.contents == [(EMPTY, 0), (other, 5)]
    assert read.total == 10


HOSTILE: dict[str, Any] = {
    "parent": [file("../x")],
    "deep parent": [["d", "a", 0o755], file("a/../../x")],
    "dot": [file(".")],
    "dots": [["d", "..", 0o755]],
    "absolute": [file("/etc/passwd")],
    "empty": [file("")],
    "empty part": [["d", "a", 0o755], file("a//x")],
    "slash at the end": [["d", "a/", 0o755]],
    "nul": [file("a\0b")],
    "no folder": [file("a/x")],
    "folder too late": [file("a/x"), ["d", "a", 0o755]],
    "through a link": [["l", "a", "b"], ["d", "b", 0o755], file("a/x")],
    "through a file": [file("a"), file("a/x")],
    "twice": [file("a"), file("a")],
    "link over a folder": [["d", "a", 0o755], ["l", "a", "b"]],
    "file over a link": [["l", "a", "b"], file("a")],
    "absolute link": [["l", "a", "/etc/passwd"]],
    "link out": [["l", "a", ".."]],
    "deep link out": [["d", "a", 0o755], ["l", "a/b", "../../x"]],
    "link out by way of a link": [
        ["d", "a", 0o755],
        ["d", "a/b", 0o755],
        ["l", "a/b/root", "../.."],
        ["l", "out", "a/b/root/.."],
    ],
    "link out by way of what is not there": [["l", "a", "none/../../x"]],
    "empty link": [["l", "a", ""]],
    "link with nul": [["l", "a", "b\0c"]],
    "setuid": [file("a", mode=0o4755)],
    "negative mode": [file("a", mode=-1)],
    "mode of text": [file("a", mode="644")],
    "mode of truth": [file("a", mode=True)],
    "large": [file("a", size=1 << 60)],
    "large together": [file(str(number), size=(1 << 50) - 1, sha256=f"{number:064x}") for number in range(2)],
    "negative size": [file("a", size=-1)],
    "size of fractions": [file("a", size=1.5)],
    "date": [file("a", mtime=1 << 70)],
    "date before all": [file("a", mtime=-1)],
    "no hash": [file("a", sha256="../x")],
    "hash with a line": [file("a", sha256="0" * 63 + "\n")],
    "two sizes": [file("a", size=1), file("b", size=2)],
    "device": [["c", "null", 0o666]],
    "kind of number": [[1, "a", 0o644]],
    "kind of list": [[[], "a", 0o644]],
    "short": [["f", "a", 0o644]],
    "long": [["d", "a", 0o644, 1]],
    "nothing": [[]],
    "no entry": [None],
    "path of number": [file(5)],
    "long name": [file("a" * 256)],
    "half a character": [file("\ud800")],
    "not a list": {"a": 1},
    "many": [["d", "a", 1]] * (MAX_ENTRIES + 1),
}


@pytest.mark.parametrize("entries", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_list_is_refused(entries: Any) -> None:
    """By what it says, before anything is made."""
    with pytest.raises(RefusedError) as refusal:
        decode(data(entries))
    assert refusal.value.cause == "bad_manifest"
    assert len(str(refusal.value)) < 1000


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"[]",
        b"\xff",
        data([], 2),
        data([], "1"),
        b"[" * 100_000,
        b"[]," * 5_000_000,
        b"9" * 1_000_000,
        b" " * (MAX_BYTES + 1),
    ],
)
def test_what_is_no_list_is_refused(raw: bytes) -> None:
    """Noise, another version, too deep, too long."""
    with pytest.raises(RefusedError, match="not a folder as we send them"):
        decode(raw)


def test_a_bomb_of_links_ends() -> None:
    """Links that lead through links, each of them twice as long."""
    bomb = [["l", "a0", "x"], *(["l", f"a{n}", f"a{n - 1}/../a{n - 1}"] for n in range(1, 60))]
    assert leaving(bomb) == []
    assert leaving([["l", "loop", "loop"], ["l", "a", "b"], ["l", "b", "a"]]) == []


def test_links_inside_are_taken() -> None:
    """Up and down, to what is not there, to the top itself."""
    entries: list[Any] = [["d", "a", 0o755], ["l", "a/up", "../x"], ["l", "a/top", ".."], ["l", "gone", "a/none/.."]]
    assert decode(data(entries)).entries == entries


@given(st.lists(st.booleans(), max_size=40))
def test_flags(wanted: list[bool]) -> None:
    """What was marked is what comes out."""
    contents = [(f"{number:064x}", number) for number in range(len(wanted))]
    bits = flags(wanted)
    assert len(bits) == (len(wanted) + 7) // 8
    assert flagged(contents, bits) == [content for content, want in zip(contents, wanted, strict=True) if want]
    with pytest.raises(ValueError, match="do not mark"):
        flagged(contents, bits + b"\0")


_ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5), lambda inner: st.lists(inner, max_size=6)
)


@given(_ANY)
def test_any_list_is_taken_or_refused(entries: Any) -> None:
    """Whatever JSON it is."""
    try:
        decode(data(entries))
    except RefusedError as refusal:
        assert refusal.cause == "bad_manifest"
