"""Which processes belong to a lab, and their end: by pid and start time, never by name alone.

A process belongs to the lab in `root` when its environment carries `POOL_LAB=<root>` (sshd gives it to every session)
or the home of one of its hosts, or when it is an sshd that holds a file under `root` open (sshd overwrites its own
environment with its title).
"""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Iterable

MARKER = "POOL_LAB"


def started(pid: int) -> int | None:
    """Start time of a process in clock ticks since boot; None when there is none, or only its zombie."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    return None if fields[0] in (b"Z", b"X") else int(fields[19])


def alive(pid: int, since: int) -> bool:
    """True while that very process lives: the same pid with another start time is another process."""
    return started(pid) == since


def belonging(root: str) -> dict[int, int]:
    """Every live process of the lab in `root`: pid -> start time. Never this process or one it descends from."""
    mine = _ancestors()
    found = {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) in mine:
            continue
        since = started(int(entry))
        if since is not None and (_carries_marker(entry, root) or _is_sshd_in(entry, root)):
            found[int(entry)] = since
    return found


def end(processes: Iterable[tuple[int, int]], *, grace_s: float = 2.0) -> list[int]:
    """End these (pid, start time): TERM, KILL after the grace; returns the pids that could not be ended."""
    left = [(pid, since) for pid, since in processes if alive(pid, since)]
    for number, patience in ((signal.SIGTERM, grace_s), (signal.SIGKILL, 5.0)):
        for pid, since in left:
            if alive(pid, since):
                _signal(pid, number)
        deadline = time.monotonic() + patience
        while left and time.monotonic() < deadline:
            left = [(pid, since) for pid, since in left if alive(pid, since)]
            if left:
                time.sleep(0.02)
    return [pid for pid, _ in left]


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        return


def _carries_marker(pid: str, root: str) -> bool:
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            entries = file.read().split(b"\0")
    except OSError:
        return False
    # A job's environment is its runner's to make: it has the home of its host, not what sshd gave the session.
    home = re.compile(rf"HOME={re.escape(root)}/[^/]+/home".encode())
    return f"{MARKER}={root}".encode() in entries or any(home.fullmatch(entry) for entry in entries)


def _is_sshd_in(pid: str, root: str) -> bool:
    try:
        if not os.path.basename(os.readlink(f"/proc/{pid}/exe")).startswith("sshd"):
            return False
        for number in os.listdir(f"/proc/{pid}/fd"):
            if os.readlink(f"/proc/{pid}/fd/{number}").startswith(root + os.sep):
                return True
    except OSError:
        return False
    return False


def _ancestors() -> set[int]:
    found = set()
    pid = os.getpid()
    while pid > 0:
        found.add(pid)
        try:
            with open(f"/proc/{pid}/stat", "rb") as file:
                pid = int(file.read().rpartition(b")")[2].split()[1])
        except OSError:
            break
    return found
