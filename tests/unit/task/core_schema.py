"""A document's value in YAML's core-schema types, as an editor's parser sees it."""

from __future__ import annotations

from typing import Any

from pool.task.document import Word


def core(value: Any) -> Any:
    """The value with every word resolved."""
    if isinstance(value, dict):
        return {key: core(item) for key, item in value.items()}
    if isinstance(value, list):
        return [core(item) for item in value]
    return value.value if isinstance(value, Word) else value
