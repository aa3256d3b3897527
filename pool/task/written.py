"""What every part of a task file shares: unknown keys are refused, null means not written, values are frozen."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator


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
