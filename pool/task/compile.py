"""A task becomes a spec: references replaced, commands made a script, resources made a request, notes written.

Pure: the same task, arguments and environment give the same spec.
"""

from __future__ import annotations

import posixpath
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from pydantic_core import PydanticCustomError

from pool.config import DEFAULT_IMAGE
from pool.errors import InputError
from pool.offer import Request
from pool.run import Retry, TaskSpec
from pool.task.duration import OFF
from pool.task.env import Resolver
from pool.task.mount import parse_working_dir
from pool.task.notes import needs_docker, notes
from pool.task.options import RunOptions, apply_options
from pool.task.policy import RETRY_DEFAULT_S, Policy
from pool.task.schema import DEV_ENVIRONMENT, TASK, TaskConfig
from pool.task.script import STAY, build_script
from pool.task.size import whole_mib

#: Python of the default image where a container task names neither.
PYTHON = "3.11"
MAX_DURATION_S = {"task": 72 * 3600, "dev-environment": 6 * 3600}


def compile_task(
    task: TaskConfig, args: Sequence[str], caller_env: Mapping[str, str], default_image: str = DEFAULT_IMAGE
) -> TaskSpec:
    """The spec of `task`, options already applied; InputError when a variable has no value.

    `default_image` is that of a container whose task names none, with `{python}` in it.
    """
    resolver = Resolver(task.env, caller_env, _quoted(args))
    auth = task.registry_auth
    entrypoint = _entrypoint(task, resolver)
    spec = TaskSpec(
        type=task.type,
        request=build_request(task),
        nodes=task.nodes,
        name=task.name,
        script=None if entrypoint else _script(task, resolver),
        shell=_text(task.shell, resolver),
        env=resolver.environment(),
        working_dir=_working_dir(task, resolver),
        runtime=task.runtime,
        image=_image(task, resolver, default_image),
        entrypoint=entrypoint,
        python=task.python,
        home_dir=resolver.text(task.home_dir),
        user=_text(task.user, resolver),
        registry_auth=(resolver.text(auth.username), resolver.text(auth.password)) if auth else None,
        privileged=task.privileged,
        docker=task.docker,
        shm_mib=_shm(task),
        volumes=tuple(map(resolver.text, task.volumes)),
        files=tuple(map(resolver.text, task.files)),
        ports=task.ports,
        max_duration_s=max_duration(task),
        inactivity_s=None if task.inactivity_duration in (None, OFF) else int(task.inactivity_duration),
        stop_duration_s=task.stop_duration,
        startup_order=task.startup_order,
        stop_criteria=task.stop_criteria,
        retry=build_retry(task),
        priority=task.priority,
        schedule=task.schedule,
        utilization=_utilization(task),
        ide=task.ide,
        ide_version=task.version,
        notes=tuple(notes(task)),
    )
    return _with_argument_note(spec, args, resolver)


def request_from_options(options: RunOptions, profile: Policy | None = None) -> Request:
    """What `pool offer` asks: the options alone, without a file."""
    bare = TaskConfig.model_validate({"type": TASK, "commands": [":"]})
    return build_request(apply_options(bare, options, profile))


def _quoted(args: Sequence[str]) -> str:
    """The arguments as the shell has to read them to see the same words."""
    joined = shlex.join(args)
    if not joined.isascii():
        try:
            joined.encode()
        except UnicodeEncodeError:
            raise InputError("an argument is not UTF-8 text", hint="pass it in a file of the folder") from None
    if "\0" in joined:
        raise InputError("an argument holds a NUL character", hint="remove it")
    return joined


def build_request(task: TaskConfig) -> Request:
    """What one node needs: only what somebody wrote can make a host unfit."""
    resources = task.resources
    return Request(
        cpus=resources.cpu if resources.wrote("cpu") else None,
        memory_mib=resources.memory if resources.wrote("memory") else None,
        disk_mib=resources.disk if resources.wrote("disk") else None,
        gpu=resources.gpu.to_request() if resources.gpu else None,
        shm_mib=_shm(task),
        pool=task.pool_name,
        host=task.instance_name,
        regions=task.regions,
        instance_types=task.instance_types,
        backends=task.backends,
        spot=task.spot_policy == "spot",
        max_price=task.max_price,
        runtime="docker" if needs_docker(task) else "process",
    )


def build_retry(task: TaskConfig) -> Retry | None:
    """When a node is tried again; None is never."""
    if task.wrote("retry_policy") and task.retry_policy and not task.wrote("retry"):
        if not task.retry_policy.retry:
            return None
        duration = task.retry_policy.duration or RETRY_DEFAULT_S
        return Retry(("no-capacity", "interruption", "error"), None if duration == OFF else int(duration))
    if not task.retry.on_events:
        return None
    return Retry(task.retry.on_events, None if task.retry.duration == OFF else int(task.retry.duration))


def max_duration(task: TaskConfig) -> int | None:
    """Seconds until the run is stopped; None for `off`."""
    if task.max_duration is None:
        return MAX_DURATION_S[task.type]
    return None if task.max_duration == OFF else int(task.max_duration)


def _utilization(task: TaskConfig) -> tuple[int, int] | None:
    policy = task.utilization_policy
    return (policy.min_gpu_utilization, policy.time_window) if policy else None


def _shm(task: TaskConfig) -> int | None:
    return None if task.resources.shm_size is None else whole_mib(task.resources.shm_size)


def _text(written: str | None, resolver: Resolver) -> str | None:
    return None if written is None else resolver.text(written)


def _image(task: TaskConfig, resolver: Resolver, default: str) -> str | None:
    if task.image is None and needs_docker(task):
        return default.replace("{python}", task.python or PYTHON)
    return _text(task.image, resolver)


def _working_dir(task: TaskConfig, resolver: Resolver) -> str:
    """A value that came from the environment must stay inside the folder like a written one."""
    try:
        return posixpath.normpath(parse_working_dir(resolver.text(task.working_dir)))
    except PydanticCustomError as error:
        raise InputError(error.message(), hint=(error.context or {}).get("hint")) from None


def _entrypoint(task: TaskConfig, resolver: Resolver) -> tuple[str, ...] | None:
    if not task.entrypoint:
        return None
    try:
        words = shlex.split(resolver.text(task.entrypoint))
    except ValueError as error:
        raise InputError(f"entrypoint: {error}", hint="quote its values") from None
    return (*words, *map(resolver.text, task.commands))


def _script(task: TaskConfig, resolver: Resolver) -> str | None:
    commands = [resolver.text(command) for command in _commands(task)]
    return build_script(commands, bashrc=needs_docker(task) and not task.image)


def _commands(task: TaskConfig) -> Iterator[str]:
    yield from task.init
    yield from task.setup
    yield from task.commands
    if task.type == DEV_ENVIRONMENT:
        yield STAY


def _with_argument_note(spec: TaskSpec, args: Sequence[str], resolver: Resolver) -> TaskSpec:
    if not args or resolver.args_used:
        return spec
    note = f"the arguments {shlex.join(args)} are not used: no command has ${{{{ run.args }}}}"
    return replace(spec, notes=(*spec.notes, note))
