"""YAML reading: exact types, places, and every bomb refused before it costs anything."""

from __future__ import annotations

from typing import Any

import pytest

from pool.errors import TaskError
from pool.task.document import MAX_BYTES, MAX_DEPTH, read_document
from pool.task.load import load_task
from tests.unit.task.core_schema import core


def read(text: str | bytes) -> Any:
    """The value of a small document."""
    data = text.encode() if isinstance(text, str) else text
    return core(read_document(data, "t.yml").value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("12", 12),
        ("-3", -3),
        ("+3", 3),
        ("0o17", 15),
        ("0xFF", 255),
        ("007", 7),
        ("1.5", 1.5),
        ("1e3", 1000.0),
        (".5", 0.5),
        (".inf", float("inf")),
        ("-.INF", float("-inf")),
        ("true", True),
        ("FALSE", False),
        ("~", None),
        ("null", None),
        ("", None),
        ("22:22", "22:22"),
        ("no", "no"),
        ("yes", "yes"),
        ("off", "off"),
        ("1_0", "1_0"),
        ("2024-13-45", "2024-13-45"),
        ("0b1", "0b1"),
        ("=", "="),
        ("'12'", "12"),
        ('"true"', "true"),
        ("!!str 12", "12"),
        ("9" * 5000, "9" * 5000),
    ],
)
def test_core_types(text: str, value: Any) -> None:
    """A plain scalar is what YAML 1.2's core schema says, and nothing that YAML 1.1 made of it."""
    assert read(f"a: {text}")["a"] == value
    assert type(read(f"a: {text}")["a"]) is type(value)


def test_nan() -> None:
    """.nan is a float that is no number."""
    assert read("a: .nan")["a"] != read("a: .nan")["a"]


def test_text_is_kept() -> None:
    """A plain scalar keeps the way it was written."""
    assert read_document(b"v: 1.10", "t").value["v"] == "1.10"


def test_aliases_and_merges_within_bounds() -> None:
    """Anchors, aliases and merge keys work: a key beside `<<` wins, and the first of several sources."""
    text = "a: &a {x: 1, y: 2}\nb: &b {y: 3, z: 4}\nc: {<<: [*a, *b], x: 9}\nd: *a\n"
    assert read(text)["c"] == {"x": 9, "y": 2, "z": 4}
    assert read(text)["d"] == {"x": 1, "y": 2}


def _merge_bomb() -> bytes:
    lines = [b"a0: &a0 {k: 1, l: 2}"]
    lines += [b"a%d: &a%d {<<: [%s]}" % (i, i, b",".join([b"*a%d" % (i - 1)] * 8)) for i in range(1, 10)]
    return b"\n".join(lines)


def _alias_bomb() -> bytes:
    lines = [b"a0: &a0 [x, x]"]
    lines += [b"a%d: &a%d [%s]" % (i, i, b",".join([b"*a%d" % (i - 1)] * 9)) for i in range(1, 10)]
    return b"\n".join(lines)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("merge bomb", _merge_bomb(), "aliases written out"),
        ("alias bomb", _alias_bomb(), "aliases written out"),
        ("flow depth", b"a: " + b"[" * 5000, f"more than {MAX_DEPTH} deep"),
        ("block depth", b"- " * 5000, f"more than {MAX_DEPTH} deep"),
        ("map depth", b"{a: " * 5000, f"more than {MAX_DEPTH} deep"),
        (
            "alias depth",
            b"\n".join([b"a0: &a0 [x]"] + [b"a%d: &a%d [*a%d]" % (i, i, i - 1) for i in range(1, 60)]),
            "deep",
        ),
        ("size", b"a: " + b"x" * MAX_BYTES, "256 KB"),
        ("many values", b"[" + b"x," * 100_000 + b"]", "more than 10000 values"),
        ("many keys", b"".join(b"k%d: 1\n" % i for i in range(20_000)), "more than 10000 values"),
        ("own anchor", b"a: &a [*a]", "contains itself"),
        ("unknown anchor", b"a: *b", "not defined"),
        ("object", b"a: !!python/object:os.system x", "tag"),
        ("tag", b"a: !secret x", "tag"),
        ("duplicate", b"gpus: 1\ngpus: 8\n", "set twice; first on line 1"),
        ("two merges", b"a: &a {x: 1}\nb:\n  <<: *a\n  <<: *a\n", "<< is set twice"),
        ("merge of a word", b"a: {<<: x}", "<< takes a mapping"),
        ("two documents", b"a: 1\n---\nb: 2\n", "second document"),
        ("not UTF-8", b"a: \xff\n", "UTF-8"),
        ("UTF-16", "a: 1".encode("utf-16"), "UTF-8"),
        ("NUL", b"a: \x00", "character"),
        ("escape", b"a: \x1b[2J", "character"),
        ("key of a list", b"? [a]\n: b\n", "key must be a word"),
        ("tab", b"a:\n\t- x\n", "not valid YAML"),
        ("empty", b"", "empty"),
        ("a comment", b"# nothing\n", "empty"),
    ],
)
def test_refused(name: str, text: bytes, said: str) -> None:
    """What is not a plain document within bounds is one TaskError with its line, and never a traceback."""
    with pytest.raises(TaskError) as caught:
        read_document(text, "t.yml")
    assert said in caught.value.message
    assert caught.value.message.startswith("t.yml:")
    assert len(caught.value.message) < 1000


@pytest.mark.parametrize(
    "text",
    [
        b"type: task\ncommands: [x]\n" + b"".join(b"k%d: 1\n" % i for i in range(4_900)),
        b"type: task\ncommands: [x]\nports: [" + b",".join(b"%d" % (i + 1) for i in range(9_000)) + b"]",
        b"type: task\ncommands: [x]\nenv: [" + b",".join(b"A%d=1" % i for i in range(9_000)) + b"]",
        b"type: task\ncommands: [x]\nresources: {gpu: A1" + b"0" * 200_000 + b"x}",
        b"type: task\ncommands: [x]\nresources: {gpu: '1" + b" " * 200_000 + b"x'}",
        b"type: task\ncommands: [x]\nresources: {memory: '1" + b" " * 200_000 + b"x'}",
        b"type: task\ncommands: ['${{" + b" " * 200_000 + b"']",
        b"type: task\ncommands: ['" + b"${{" * 70_000 + b"']",
        b"type: task\ncommands: [" + b"'${{ x }}'," * 9_000 + b"]",
        b"type: task\nimage: x\nentrypoint: '" + b"a " * 100_000 + b"'",
        b"type: task\ncommands: [x]\nmax_duration: " + b"1" * 200_000 + b"d",
        b"type: task\ncommands: [x]\n" + b"k" * 200_000 + b": 1\n",
        b"type: task\ncommands: [x]\nschedule: {cron: '" + b"1," * 100_000 + b" * * * *'}",
    ],
)
def test_long_values_cost_little(text: bytes) -> None:
    """Nothing in a file within bounds makes reading it more than linear: thousands of each kind are read or refused."""
    try:
        load_task(text, "t.yml")
    except TaskError as error:
        length = len(error.message)
        assert length < 3000


def test_places() -> None:
    """Every key and value has its line and column, aliases the place of their anchor."""
    document = read_document(b"a: 1\nb:\n  - x\n  - y: z\n", "t.yml")
    assert (document.place(("b", 1, "y")).line, document.place(("b", 1, "y")).column) == (4, 8)
    assert (document.place(("b", 1, "y"), key=True).column) == 5
    assert document.place(("b", 9, "q")).line == 3
