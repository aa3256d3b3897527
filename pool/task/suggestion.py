"""What somebody probably meant: the nearest known key, the field that does the work, a type that is not supported."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Final

from pool.task.gpu import Gpu
from pool.task.policy import Retry, RetryPolicy, Utilization
from pool.task.resources import Resources
from pool.task.schema import RegistryAuth, TaskConfig
from pool.task.written import Written

_MODELS: Final[dict[tuple[str, ...], type[Written]]] = {
    (): TaskConfig,
    ("resources",): Resources,
    ("resources", "gpu"): Gpu,
    ("registry_auth",): RegistryAuth,
    ("retry",): Retry,
    ("retry_policy",): RetryPolicy,
    ("utilization_policy",): Utilization,
}

#: Keys that other tools have, and where their work is done here.
_MEANT: Final[dict[str, str]] = {
    "cmd": "commands",
    "command": "commands",
    "run": "commands",
    "script": "commands",
    "environment": "env",
    "variables": "env",
    "num_nodes": "nodes",
    "replicas": "nodes",
    "timeout": "max_duration",
    "time": "max_duration",
    "container": "image",
    "docker_image": "image",
    "workdir": "working_dir",
    "cwd": "working_dir",
    "mounts": "volumes",
    "pool": "pool_name",
    "instance": "instance_name",
    "host": "instance_name",
    "region": "regions",
    "idle_duration": "termination_idle_time",
    "gpus": "resources: {gpu: …}",
    "gpu": "resources: {gpu: …}",
    "accelerators": "resources: {gpu: …}",
    "cpu": "resources: {cpu: …}",
    "cpus": "resources: {cpu: …}",
    "memory": "resources: {memory: …}",
    "mem": "resources: {memory: …}",
    "ram": "resources: {memory: …}",
    "disk": "resources: {disk: …}",
    "shm_size": "resources: {shm_size: …}",
}
_MEANT_RESOURCES: Final = {
    "gpus": "gpu",
    "cpus": "cpu",
    "ram": "memory",
    "mem": "memory",
    "storage": "disk",
    "shm": "shm_size",
}

_UNSUPPORTED: Final = {
    "service": (
        "services are not supported, because a pool runs jobs and routes no web traffic to them",
        "write type: task with ports, and reach them with `pool attach`",
    ),
    "fleet": (
        "fleets are not supported, because a pool's hosts are added one by one and kept",
        "add each host with `pool add-ssh`",
    ),
    "gateway": (
        "gateways are not supported, because a pool opens no port to the world",
        "forward ports with `pool attach`",
    ),
    "volume": (
        "volumes in files of their own are not supported, because a pool has no cloud to make them",
        "write volumes: [/host:/job] in a task",
    ),
}


def unsupported_type(written: str) -> tuple[str, str] | None:
    """Why this `type` is known but not supported, and what to do instead; None for all others."""
    return _UNSUPPORTED.get(written.strip().lower())


def unknown_key(loc: Sequence[str | int]) -> tuple[str, str | None]:
    """The message and the fix for the unknown key at `loc`."""
    parent = tuple(str(part) for part in loc[:-1])
    key = str(loc[-1])[:60]
    model = _MODELS.get(parent)
    known = list(model.model_fields) if model else []
    inside = f" in {'.'.join(parent)}" if parent else ""
    shown = "".join(c if c.isprintable() else "?" for c in key)
    message = f'unknown key "{shown}"{inside}'
    meant = _MEANT if not parent else _MEANT_RESOURCES if parent == ("resources",) else {}
    found = meant.get(key.lower())
    if found is None:
        near = get_close_matches(key.lower().replace("-", "_"), known, 1, 0.6)
        found = near[0] if near else None
    if found:
        return message, f"did you mean {found}?" if "{" not in found else f"write {found}"
    return (
        message,
        f"{parent[-1]} has {', '.join(known)}" if parent and known else "remove it; `pool schema` lists every key",
    )
