"""A task as data for programs: every field its type has, defaults written out, one form for each kind of value.

Ranges are {"min", "max"} (None is open), sizes are GB, durations are seconds or "off", env is a map whose None comes
from the caller, and a port's `local_port` None is any free one.
"""

from __future__ import annotations

from typing import Any

from pool.offer import Range
from pool.task.compile import MAX_DURATION_S, build_retry
from pool.task.duration import OFF
from pool.task.gpu import Gpu
from pool.task.schema import DEV_ENVIRONMENT, DEV_ONLY, TaskConfig
from pool.task.size import gigabytes


def normal_form(task: TaskConfig) -> dict[str, Any]:
    """`task` as JSON can hold it; loading it again gives the same task."""
    found: dict[str, Any] = {}
    for name in TaskConfig.model_fields:
        value = getattr(task, name)
        found[name] = list(value) if isinstance(value, tuple) else value
    retry = build_retry(task)
    found.update(
        env=dict(task.env),
        ports=[{"local_port": port.local, "container_port": port.container} for port in task.ports],
        resources=_resources(task),
        registry_auth=task.registry_auth.model_dump() if task.registry_auth else None,
        retry={"on_events": list(retry.on_events), "duration": retry.duration_s or OFF} if retry else None,
        max_duration=MAX_DURATION_S[task.type] if task.max_duration is None else task.max_duration,
        utilization_policy=task.utilization_policy.model_dump() if task.utilization_policy else None,
        schedule={"cron": list(task.schedule)} if task.schedule else None,
    )
    left_out = {"retry_policy"} if task.type == DEV_ENVIRONMENT else {"retry_policy", *DEV_ONLY}
    return {name: value for name, value in found.items() if name not in left_out}


def _resources(task: TaskConfig) -> dict[str, Any]:
    resources = task.resources
    return {
        "cpu": _range(resources.cpu),
        "memory": _sizes(resources.memory),
        "shm_size": gigabytes(resources.shm_size),
        "gpu": _gpu(resources.gpu) if resources.gpu else None,
        "disk": _sizes(resources.disk),
    }


def _gpu(gpu: Gpu) -> dict[str, Any]:
    return {
        "vendor": gpu.vendor,
        "name": list(gpu.name),
        "count": _range(gpu.count),
        "memory": _sizes(gpu.memory),
        "total_memory": _sizes(gpu.total_memory),
        "compute_capability": list(gpu.compute_capability) if gpu.compute_capability else None,
    }


def _range(found: Range) -> dict[str, Any]:
    return {"min": found.min, "max": found.max}


def _sizes(found: Range | None) -> dict[str, Any] | None:
    return {"min": gigabytes(found.min), "max": gigabytes(found.max)} if found else None
