"""A job's systemd unit: how it is named, ended, and what it may use; where jobs have one."""

from __future__ import annotations

from typing import Any

from pool.runner import devices, oom, processes

#: Less memory, and the supervisor, whom the kernel spares, would wait for some for ever.
_SUPERVISOR = 32 << 20


def argv(job: str, spec: dict[str, Any]) -> list[str]:
    """The beginning of the command that runs the job's supervisor in a transient unit: one a job.

    KillMode=mixed: to be stopped is the supervisor's business, which asks the job to end; whatever is left once the
    supervisor has gone, even killed, is killed at once.
    """
    properties = ["Type=exec", "KillMode=mixed", "After=docker.service"]
    properties += ["OOMPolicy=continue", "OOMScoreAdjust={}".format(oom.SPARED)]
    if "container" not in spec:  # a container is the engine's, and has limits and devices from there
        properties += [*_limits(spec["limits"]), *devices.properties(spec["gpus"])]
    return [
        "systemd-run",
        "--quiet",
        "--collect",
        "--unit={}".format(processes.unit(job)),
        "--slice=pool.slice",
        *("--property=" + each for each in properties),
        "--",
    ]


def _limits(limits: dict[str, Any]) -> list[str]:
    """As `limits` has them, in systemd's words. The supervisor, some 12 MB and a process, counts as the job's."""
    found = ["TasksMax={}".format(limits["pids"])]
    if limits["cpus_max"]:
        found.append("CPUQuota={}%".format(max(1, round(limits["cpus_max"] * 100))))
    if limits["cpus"]:  # a unit that says nothing weighs 100: as one core
        found.append("CPUWeight={}".format(min(max(1, round(limits["cpus"] * 100)), 10000)))
    if limits["memory_max"]:
        found += ["MemoryMax={}".format(max(limits["memory_max"], _SUPERVISOR)), "MemorySwapMax=0"]
    if limits["rdma"]:
        found.append("LimitMEMLOCK=infinity")
    return found
