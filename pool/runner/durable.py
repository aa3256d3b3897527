"""Files that are whole after a crash, and the identity of this boot."""

from __future__ import annotations

import json
import os
import threading
import time
from typing import Any


def write_json(path: str, value: object, mode: int = 0o600) -> None:
    """Replace `path` by `value` as JSON: after a crash it holds the old or the new value, never a part."""
    temporary = _write_beside(path, value, mode)
    os.rename(temporary, path)
    sync_folder(os.path.dirname(path))


def create_json(path: str, value: object, mode: int = 0o600) -> None:
    """Make `path`, whole, exactly once; FileExistsError when it is there already."""
    temporary = _write_beside(path, value, mode)
    try:
        os.link(temporary, path)
    finally:
        os.unlink(temporary)
    sync_folder(os.path.dirname(path))


def _write_beside(path: str, value: object, mode: int) -> str:
    """Write and sync a file next to `path`, and return its name; on a full disk nothing is left."""
    temporary = "{}.tmp.{}.{}".format(path, os.getpid(), threading.get_ident())
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    try:
        data = json.dumps(value).encode()
        while data:  # a disk that is nearly full takes only a part
            data = data[os.write(fd, data) :]
        os.fsync(fd)
    except OSError:
        os.unlink(temporary)
        raise
    finally:
        os.close(fd)
    return temporary


def read_json(path: str) -> dict[str, Any] | None:
    """The JSON object in `path`; None when there is no such file or no such object in it.

    OSError when nobody can tell, as without a file descriptor: a job must not seem never to have started for that.
    """
    try:
        with open(path, "rb") as file:
            value = json.load(file)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def sync_folder(path: str) -> None:
    """Make a rename or a new name inside `path` survive a power cut."""
    fd = os.open(path or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def boot_identity() -> str:
    """Tells one boot from the next, in containers too, where the kernel's boot_id outlives a restart of PID 1."""
    with open("/proc/sys/kernel/random/boot_id") as file:
        boot_id = file.read().strip()
    try:
        with open("/proc/1/stat") as file:
            pid1_start = file.read().rpartition(")")[2].split()[19]
    except OSError:  # /proc is mounted with hidepid: other users' processes do not show
        pid1_start = ""
    return "{}:{}".format(boot_id, pid1_start)


def boot_clock() -> float:
    """Seconds since boot, suspended time included; no clock change moves it."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
