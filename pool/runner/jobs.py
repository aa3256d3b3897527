"""A job on disk: its folder is everything the host knows about it, and is enough after any crash.

    jobs/<job id>/
      spec.json   what to run (no environment: that may hold secrets)       written by prepare
      env.json    the environment, removed once the process runs            written by prepare
      work/       the uploaded folder                                       written by prepare
      started     made once, before exec: a job starts at most once         written by the supervisor
      log         stdout and stderr as they came, the truth about output    written by the supervisor
      active      when somebody was last connected, where that matters      written by supervisor and daemon
      shells/     of the shells that are open now, their processes          written by the daemon
      stop        the asked stop: {"grace_s", "abort"}                      written by the daemon
      exit.json   how it ended; whole or absent                             written by the supervisor, else the daemon
      exit.tmp    room for it, so that a full disk cannot lose it           written by prepare

`state` reads these back: prepared | running | exited, in that order of evidence.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import stat
from typing import Any

from pool.runner import durable, processes
from pool.runner.ledger import RefusedError

PREPARED, RUNNING, EXITED = "prepared", "running", "exited"

_EXIT_ROOM = 4096

_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,62}\Z")


class JobFolder:
    """The folder of one job; refuses an id that is not a plain slug, because ids become paths."""

    def __init__(self, state: str, job: str) -> None:
        if not isinstance(job, str) or not _ID.match(job):
            raise RefusedError("bad_request", "not a job id: {!r}".format(job))
        self.job = job
        self.path = os.path.join(state, "jobs", job)
        self.log = os.path.join(self.path, "log")
        self.work = os.path.join(self.path, "work")

    def file(self, name: str) -> str:
        """The path of one of the files above."""
        return os.path.join(self.path, name)

    @property
    def exists(self) -> bool:
        """True once the job was prepared here."""
        return os.path.exists(self.file("spec.json"))

    @property
    def spec(self) -> dict[str, Any]:
        """What to run; RefusedError("no_such_job") when it was never prepared here."""
        spec = durable.read_json(self.file("spec.json"))
        if spec is None:
            raise RefusedError("no_such_job", "job {} is not on this host".format(self.job))
        return spec

    @property
    def pool(self) -> str | None:
        """The pool whose job it is; None when it was never prepared here."""
        spec = durable.read_json(self.file("spec.json"))
        return None if spec is None else str(spec["pool"])

    @property
    def started(self) -> dict[str, Any] | None:
        """`{"boot", "supervisor", "session", "at"}` once a supervisor took the job; the middle two are identities."""
        return durable.read_json(self.file("started"))

    @property
    def exit(self) -> dict[str, Any] | None:
        """`{"exit_code", "reason", "at", "log_bytes", "log_sha256"}` once it ended."""
        return durable.read_json(self.file("exit.json"))

    @property
    def log_bytes(self) -> int:
        """Size of the log so far, in bytes."""
        try:
            return os.stat(self.log).st_size
        except OSError:
            return 0

    def status(self) -> dict[str, Any]:
        """`{"job", "state", "started_at", "log_bytes", "exit"}` as the files tell it."""
        started, ended = self.started, self.exit
        state = EXITED if ended else RUNNING if started else PREPARED
        return {
            "job": self.job,
            "state": state,
            "started_at": started.get("at") if started else None,
            "log_bytes": self.log_bytes,
            "exit": ended,
        }

    def supervised(self) -> bool:
        """True while the process that started the job still lives; after a reboot its number may be another's."""
        started = self.started
        if started is None or started.get("boot") != durable.boot_identity():
            return False
        return processes.alive(started.get("supervisor"))

    def keep_exit_room(self) -> None:
        """Take the disk space of the exit record now; OSError when there is none."""
        fd = os.open(self.file("exit.tmp"), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if os.write(fd, b" " * _EXIT_ROOM) != _EXIT_ROOM:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self.path)
            os.fsync(fd)
        finally:
            os.close(fd)

    def write_exit(self, record: dict[str, Any]) -> None:
        """Put the end on disk, whole: into the room that was kept for it, then under its name."""
        fd = os.open(self.file("exit.tmp"), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.pwrite(fd, json.dumps(record).encode(), 0)
            os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(self.file("exit.tmp"), self.file("exit.json"))
        durable.sync_folder(self.path)

    def remove(self) -> None:
        """Delete the folder with everything in it."""
        remove(self.path)


def all_jobs(state: str) -> list[JobFolder]:
    """Every job that was prepared on this host and not forgotten, by id."""
    try:
        names = sorted(os.listdir(os.path.join(state, "jobs")))
    except FileNotFoundError:
        return []
    folders = [JobFolder(state, name) for name in names if _ID.match(name)]
    return [folder for folder in folders if folder.exists]


def remove(folder: str) -> None:
    """Delete a folder with everything in it, also what its owner may not write to, however deep a job has made it."""
    try:
        if os.geteuid() != 0:
            _open_up(folder)
        shutil.rmtree(folder, ignore_errors=True)
    except RecursionError:
        import subprocess  # not before it is needed: a supervisor's start is on the way of every run

        for words in (["chmod", "-R", "u+rwx"], ["rm", "-rf"]):
            subprocess.run([*words, "--", folder], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)


def _open_up(folder: str) -> None:
    for here, folders, _ in os.walk(folder):
        for path in (os.path.join(here, name) for name in folders):
            mode = os.lstat(path).st_mode
            if stat.S_ISDIR(mode) and mode & 0o700 != 0o700:
                os.chmod(path, 0o700)
