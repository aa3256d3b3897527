"""How a server reads what a job writes, and asks where it is; see service.py."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from typing import Any

from pool.runner.activity import Activity
from pool.runner.frames import MAX_BODY
from pool.runner.ledger import RefusedError
from pool.runner.peer import Owners, Peer


class LogVerbs:
    """One method a verb."""

    def __init__(self, owners: Owners, changed: threading.Condition, activity: Activity) -> None:
        """`changed` is notified when something in a job's folder has changed."""
        self._owners, self._changed, self._activity = owners, changed, activity

    def verb_read_log(self, peer: Peer, head: dict[str, Any], _: bytes) -> tuple[dict[str, Any], bytes]:
        """Up to `max` log bytes from `offset`; waits up to `wait_s` for the first. Past the end answers the size."""
        folder = self._owners.own(peer, head["job"])
        offset, limit = int(head["offset"]), min(int(head.get("max", MAX_BODY)), MAX_BODY)
        if offset < 0 or limit < 0:
            raise RefusedError("bad_request", "not a place in a log: {} + {}".format(offset, limit))
        wait_s = min(float(head.get("wait_s", 0)), 30.0)
        deadline = time.monotonic() + wait_s
        with self._activity.at(folder.job) if wait_s else contextlib.nullcontext(), self._changed:
            while folder.log_bytes <= offset and folder.exit is None:
                left = deadline - time.monotonic()
                if left <= 0:
                    break
                self._changed.wait(left)
        ended = folder.exit  # read before the bytes: an end seen here means that the log has its last byte
        data = _read(folder.log, offset, limit)
        size = folder.log_bytes
        return {"offset": offset, "size": size, "eof": ended is not None and offset + len(data) >= size}, data

    def verb_where(self, peer: Peer, head: dict[str, Any], _: bytes) -> dict[str, Any]:
        """The folder that the job's commands start in, as the job sees it; None where only its image knows."""
        spec = self._owners.own(peer, head["job"]).spec
        inside = spec["container"]["config"].get("WorkingDir") if "container" in spec else spec["cwd"]
        return {"folder": inside}


def _read(path: str, offset: int, limit: int) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return b""
    try:
        return os.pread(fd, limit, offset)
    finally:
        os.close(fd)
