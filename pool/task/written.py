"""What every part of a task file shares: unknown keys are refused, null means not written, values are frozen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, GetJsonSchemaHandler, model_validator
from pydantic_core import CoreSchema, core_schema

from pool.task.shapes import JsonSchema


@dataclass(frozen=True, slots=True, eq=False)
class Form:
    """How a field is written: the reader of its value, which alone decides, and its shape for editors.

    Used in `Annotated`. Unlike pydantic's own validators it builds no schema of the type beside it, which nobody asks.
    """

    read: Callable[[Any], Any]
    shape: JsonSchema = field(default_factory=dict)

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self.read)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchema:
        return dict(self.shape)


@dataclass(frozen=True, slots=True, eq=False)
class ShortForm:
    """The short forms of a mapping: `expand` makes the mapping of them, `shape` is theirs beside the mapping's own."""

    expand: Callable[[Any], Any]
    shape: JsonSchema

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(self.expand, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchema:
        return {"anyOf": [*self.shape["anyOf"], handler(schema)]}


class Written(BaseModel):
    """Something a person wrote. `model_fields_set` says which fields stand in the file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, value: Any) -> Any:
        if isinstance(value, dict):
            return {k: v for k, v in value.items() if v is not None or k not in cls.model_fields}
        return value

    def wrote(self, name: str) -> bool:
        """True when the field was given rather than left to its default."""
        return name in self.model_fields_set
