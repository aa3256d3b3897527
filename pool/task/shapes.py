"""The JSON Schema of each written form, for editors; its `title` is the form in words, for the reference.

A shape accepts all that its reader accepts, and a little more: what only a reader can tell stays with the reader.
"""

from __future__ import annotations

from typing import Any

JsonSchema = dict[str, Any]


def _ignoring_case(*choices: str) -> str:
    """A pattern for some words in any case: JSON Schema's patterns have no flags."""
    return "^(" + "|".join("".join(f"[{c.upper()}{c}]" for c in choice) for choice in choices) + ")$"


WORD: JsonSchema = {"title": "text", "type": ["string", "number", "boolean"]}
TRUTH: JsonSchema = {
    "title": "true or false",
    "anyOf": [
        {"type": "boolean"},
        {"type": "string", "pattern": _ignoring_case("yes", "no", "on", "off", "true", "false")},
    ],
}

_COUNT = r"\s*[0-9]+\s*"
_SIZE = r"\s*([0-9]+(\.[0-9]+)?|\.[0-9]+)\s*([MmGgTtPp]([Ii]?[Bb])?)?\s*"


def _range(title: str, one: str, end: JsonSchema) -> JsonSchema:
    ends = {"min": end, "max": end}
    return {
        "title": title,
        "anyOf": [
            {"type": "number", "minimum": 0},
            {"type": "string", "pattern": rf"^({one}|{one}\.\.({one})?\s*|\s*\.\.{one})$"},
            {"type": "object", "properties": ends, "minProperties": 1, "additionalProperties": False},
        ],
    }


COUNT_RANGE: JsonSchema = _range(
    "`4`, `4..`, `..8`, `4..8` or {min, max}", _COUNT, {"type": ["integer", "string", "null"]}
)
SIZE_RANGE: JsonSchema = _range(
    "`8GB`, `8GB..`, `..1TB`, `512MB..8GB` or {min, max}; a bare number is GB",
    _SIZE,
    {"type": ["number", "string", "null"]},
)
SIZE: JsonSchema = {
    "title": "`8GB`, `512MB`; a bare number is GB",
    "anyOf": [{"type": "number", "minimum": 0}, {"type": "string", "pattern": f"^{_SIZE}$"}],
}
DISK: JsonSchema = {
    "title": "`100GB`, `100GB..`, {min, max} or {size}",
    "anyOf": [
        *SIZE_RANGE["anyOf"],
        {"type": "object", "properties": {"size": SIZE_RANGE}, "required": ["size"], "additionalProperties": False},
    ],
}
_CARD: JsonSchema = {"type": ["string", "integer"]}
NAMES: JsonSchema = {"title": "a name or a list of names", "anyOf": [_CARD, {"type": "array", "items": _CARD}]}
VENDOR: JsonSchema = {
    "title": "`nvidia`, `amd`",
    "type": "string",
    "pattern": _ignoring_case("nvidia", "amd"),
}
GPU: JsonSchema = {"anyOf": [{"type": "integer", "minimum": 0}, {"type": "string"}]}
CAPABILITY: JsonSchema = {
    "title": "`8.0`",
    "anyOf": [
        {"type": "number"},
        {"type": "string", "pattern": r"^\s*[0-9]{1,2}(\.[0-9]{1,2})?\s*$"},
        {"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 2},
    ],
}
DURATION: JsonSchema = {
    "title": "`90s`, `30m`, `2h`, `1d`, `1w`, `1h30m` or seconds",
    "anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "pattern": r"^(\s*[0-9]+\s*[wdhmsWDHMS]?\s*)+$"}],
}
LIMIT: JsonSchema = {
    "title": "`off`, `90s`, `30m`, `2h`, `1d`, `1w`, `1h30m` or seconds",
    "anyOf": [*DURATION["anyOf"], {"enum": ["off", "Off", "OFF", False, -1]}],
}
ENTRYPOINT: JsonSchema = {
    "title": "text, or a list of words",
    "anyOf": [{"type": ["string", "number", "boolean"]}, {"type": "array", "items": WORD}],
}
TEXTS: JsonSchema = {"title": "list", "anyOf": [WORD, {"type": "array", "items": WORD}]}
COMMANDS: JsonSchema = {
    "title": "list of commands",
    "type": "array",
    "items": {"type": ["string", "number", "boolean", "null"]},
}
ENV: JsonSchema = {
    "title": "list of `NAME=value` or `NAME`, or a map",
    "anyOf": [
        {"type": "array", "items": {"type": ["string", "boolean"], "pattern": "^[A-Za-z_][A-Za-z0-9_]*(=|$)"}},
        {
            "type": "object",
            "propertyNames": {"pattern": "^[A-Za-z_][A-Za-z0-9_]*$"},
            "additionalProperties": {"type": ["string", "number", "boolean", "null"]},
        },
    ],
}
_PORT: JsonSchema = {"type": "integer", "minimum": 1, "maximum": 65535}
PORTS: JsonSchema = {
    "title": 'list of `6000`, `80:8080`, `"*:8080"` or {local_port, container_port}',
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
    "title": "`3.8` to `3.13`",
    "enum": [*(f"3.{minor}" for minor in range(8, 14)), 3.8, 3.9, 3.1, 3.11, 3.12, 3.13],
}
PRICE: JsonSchema = {
    "title": "number above 0",
    "anyOf": [{"type": "number", "exclusiveMinimum": 0}, {"type": "string", "pattern": r"^[+0-9.eE-]+$"}],
}
NONE: JsonSchema = {"title": "list", "type": "array", "maxItems": 0}
MOUNTS: JsonSchema = {
    "title": "list",
    "anyOf": [WORD, {"type": "array", "items": {"type": [*WORD["type"], "object"]}}],
}
CRON: JsonSchema = {
    "title": "{cron}",
    "type": "object",
    "properties": {"cron": TEXTS},
    "required": ["cron"],
    "additionalProperties": False,
}


def words(*choices: str) -> JsonSchema:
    """One of some words."""
    return {"title": ", ".join(f"`{choice}`" for choice in choices), "enum": list(choices)}


def pattern(title: str, regex: str) -> JsonSchema:
    """A text of a certain form."""
    return {"title": title, "type": "string", "pattern": regex}


def whole_number(low: int, high: int | None = None) -> JsonSchema:
    """A whole number within bounds; `"2"` is understood too."""
    title = f"whole number, {low} to {high}" if high is not None else f"whole number, at least {low}"
    ends = {"minimum": low} if high is None else {"minimum": low, "maximum": high}
    return {"title": title, "anyOf": [{"type": "integer", **ends}, {"type": "string", "pattern": "^[0-9]+$"}]}
