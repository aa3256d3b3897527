"""The JSON Schema of a task file, made from the models: an editor's YAML plug-in completes and checks with it."""

from __future__ import annotations

from typing import Any

from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import core_schema

from pool.task.fields import PARTS, task_fields
from pool.task.schema import DEV_ENVIRONMENT, TaskConfig

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def json_schema() -> dict[str, Any]:
    """The schema, draft 2020-12. It accepts all that `pool validate` does, and some of what only that can refuse."""
    found = TaskConfig.model_json_schema(schema_generator=_Generator, mode="validation")
    for field in task_fields():
        model = found["$defs"][PARTS[field.part].__name__] if field.part else found
        if not field.required:
            _complete(model["properties"][field.name], field.default)
    found["anyOf"] = [
        {"required": ["commands"]},
        {"required": ["image"]},
        {"required": ["entrypoint"]},
        {"properties": {"type": {"const": DEV_ENVIRONMENT}}},
    ]
    return {"$schema": DIALECT, **found, "title": "pool task file"}


class _Generator(GenerateJsonSchema):
    """pydantic's own, without made-up titles and without defaults in Python's words."""

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002
        return False

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> dict[str, Any]:
        return self.generate_inner(schema["schema"])


def _complete(prop: dict[str, Any], default: Any) -> None:
    """The default as one would write it, and null: a key may be left empty, which is as if it were not written."""
    keep: dict[str, Any] = {key: prop.pop(key) for key in ("title", "description") if key in prop}
    shape = dict(prop)
    prop.clear()
    options = shape["anyOf"] if list(shape) == ["anyOf"] else [shape]
    prop.update(keep)
    if default is not None:
        prop["default"] = default
    prop["anyOf"] = [*(option for option in options if option != {"type": "null"}), {"type": "null"}]
