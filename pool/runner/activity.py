"""When somebody was last connected to a job: an open shell, a forwarded connection, a reader of its log.

The runner writes it down, the job's supervisor reads it: what nobody uses ends also where no server is left.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from typing import Iterator

from pool.runner import durable
from pool.runner.jobs import JobFolder

#: How often it is written down while somebody is connected.
EVERY_S = 1.0
#: By how much what is written may lag behind, on a busy host too.
LAG_S = 3.0


class Activity:
    """Of the jobs of one state folder. Safe to use from several threads, and cheap: a thread of its own writes."""

    def __init__(self, state: str) -> None:
        self._state = state
        self._news = threading.Condition()
        self._connected: dict[str, int] = {}
        self._seen: set[str] = set()  # since it was last written down
        threading.Thread(target=self._write_forever, name="activity", daemon=True).start()

    @contextlib.contextmanager
    def at(self, job: str) -> Iterator[None]:
        """Somebody is connected to the job for as long as this lasts."""
        self._count(job, 1)
        try:
            yield
        finally:
            self._count(job, -1)

    def _count(self, job: str, change: int) -> None:
        with self._news:
            self._seen.add(job)
            self._connected[job] = self._connected.get(job, 0) + change
            if not self._connected[job]:
                del self._connected[job]
            self._news.notify()

    def _write_forever(self) -> None:
        while True:
            with self._news:
                self._news.wait_for(lambda: self._seen or self._connected)
                jobs, self._seen = self._seen | set(self._connected), set()
            for job in jobs:
                with contextlib.suppress(OSError):  # one that does not ask for it, or is gone
                    _write(JobFolder(self._state, job), os.O_WRONLY)
            time.sleep(EVERY_S)


def begin(folder: JobFolder) -> None:
    """Have it written down for this job, from now on; its start counts."""
    _write(folder, os.O_WRONLY | os.O_CREAT)


def last(folder: JobFolder) -> float:
    """When somebody was last connected, by `durable.boot_clock`; now, where that cannot be told."""
    try:
        with open(folder.file("active"), "rb") as file:
            return float(file.read(64))
    except (OSError, ValueError):
        return durable.boot_clock()


def _write(folder: JobFolder, flags: int) -> None:
    fd = os.open(folder.file("active"), flags | os.O_CLOEXEC, 0o600)
    try:  # in place, and always as long: a full disk has room for it, and a reader sees the old or the new
        os.pwrite(fd, "{:024.3f}\n".format(durable.boot_clock()).encode(), 0)
    finally:
        os.close(fd)
