"""Processes of this host: telling one from its successor under the same pid, finding and killing a job's.

A job's processes are its session, the descendants of it, and whatever carries the job's mark in its environment
(a daemon that forked twice and made its own session still carries it). Nothing else is ever signalled.
"""

from __future__ import annotations

import os
import signal
import time
from typing import Any

#: Environment variable that marks every process of a job.
MARK = "POOL_JOB_ID"


def identity(pid: int) -> dict[str, Any]:
    """`{"pid", "start"}`: names this very process, not a later one under the same number."""
    fields = _stat(pid)
    return {"pid": pid, "start": fields[19] if fields else None}


def alive(who: dict[str, Any] | None) -> bool:
    """True while the process that `identity` named still runs; a zombie does not."""
    if who is None or who.get("start") is None:
        return False
    fields = _stat(int(who["pid"]))
    return fields is not None and fields[0] not in "ZX" and fields[19] == who["start"]


def of_job(job_id: str, leader: dict[str, Any] | None = None) -> list[int]:
    """The pids of a job: the session of `leader` (an `identity`), its mark, and their descendants; never this process.

    When the leader's number has gone to another process, so has its session: the kernel keeps a number for as long as
    one process of the session lives.
    """
    mark = "{}={}".format(MARK, job_id).encode()
    session = _session(leader)
    since = int(leader["start"] or 0) if leader else 0  # what is older than the job's first process is not of it
    parents, found = {}, set()
    for pid in _pids():
        fields = _stat(pid)
        if fields is None or fields[0] in "ZX":
            continue
        parents[pid] = int(fields[1])
        if (session and int(fields[3]) == session) or (int(fields[19]) >= since and mark in _environ(pid)):
            found.add(pid)
    grew = True
    while grew:
        children = {pid for pid, parent in parents.items() if parent in found} - found
        found |= children
        grew = bool(children)
    return sorted(found - {os.getpid()})


def marked_jobs() -> set[str]:
    """The ids of all jobs of which a process lives, as far as the marks tell."""
    prefix = MARK.encode() + b"="
    found = set()
    for pid in _pids():
        for variable in _environ(pid):
            if variable.startswith(prefix):
                found.add(variable[len(prefix) :].decode(errors="replace"))
    return found


def send(pids: list[int], number: int) -> None:
    """Signal each pid; one that is gone is passed over."""
    for pid in pids:
        try:
            os.kill(pid, number)
        except (ProcessLookupError, PermissionError):
            continue


def kill_job(job_id: str, leader: dict[str, Any] | None, soft_s: float, deadline_s: float = 30.0) -> bool:
    """End what is left of a job: SIGTERM, after `soft_s` SIGKILL. True when nothing is left at the end."""
    began = time.monotonic()
    left = of_job(job_id, leader)
    if left and soft_s > 0:
        send(left, signal.SIGTERM)
    while left:
        waited = time.monotonic() - began
        if waited > deadline_s:
            return False
        if waited >= soft_s:
            send(left, signal.SIGKILL)
        time.sleep(0.02)
        left = of_job(job_id, leader)
    return True


def _session(leader: dict[str, Any] | None) -> int | None:
    if not leader:
        return None
    fields = _stat(int(leader["pid"]))
    return int(leader["pid"]) if fields is None or fields[19] == leader["start"] else None


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat from `state` on (index 0); the name before them may hold anything."""
    return _read("/proc/{}/stat".format(pid)).rpartition(b")")[2].decode().split() or None


def _environ(pid: int) -> list[bytes]:
    return _read("/proc/{}/environ".format(pid)).split(b"\0")


def _read(path: str) -> bytes:
    """A file of /proc; nothing when the process has gone. There are many of them: half the time of `open`."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return b"".join(iter(lambda: os.read(fd, 1 << 16), b""))
    except OSError:
        return b""
    finally:
        os.close(fd)
