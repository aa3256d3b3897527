"""The task reference of README as text, made from the models."""

from __future__ import annotations

from itertools import groupby

from pool.task.fields import TaskField, task_fields

_HEAD = "| field | form | default | effect here |\n|---|---|---|---|\n"


def reference_markdown() -> str:
    """One table for the file and one for each mapping in it, Markdown, ending in a newline."""
    tables = []
    for part, fields in groupby(task_fields(), key=lambda field: field.part):
        title = f"#### `{part}`\n\n" if part else ""
        tables.append(title + _HEAD + "".join(map(_row, fields)))
    return "\n".join(tables)


def _row(field: TaskField) -> str:
    cells = (f"`{field.name}`", field.form, _default(field), field.effect)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"


def _default(field: TaskField) -> str:
    if field.required:
        return "required"
    if field.default is None:
        return ""
    if isinstance(field.default, bool):
        return f"`{str(field.default).lower()}`"
    shown = ", ".join(field.default) if isinstance(field.default, list) else str(field.default)
    return f"`{shown}`"
