"""Errors travel over the socket and come back as what they were."""

from __future__ import annotations

import json

import pytest

from pool import errors


@pytest.mark.parametrize("name", errors.tree())
def test_an_error_comes_back_as_itself(name: str) -> None:
    """Class, message, hint and details; without a message the class speaks for itself."""
    cls = errors.tree()[name]
    sent = cls("what", hint="type this", host="gpu1", step=3)
    back = errors.from_json(json.loads(json.dumps(sent.to_json())))
    assert type(back) is cls
    assert (back.message, back.hint, back.details) == ("what", "type this", {"host": "gpu1", "step": 3})
    assert str(cls()).endswith(".")
    assert "\n" not in str(cls())


def test_an_error_of_another_version() -> None:
    """A class that is not known here is still an error with its words."""
    back = errors.from_json({"error": "LaterError", "message": "what", "hint": None})
    assert (type(back), back.message, back.exit_code) == (errors.PoolError, "what", 1)
    assert errors.from_json({}).message == "Something went wrong."


def test_every_kind_of_failure_has_a_code_of_its_own() -> None:
    """Scripts tell them apart by it; only what is a kind of another shares its code."""
    seen: dict[int, type[errors.PoolError]] = {}
    for cls in errors.tree().values():
        other = seen.setdefault(cls.exit_code, cls)
        assert issubclass(cls, other), f"{cls.__name__} and {other.__name__} both end with {cls.exit_code}"


@pytest.mark.parametrize("hint", [None, "pool ps"])
def test_a_reason_keeps_the_hint_on_its_line(hint: str | None) -> None:
    """And gives it back."""
    line = errors.PoolError("gpu1: no; it: cannot", hint=hint).line()
    assert errors.parted(line) == ("gpu1: no; it: cannot", hint)
    assert "\n" not in line
