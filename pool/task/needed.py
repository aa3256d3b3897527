"""Which values a task needs from the caller's environment: these names leave it, and no others."""

from __future__ import annotations

from collections.abc import Iterator

from pool.task.env import parse_entry
from pool.task.interpolation import env_references
from pool.task.options import RunOptions
from pool.task.schema import TaskConfig


def needed_env(task: TaskConfig, options: RunOptions | None = None) -> list[str]:
    """The names whose values the caller's environment must give, in a stable order, each once."""
    env = dict(task.env)
    env.update(dict(parse_entry(item) for item in options.env) if options else {})
    names = [name for name, value in env.items() if value is None]
    for found in _texts(task):
        names += [name for name in env_references(found) if env.get(name) is None]
    for name, value in env.items():
        names += [n for n in env_references(value or "") if n == name or env.get(n) is None]
    return list(dict.fromkeys(names))


def _texts(task: TaskConfig) -> Iterator[str]:
    """Every text of the task that may hold references, env values apart."""
    yield from (*task.commands, *task.setup, *task.init, *task.volumes, *task.files)
    for single in (task.image, task.entrypoint, task.working_dir, task.home_dir, task.user, task.shell):
        if single:
            yield single
    if task.registry_auth:
        yield from (task.registry_auth.username, task.registry_auth.password)
