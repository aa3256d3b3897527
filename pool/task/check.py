"""Checks a task file and says what is wrong, or what it means once normalised: one file of `pool validate`."""

from __future__ import annotations

from typing import Any

from pool.errors import TaskError
from pool.task.load import load_task
from pool.task.normal import normal_form


def check_file(text: bytes, source: str) -> dict[str, Any]:
    """`{"file", "ok", "error", "task"}`: the error's message and hint, or the task with everything spelled out."""
    try:
        task = load_task(text, source)
    except TaskError as error:
        return {"file": source, "ok": False, "error": {"message": error.message, "hint": error.hint}, "task": None}
    return {"file": source, "ok": True, "error": None, "task": normal_form(task)}
