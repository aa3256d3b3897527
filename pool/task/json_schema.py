"""The JSON Schema of a task file, made from the models: an editor's YAML plug-in completes and checks with it."""

from __future__ import annotations

from typing import Any

from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import CoreSchema, core_schema

from pool.task.fields import written_default
from pool.task.schema import DEV_ENVIRONMENT, TaskConfig

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def json_schema() -> dict[str, Any]:
    """The schema, draft 2020-12. It accepts all that `pool validate` does, and some of what only that can refuse."""
    found = TaskConfig.model_json_schema(schema_generator=_Generator, mode="validation")
    for model in (found, *found.get("$defs", {}).values()):
        for name, prop in model.get("properties", {}).items():
            if name not in model.get("required", ()):
                _allow_null(prop)
    found["anyOf"] = [
        {"required": ["commands"]},
        {"required": ["image"]},
        {"required": ["entrypoint"]},
        {"properties": {"type": {"const": DEV_ENVIRONMENT}}},
    ]
    return {"$schema": DIALECT, **found, "title": "pool task file"}


class _Generator(GenerateJsonSchema):
    """pydantic's own, with defaults as one would write them and no made-up titles."""

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002
        return False

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> dict[str, Any]:
        return self.generate_inner(schema["schema"])

    def _named_required_fields_schema(self, named_required_fields: Any) -> dict[str, Any]:
        found = super()._named_required_fields_schema(named_required_fields)
        for name, _, field in named_required_fields:
            default = written_default(name, _default(field))
            if default is not None:
                found["properties"][name]["default"] = default
        return found


def _default(field: CoreSchema | Any) -> Any:
    inner = field.get("schema", {})
    return inner.get("default") if inner.get("type") == "default" else None


def _allow_null(prop: dict[str, Any]) -> None:
    """A key may be left empty, which is as if it were not written."""
    keep: dict[str, Any] = {key: prop.pop(key) for key in ("title", "description", "default") if key in prop}
    shape = dict(prop)
    prop.clear()
    options = shape["anyOf"] if list(shape) == ["anyOf"] else [shape]
    prop.update(keep)
    prop["anyOf"] = [*(option for option in options if option != {"type": "null"}), {"type": "null"}]
