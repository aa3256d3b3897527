"""The JSON Schema of each written form, for editors. What the readers refuse beyond it, only they can tell."""

from __future__ import annotations

from typing import Any

JsonSchema = dict[str, Any]

TEXT: JsonSchema = {"type": ["string", "number", "boolean"]}
TRUTH: JsonSchema = {"anyOf": [{"type": "boolean"}, {"enum": ["yes", "no", "on", "off"]}]}

_COUNT = r"\s*[0-9]+\s*"
_SIZE = r"\s*([0-9]+(\.[0-9]+)?|\.[0-9]+)\s*([MmGgTtPp]([Ii]?[Bb])?)?\s*"


def _range(one: str, end: JsonSchema) -> JsonSchema:
    ends = {"min": end, "max": end}
    return {
        "anyOf": [
            {"type": "number", "minimum": 0},
            {"type": "string", "pattern": rf"^({one}|{one}\.\.({one})?|\s*\.\.{one})$"},
            {"type": "object", "properties": ends, "minProperties": 1, "additionalProperties": False},
        ]
    }


_COUNT_END: JsonSchema = {"type": ["integer", "string", "null"]}
_SIZE_END: JsonSchema = {"type": ["number", "string", "null"]}

COUNT_RANGE: JsonSchema = _range(_COUNT, _COUNT_END)
SIZE_RANGE: JsonSchema = _range(_SIZE, _SIZE_END)
SIZE: JsonSchema = {"anyOf": [{"type": "number", "minimum": 0}, {"type": "string", "pattern": f"^{_SIZE}$"}]}
DISK: JsonSchema = {
    "anyOf": [
        *SIZE_RANGE["anyOf"],
        {"type": "object", "properties": {"size": SIZE_RANGE}, "required": ["size"], "additionalProperties": False},
    ]
}
NAMES: JsonSchema = {
    "anyOf": [{"type": ["string", "integer"]}, {"type": "array", "items": {"type": ["string", "integer"]}}]
}
CAPABILITY: JsonSchema = {
    "anyOf": [
        {"type": "number"},
        {"type": "string", "pattern": r"^[0-9]{1,2}(\.[0-9]{1,2})?$"},
        {"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 2},
    ]
}
DURATION: JsonSchema = {
    "anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "pattern": r"^(\s*[0-9]+\s*[wdhmsWDHMS]?\s*)+$"}]
}
LIMIT: JsonSchema = {"anyOf": [*DURATION["anyOf"], {"enum": ["off", False, -1]}]}
TEXTS: JsonSchema = {"anyOf": [{"type": "string"}, {"type": "array", "items": TEXT}]}
COMMANDS: JsonSchema = {"type": "array", "items": {"type": ["string", "number", "boolean", "null"]}}
ENV: JsonSchema = {
    "anyOf": [
        {"type": "array", "items": {"type": "string", "pattern": "^[A-Za-z_][A-Za-z0-9_]*(=|$)"}},
        {
            "type": "object",
            "propertyNames": {"pattern": "^[A-Za-z_][A-Za-z0-9_]*$"},
            "additionalProperties": {"type": ["string", "number", "boolean", "null"]},
        },
    ]
}
_PORT: JsonSchema = {"type": "integer", "minimum": 1, "maximum": 65535}
PORTS: JsonSchema = {
    "type": "array",
    "items": {
        "anyOf": [
            _PORT,
            {"type": "string", "pattern": r"^((\*|[0-9]{1,5}):)?[0-9]{1,5}$"},
            {
                "type": "object",
                "properties": {"local_port": {"anyOf": [_PORT, {"type": "null"}]}, "container_port": _PORT},
                "required": ["container_port"],
                "additionalProperties": False,
            },
        ]
    },
}
PYTHON: JsonSchema = {
    "anyOf": [{"enum": [f"3.{minor}" for minor in range(8, 14)]}, {"enum": [3.8, 3.9, 3.1, 3.11, 3.12, 3.13]}]
}


def words(*choices: str) -> JsonSchema:
    """One of some words."""
    return {"enum": list(choices)}


def pattern(regex: str) -> JsonSchema:
    """A text of a certain form."""
    return {"type": "string", "pattern": regex}
