"""Processes of this host: telling one from its successor under the same pid, finding and killing a job's.

A job's processes are its session, the descendants of it, whatever carries the job's mark in its environment (a daemon
that forked twice and made its own session still carries it), and all of its systemd unit, where it has one: nothing
leaves a unit by itself. Nothing else is ever signalled.
"""

from __future__ import annotations

import os
import signal
import time
from typing import Any

#: Environment variable that marks every process of a job.
MARK = "POOL_JOB_ID"


def unit(job_id: str) -> str:
    """The name of the job's systemd unit, where jobs have one."""
    return "pool-job-{}.service".format(job_id)


def has_unit(job_id: str) -> bool:
    """True when this process is in the job's unit."""
    return _is_in(os.getpid(), b"/" + unit(job_id).encode())


def shuts_down() -> bool:
    """True while systemd takes this host down; False where there is no systemd."""
    import subprocess  # not before it is needed: a supervisor's start is on the way of every run

    pipe, null = subprocess.PIPE, subprocess.DEVNULL
    try:
        done = subprocess.run(["systemctl", "is-system-running"], stdout=pipe, stderr=null, timeout=5, check=False)
    except FileNotFoundError:
        return False
    except subprocess.TimeoutExpired:
        return True
    return done.stdout.strip() == b"stopping"


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


def uid(pid: int) -> int | None:
    """Whose it is, as it was started; None of one that has gone."""
    for line in _read("/proc/{}/status".format(pid)).splitlines():
        if line.startswith(b"Uid:"):
            return int(line.split()[1])
    return None


def parent(pid: int) -> int:
    """The pid of its parent; 0 of one that has gone."""
    fields = _stat(pid)
    return int(fields[1]) if fields else 0


def of_job(job_id: str, leader: dict[str, Any] | None = None, supervisor: dict[str, Any] | None = None) -> list[int]:
    """The pids of a job: the session of `leader` (an `identity`), its mark, its unit, and their descendants.

    Never this process, nor `supervisor`, which is in the unit and not of the job.

    When the leader's number has gone to another process, so has its session: the kernel keeps a number for as long as
    one process of the session lives.
    """
    mark = "{}={}".format(MARK, job_id).encode()
    group = b"/" + unit(job_id).encode()
    supervised_by = int(supervisor["pid"]) if supervisor else 0
    session = _session(leader)
    since = int(leader["start"] or 0) if leader else 0  # what is older than the job's first process is not of it
    parents, found = {}, set()
    for pid in _pids():
        fields = _stat(pid)
        if fields is None or fields[0] in "ZX" or pid == supervised_by:
            continue
        parents[pid] = int(fields[1])
        new = int(fields[19]) >= since
        if (session and int(fields[3]) == session) or (new and (mark in _environ(pid) or _is_in(pid, group))):
            found.add(pid)
    grew = True
    while grew:
        children = {pid for pid, parent in parents.items() if parent in found} - found
        found |= children
        grew = bool(children)
    return sorted(found - {os.getpid()})


def of_session(leader: dict[str, Any]) -> list[int]:
    """The pids of the session that the process named by `leader` has made, while one of them lives."""
    session = _session(leader)
    found = [(pid, _stat(pid)) for pid in _pids()] if session else []
    return [pid for pid, fields in found if fields and fields[0] not in "ZX" and int(fields[3]) == session]


def environment(pid: int) -> dict[bytes, bytes]:
    """What it was started with; nothing of one that has gone, or is another user's."""
    pairs = [variable.partition(b"=") for variable in _environ(pid)]
    return {name: value for name, _, value in pairs if name}


def command(pid: int) -> list[bytes]:
    """The words of its command line."""
    return _read("/proc/{}/cmdline".format(pid)).split(b"\0")[:-1]


def is_of_job(pid: int, job_id: str) -> bool:
    """True for a process that carries the job's mark."""
    return "{}={}".format(MARK, job_id).encode() in _environ(pid)


def is_in(pid: int, group: str) -> bool:
    """True for a process of a control group with `group` in its name."""
    return bool(group) and group.encode() in _read("/proc/{}/cgroup".format(pid))


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


def _is_in(pid: int, group: bytes) -> bool:
    """True for a process in that control group or one below it."""
    return any(group + b"/" in line + b"/" for line in _read("/proc/{}/cgroup".format(pid)).splitlines())


def _read(path: str) -> bytes:
    """A file of /proc; nothing when the process has gone, or is not ours to read. OSError when nobody can tell.

    There are many of them: half the time of `open`.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return b""
    try:
        return b"".join(iter(lambda: os.read(fd, 1 << 16), b""))
    except OSError:
        return b""
    finally:
        os.close(fd)
