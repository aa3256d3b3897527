"""What the command line of `pool run` may say over a task file, and how the two and a profile become one.

Precedence: command line, then task file, then profile, then the default.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import ValidationError

from pool.errors import InputError
from pool.offer import Range
from pool.run import Port
from pool.task.duration import parse_limit
from pool.task.env import parse_entry
from pool.task.gpu import GpuForm
from pool.task.mistake import mistake
from pool.task.mount import parse_working_dir
from pool.task.policy import Limit, Policy, Retry, retry_fields
from pool.task.port import equal_port, override_ports, parse_ports
from pool.task.resources import parse_cpu, parse_disk, parse_memory
from pool.task.scalar import filled, listed, number, one_of, text, truth, whole
from pool.task.schema import NODES_MAX, TaskConfig, parse_name
from pool.task.size import parse_size
from pool.task.written import Form, Written


def _parse_env(value: Any) -> tuple[str, ...]:
    items = listed(text, "NAME=value")(value)
    seen: set[str] = set()
    for item in items:
        name, _ = parse_entry(item)
        if name in seen:
            raise mistake(f"{name} is given twice", "keep one of the two")
        seen.add(name)
    return items


def _texts(what: str) -> Form:
    return Form(listed(filled, what))


class RunOptions(Written):
    """The options of one `pool run`; what was not given is not set."""

    name: Annotated[str | None, Form(parse_name)] = None
    nodes: Annotated[int | None, Form(whole("nodes", 1, NODES_MAX))] = None
    env: Annotated[tuple[str, ...], Form(_parse_env)] = ()  #: `NAME=value` or `NAME`
    working_dir: Annotated[str | None, Form(parse_working_dir)] = None
    gpu: GpuForm | None = None
    cpu: Annotated[Range | None, Form(parse_cpu)] = None
    memory: Annotated[Range | None, Form(parse_memory)] = None
    disk: Annotated[Range | None, Form(parse_disk)] = None
    shm_size: Annotated[float | None, Form(parse_size)] = None
    ports: Annotated[tuple[Port, ...], Form(parse_ports)] = ()
    max_duration: Annotated[Limit | None, Form(parse_limit)] = None
    retry: Annotated[bool | None, Form(truth)] = None
    profile: Annotated[str | None, Form(filled)] = None
    pool: Annotated[str | None, Form(filled)] = None
    instance: Annotated[str | None, Form(filled)] = None
    regions: Annotated[tuple[str, ...] | None, _texts("regions")] = None
    instance_types: Annotated[tuple[str, ...] | None, _texts("instance types")] = None
    backends: Annotated[tuple[str, ...] | None, _texts("backends")] = None
    spot_policy: Annotated[str | None, Form(one_of("spot_policy", ("spot", "on-demand", "auto")))] = None
    max_price: Annotated[float | None, Form(number("max_price", 0))] = None
    priority: Annotated[int | None, Form(whole("priority", 0, 100))] = None
    runtime: Annotated[str | None, Form(one_of("runtime", ("auto", "docker", "process")))] = None


#: Where an option's name differs from the option as typed.
_FLAGS = {
    "env": "-e",
    "ports": "-p",
    "regions": "--region",
    "instance_types": "--instance-type",
    "backends": "--backend",
}
#: Options that set a field of the same meaning, by the field's name.
_FIELDS = {
    "name": "name",
    "nodes": "nodes",
    "working_dir": "working_dir",
    "max_duration": "max_duration",
    "pool": "pool_name",
    "instance": "instance_name",
    "regions": "regions",
    "instance_types": "instance_types",
    "backends": "backends",
    "spot_policy": "spot_policy",
    "max_price": "max_price",
    "priority": "priority",
    "runtime": "runtime",
}
_RESOURCES = ("gpu", "cpu", "memory", "disk", "shm_size")


def parse_options(given: Mapping[str, Any]) -> RunOptions:
    """The options as the caller sent them; InputError names the flag that is wrong and the right spelling."""
    try:
        return RunOptions.model_validate(dict(given))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        name = str(first["loc"][0]) if first["loc"] else ""
        flag = _FLAGS.get(name, "--" + name.replace("_", "-"))
        context = first.get("ctx") or {}
        message = context.get("message") or ("is not an option" if first["type"] == "extra_forbidden" else first["msg"])
        raise InputError(f"{flag}: {message}", hint=context.get("hint")) from None


def apply_options(task: TaskConfig, options: RunOptions | None = None, profile: Policy | None = None) -> TaskConfig:
    """`task` with `profile` under it and `options` over it; InputError when the ports of both collide."""
    changes: dict[str, Any] = _from_profile(task, profile) if profile else {}
    if options is None:
        return task.model_copy(update=changes)
    for option, field in _FIELDS.items():
        if options.wrote(option):
            changes[field] = getattr(options, option)
    if options.wrote("retry"):
        changes["retry"] = Retry.model_validate(retry_fields(options.retry))
    resources = {name: getattr(options, name) for name in _RESOURCES if options.wrote(name)}
    if resources:
        changes["resources"] = task.resources.model_copy(update=resources)
    if options.env:
        changes["env"] = {**task.env, **dict(parse_entry(item) for item in options.env)}
    if options.ports:
        changes["ports"] = merged_ports(task.ports, options)
    return task.model_copy(update=changes)


def _from_profile(task: TaskConfig, profile: Policy) -> dict[str, Any]:
    written = [name for name in Policy.model_fields if profile.wrote(name) and not task.wrote(name)]
    if task.wrote("retry") or task.wrote("retry_policy"):
        written = [name for name in written if name not in ("retry", "retry_policy")]
    return {name: getattr(profile, name) for name in written}


def merged_ports(declared: tuple[Port, ...], options: RunOptions) -> tuple[Port, ...]:
    """The ports of a task with those of the options added, or over them; InputError when they collide."""
    ports = override_ports(declared, options.ports)
    clash = equal_port(ports)
    if clash:
        raise InputError(f"-p: {clash[1]}", hint="add -p LOCAL:CONTAINER with another local port")
    return ports
