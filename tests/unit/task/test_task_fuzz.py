"""Fuzz: whatever bytes come in, a task or a TaskError comes out, soon, and with little memory.

A few hundred cases run with the other tests. `FUZZ_SECONDS=60 python -m pytest tests/unit/task/test_task_fuzz.py` goes
on for a minute.
"""

from __future__ import annotations

import json
import os
import random
import resource
import time

import jsonschema
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pool.errors import PoolError, TaskError
from pool.task.compile import compile_task
from pool.task.document import read_document
from pool.task.json_schema import json_schema
from pool.task.load import load_task
from pool.task.needed import needed_env
from pool.task.normal import normal_form
from pool.task.schema import TaskConfig
from tests.unit.task.core_schema import core

SECONDS = float(os.environ.get("FUZZ_SECONDS", "0"))
HEAD = b"type: task\ncommands: [x]\n"
_PIECES = (
    *(
        "type",
        "task",
        "service",
        "dev-environment",
        "gpu",
        "min",
        "max",
        "size",
        "count",
        "name",
        "cron",
        "<<",
        "*a",
        "&a",
    ),
    *(
        "A100",
        "A100x2",
        "24GB..40GB:2",
        "4090",
        "..",
        "8GB",
        "1h30m",
        "off",
        "no",
        "22:22",
        "1_0",
        ".inf",
        "-1",
        "1e9",
        "true",
    ),
    *(
        "[",
        "]",
        "{",
        "}",
        ":",
        ",",
        "- ",
        "\n",
        "\n  ",
        "|\n  ",
        ">",
        "'",
        '"',
        "#",
        "!!str ",
        "!!python/object:x ",
        "? ",
        "---\n",
    ),
    *(
        "${{ run.args }}",
        "${{ env.A }}",
        "${{",
        "}}",
        "$${{",
        "\t",
        "\r\n",
        "\0",
        "\x1b[0m",
        "\u202e",
        "é",
        "🙂",
        "%",
        "@",
        "`",
    ),
)
SCHEMA = jsonschema.Draft202012Validator(json_schema())
_KEYS = tuple(TaskConfig.model_fields)

junk = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20), st.sampled_from(_PIECES)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.one_of(st.sampled_from(_PIECES), st.text(max_size=8)), inner, max_size=4),
    ),
    max_leaves=12,
)


def feed(text: bytes) -> bool:
    """Read `text` as a task, compile it, print it: anything but a PoolError, or being slow, is a failure."""
    started, task = time.process_time(), None
    try:
        task = load_task(text, "fuzz.yml")
    except TaskError as error:
        assert error.message.startswith("fuzz.yml:")
        assert len(error.message) < 5000
    else:
        printed = json.dumps(normal_form(task))
        assert normal_form(TaskConfig.model_validate(json.loads(printed))) == normal_form(task)
        try:
            compile_task(task, ["a b"], dict.fromkeys(needed_env(task), "v"))
        except PoolError as error:
            assert error.exit_code == 2
    assert time.process_time() - started < 1
    return task is not None


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(_KEYS), st.one_of(junk, st.lists(st.sampled_from(_PIECES), max_size=2), st.integers(-5, 5)))
def test_any_value_of_any_field(key: str, value: object) -> None:
    """A field with any value at all is read or refused; what is read is valid in the JSON Schema too."""
    text = json.dumps({"type": "task", "commands": ["x"], key: value})
    text = text.replace("NaN", ".nan").replace("Infinity", ".inf")
    if feed(text.encode()):
        SCHEMA.validate(core(read_document(text.encode(), "fuzz").value))


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.one_of(st.sampled_from(_PIECES), st.sampled_from([f"\n{key}: " for key in _KEYS])), max_size=30))
def test_any_pieces(pieces: list[str]) -> None:
    """Any pieces of a task file in any order are read or refused."""
    feed(HEAD + "".join(pieces).encode())


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    """Any bytes at all are read or refused."""
    feed(data)


def test_for_a_while() -> None:
    """Larger files of mutated pieces, for FUZZ_SECONDS (a moment by default); memory grows by less than 100 MB."""
    rng = random.Random(20240601)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    until = time.monotonic() + max(SECONDS, 0.5)
    pieces = [*_PIECES, *(f"\n{key}: " for key in _KEYS)]
    while time.monotonic() < until:
        text = "".join(rng.choice(pieces) * rng.choice((1, 1, 1, 2, 50)) for _ in range(rng.randrange(60)))
        if rng.random() < 0.1:
            text *= min(rng.choice((10, 1000, 5000)), 300_000 // (len(text) + 1))
        data = bytearray(HEAD * (rng.random() < 0.8) + text.encode())
        for _ in range(rng.randrange(4)):
            if data:
                data[rng.randrange(len(data))] = rng.randrange(256)
        feed(bytes(data))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 1024
