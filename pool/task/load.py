"""Reading a task file: bytes to a TaskConfig, or one TaskError that shows every mistake in its place."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticCustomError

from pool.task.document import Document, read_document
from pool.task.interpolation import references
from pool.task.mistake import Mistake, Path, task_error
from pool.task.scalar import show
from pool.task.schema import TaskConfig
from pool.task.suggestion import unknown_key, unsupported_type

#: Mistakes of one file that are worked out; a file with more is not a task file.
EXPLAINED = 20

M = TypeVar("M", bound=BaseModel)


def load_task(text: bytes, source: str) -> TaskConfig:
    """The task that `text` describes; `source` names the file in errors."""
    document = read_document(text, source)
    _refuse_other_types(document)
    found = list(islice(_wrong_references(document, document.value, ()), EXPLAINED))
    if found:
        raise task_error(source, document.lines, found)
    return validate(TaskConfig, document.value, (), document)


def validate(model: type[M], value: Any, path: Path, document: Document) -> M:
    """`value`, which stands at `path` of `document`, as a `model`."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        items = error.errors(include_url=False, include_input=True)
        items.sort(key=lambda item: document.place((*path, *item["loc"])).line)
        found = [_mistake(item, path, document) for item in items[:EXPLAINED]]
        raise task_error(document.source, document.lines, found) from None


def _mistake(item: Any, prefix: Path, document: Document) -> Mistake:
    context = item.get("ctx") or {}
    loc: Path = (*prefix, *item["loc"])
    kind = item["type"]
    if kind == "extra_forbidden":
        message, hint = unknown_key(item["loc"])
        return Mistake(document.place(loc, key=True), message, hint)
    if kind == "missing":
        where = f" in {'.'.join(map(str, loc[:-1]))}" if loc[:-1] else ""
        return Mistake(document.place(loc[:-1], key=True), f"{loc[-1]} is missing{where}", f"add {loc[-1]}: …")
    if kind == "pool":
        place = document.place((*loc, *context["path"]), key=context["at_key"])
        name = _nearest_key(loc, document)
        message = context["message"]
        return Mistake(place, message if not name or name in message else f"{name}: {message}", context["hint"])
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        what = loc[-1] if loc else "a task file"
        return Mistake(
            document.place(loc), f"{what} is a mapping, not {show(item['input'])}", "write `key: value` lines"
        )
    return Mistake(document.place(loc), str(item["msg"]))


def _nearest_key(path: Path, document: Document) -> str:
    """The innermost key of `path` that stands in the file: a GPU string has fields that are no keys."""
    while path and path not in document.keys:
        path = path[:-1]
    return str(path[-1]) if path else ""


def _refuse_other_types(document: Document) -> None:
    value = document.value
    if not isinstance(value, dict):
        raise document.error(f"a task file is a mapping, not {show(value)}", "start it with `type: task`")
    written = value.get("type")
    if written is None:
        raise document.error("type is missing", "start the file with `type: task`")
    reason = unsupported_type(str(written))
    if reason:
        raise document.error(*reason, path=("type",))


def _wrong_references(document: Document, value: Any, path: Path) -> Iterator[Mistake]:
    """Every `${{ }}` that refers to nothing a task has."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _wrong_references(document, item, (*path, key))
    elif isinstance(value, list):
        for i, item in enumerate(value):
            yield from _wrong_references(document, item, (*path, i))
    elif isinstance(value, str) and "{{" in value:
        try:
            for _ in references(value):
                pass
        except PydanticCustomError as error:
            context = error.context or {}
            yield Mistake(document.place(path), context["message"], context["hint"])
