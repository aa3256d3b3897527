"""How much of its host a job may use, the same for a process and for a container.

An upper end that was written is a limit. The share that the job was given is none: it weighs when the host has too
little. How many processes a job may have no task says: enough for any training, and never so many that the host cannot
start its own.
"""

from __future__ import annotations

import glob
import os
from typing import Any

from pool.runner import policy
from pool.runner.ledger import RefusedError

#: Where a host has its devices for RDMA.
RDMA = "/dev/infiniband"
_PIDS = 32768


def limits(state: str, asked: dict[str, Any]) -> dict[str, Any]:
    """`{"cpus", "cpus_max", "memory_max", "pids", "rdma"}`: share and cores, bytes, threads of all processes.

    None where there is no limit; `rdma`: it has the host's devices for that, and may lock as much memory as it likes.
    """
    given = asked.get("limits") or {}
    most, memory = given.get("cpus_max"), given.get("memory_max_mib")
    return {
        "cpus": float(given.get("cpus") or 0) or None,
        "cpus_max": min(float(most), float(os.cpu_count() or 1)) if most else None,
        "memory_max": int(memory) << 20 if memory else None,
        "pids": _pids(state),
        "rdma": bool(glob.glob(RDMA + "/*")),
    }


def _pids(state: str) -> int:
    asked = policy.read(state).get("pids")
    if asked is None:
        return min(_PIDS, _number("pid_max") // 2, _number("threads-max") // 2)
    if isinstance(asked, bool) or not isinstance(asked, int) or asked < 1:
        raise RefusedError("bad_policy", '{} of this host: pids is a number, as {{"pids": 4096}}'.format(policy.FILE))
    return asked


def _number(name: str) -> int:
    with open("/proc/sys/kernel/" + name) as file:
        return int(file.read())
