"""The runner's process as others see it: whether it runs, since when, how it is started and ended.

Light to import: every `pool-runner` command and each bridge begins with it, and a zipapp is compiled each time.
"""

from __future__ import annotations

import fcntl
import os
import signal
import sys
import time
from typing import Any, NoReturn

from pool.runner import durable, processes

#: In the state folder: held by the runner that serves it, and who that is.
LOCK = "daemon.lock"
FILE = "daemon.json"
#: The descriptor that a detached runner is handed the lock on, and the variable that says so.
_HANDED = 3
_LOCK_IS_HANDED = "POOL_RUNNER_LOCK"


def under_systemd() -> bool:
    """True where the runner is a service and jobs become units of the system's own systemd."""
    return os.getuid() == 0 and os.path.isdir("/run/systemd/system") and os.environ.get("POOL_RUNNER_SCOPE") != "user"


def running(state: str) -> dict[str, Any] | None:
    """The identity of the runner that serves `state`; None when none does."""
    who = durable.read_json(os.path.join(state, FILE))
    return who if processes.alive(who) else None


def is_older(state: str, files: list[str]) -> bool:
    """True when the runner of `state` has run since before one of `files` was written."""
    since = os.stat(os.path.join(state, FILE)).st_mtime_ns
    return any(os.stat(path).st_mtime_ns > since for path in files)


def stop(state: str, wait_s: float = 10.0) -> bool:
    """End the runner of `state`; its jobs run on. False when it does not go."""
    who = running(state)
    deadline = time.monotonic() + wait_s
    if who:
        processes.send([int(who["pid"])], signal.SIGTERM)
    while processes.alive(who):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def detach(state: str) -> bool:
    """Start `serve` as a process of its own: twice forked, its own session, nothing of ours held open but the lock.

    False when another serves or is just starting: of those who find none at the same moment one alone starts it.
    """
    os.makedirs(state, mode=0o711, exist_ok=True)
    lock = take(os.path.join(state, LOCK))
    if lock is None:
        return False
    if not os.fork():
        _become_runner(state, lock)
    os.close(lock)
    os.wait()
    return True


def _become_runner(state: str, lock: int) -> NoReturn:
    os.setsid()
    if os.fork():
        os._exit(0)
    null = os.open(os.devnull, os.O_RDWR)
    log = os.open(os.path.join(state, "runner.log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for fd, source in ((0, null), (1, log), (2, log), (_HANDED, lock)):
        os.dup2(source, fd)
    os.set_inheritable(_HANDED, True)
    os.closerange(_HANDED + 1, 256)
    os.environ[_LOCK_IS_HANDED] = str(_HANDED)
    argv = [sys.executable, "-I", "-S", sys.argv[0], "--state", state, "serve"]
    os.execv(argv[0], argv)


def handed() -> int | None:
    """The lock that whoever detached this process took for it."""
    lock = os.environ.pop(_LOCK_IS_HANDED, None)
    if lock:
        os.set_inheritable(int(lock), False)
    return int(lock) if lock else None


def take(path: str) -> int | None:
    """The lock of who serves; None when another has it."""
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    return lock
