"""What the plan tells about a task: fields that have no effect on a pool, or less than one may think."""

from __future__ import annotations

from collections.abc import Iterator

from pool.task.env import OURS
from pool.task.schema import TaskConfig

#: Backends that are this pool.
POOL_BACKENDS = ("ssh", "remote")


def notes(task: TaskConfig) -> Iterator[str]:
    """One sentence for each, in the order of the reference."""
    wrote = task.wrote
    if task.backends and not set(task.backends) & set(POOL_BACKENDS):
        yield f"backends: no host matches {', '.join(task.backends)}: a pool's hosts are of backend ssh"
    if task.spot_policy == "spot":
        yield "spot_policy: spot matches no host: a pool's hosts are on-demand"
    elif wrote("spot_policy"):
        yield f"spot_policy: {task.spot_policy} has no effect: a pool's hosts are on-demand"
    fleet = [name for name in ("creation_policy", "termination_policy", "termination_idle_time") if wrote(name)]
    if fleet:
        has = "has" if len(fleet) == 1 else "have"
        yield f"{', '.join(fleet)} {has} no effect: a pool reuses its hosts, it neither creates nor destroys any"
    if wrote("retry_policy"):
        yield "retry_policy is deprecated: write retry"
    if task.nvcc:
        yield f"nvcc: {_nvcc(task)}"
    if task.schedule:
        yield "schedule has no effect yet: the run starts now"
    if task.utilization_policy:
        yield "utilization_policy has no effect yet: the run is not stopped when its GPUs are idle"
    if wrote("repos") and task.repos:
        yield "repos: . has no effect: a run always takes its folder along"
    yield from _process_notes(task)
    ours = [name for name in task.env if name in OURS]
    if ours:
        has = "has" if len(ours) == 1 else "have"
        yield f"env: {', '.join(ours)} {has} no effect: a job sees the GPUs it was given and no others"
    if task.nodes == 1:
        for name in ("startup_order", "stop_criteria"):
            if wrote(name) and getattr(task, name) not in ("any", "all-done"):
                yield f"{name} has no effect: the run has one node"


def _nvcc(task: TaskConfig) -> str:
    if not needs_docker(task):
        return "a process uses the CUDA toolkit of its host"
    if task.image:
        return "the image has it or not; nothing is added to an image"
    return "the default image has none; `conda install cuda` in setup brings it"


def _process_notes(task: TaskConfig) -> Iterator[str]:
    """Fields of a container, on a task that runs without one."""
    if needs_docker(task):
        return
    for name in ("home_dir", "registry_auth", "user", "privileged", "docker", "volumes", "image", "python"):
        if wrote_something(task, name):
            yield f"{name} has no effect: the task runs as a process on the host, without a container"
    if task.resources.wrote("shm_size"):
        yield "resources.shm_size has no effect: a process has the host's own /dev/shm"


def needs_docker(task: TaskConfig) -> bool:
    """True when the task runs in a container."""
    return task.runtime == "docker" or (task.runtime == "auto" and bool(task.image or task.python))


def wrote_something(task: TaskConfig, name: str) -> bool:
    """True when `name` was written with a value that would do something."""
    return task.wrote(name) and bool(getattr(task, name))
