"""The fields of each part of a task file as a reader sees them: form in words, default as written, effect."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic.fields import FieldInfo

from pool.task.duration import format_duration
from pool.task.gpu import Gpu
from pool.task.policy import Policy, Retry, RetryPolicy, Utilization
from pool.task.resources import Resources
from pool.task.schema import RegistryAuth, TaskConfig
from pool.task.size import format_count, format_range, format_size
from pool.task.written import Form, Written

#: Where a part with keys of its own stands in the file, outermost first.
PARTS: dict[str, type[Written]] = {
    "": TaskConfig,
    "resources": Resources,
    "resources.gpu": Gpu,
    "registry_auth": RegistryAuth,
    "retry": Retry,
    "retry_policy": RetryPolicy,
    "utilization_policy": Utilization,
}

#: Parts that a short form may stand for.
_FORMS = {
    "resources": "mapping, below",
    "gpu": "`2`, `A100`, `A100:80GB:2`, `A10G,A100`, `24GB..40GB:2`, or a mapping, below",
    "registry_auth": "mapping, below",
    "retry": "true or false, or a mapping, below",
    "retry_policy": "mapping, below",
    "utilization_policy": "mapping, below",
}
_COUNTS, _SIZES, _DURATIONS = ("cpu", "count"), ("memory", "disk"), ("stop_duration", "duration")


@dataclass(frozen=True, slots=True)
class TaskField:
    """One key of a task file."""

    part: str  #: "" for the file itself, else the dotted key of the mapping it stands in
    name: str
    form: str
    default: Any  #: as one would write it; None where nothing is the default
    effect: str
    required: bool


def task_fields() -> list[TaskField]:
    """Every key of a task file, part by part."""
    return [_field(part, name, info) for part, model in PARTS.items() for name, info in _own_first(model)]


def _own_first(model: type[Written]) -> list[tuple[str, FieldInfo]]:
    """A task's own fields, then those that it shares with a profile."""
    return sorted(model.model_fields.items(), key=lambda item: model is TaskConfig and item[0] in Policy.model_fields)


def _field(part: str, name: str, info: FieldInfo) -> TaskField:
    shape = next((m.shape for m in info.metadata if isinstance(m, Form)), {})
    form = str(shape.get("title") or _FORMS.get(name) or "text")
    required = info.is_required()
    default = None if required else written_default(name, info.default)
    return TaskField(part, name, form, default, info.description or "", required)


def written_default(name: str, value: Any) -> Any:
    """The default of the field `name` as one would write it in a file; None for nothing."""
    if value is None or value == () or value == {} or isinstance(value, Resources):
        return None
    if isinstance(value, Retry):
        return False
    if name in _COUNTS:
        return format_range(value, format_count, bare_is_minimum=False)
    if name in _SIZES:
        return format_range(value, format_size, bare_is_minimum=True)
    if name in _DURATIONS:
        return format_duration(value)
    return list(value) if isinstance(value, tuple) else value
