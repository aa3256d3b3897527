"""One small process per job, outside everything else: starts it once, keeps its output, time and end.

It makes `started` with O_EXCL and only then execs, copies what the job writes to the log byte for byte, sends SIGINT
and later SIGKILL when a stop is asked for or the time is up, ends what the job left behind, writes `exit.json` last.
CLI, server, sshd and the runner may all die meanwhile. Imports little: its start is on the way of every run.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import select
import signal
import sys
import termios
import time
import tty
from typing import Any

from pool.runner import durable, processes
from pool.runner.jobs import JobFolder

#: Log bytes kept on the host; what comes later is counted, not kept.
LOG_CAP = 1 << 30
_CAP_MARKER = b"\npool: the log is full (1 GiB); later output is not kept\n"
_CHUNK = 1 << 16
#: Room kept for the exit record, so that a full disk cannot lose it.
_EXIT_ROOM = 4096


class Supervisor:
    """Runs one prepared job to its end."""

    def __init__(self, state: str, job: str) -> None:
        self.folder = JobFolder(state, job)
        self.spec = self.folder.spec
        self._log = -1
        self._sha = hashlib.sha256()
        self._written = self._dropped = 0
        self._reason: str | None = None
        self._kill_at: float | None = None
        self._pid = 0

    def run(self) -> int:
        """Start the job unless another supervisor has; returns when its end is on disk."""
        wake = self._catch_signals()
        claim = {"boot": durable.boot_identity(), "supervisor": processes.identity(os.getpid()), "at": time.time()}
        try:
            durable.create_json(self.folder.file("started"), claim)
        except FileExistsError:
            return 0
        self._reserve_exit_record()
        self._log = os.open(self.folder.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            output = self._spawn()
        except OSError as error:
            self._write("pool: the job cannot be started: {}\n".format(error).encode())
            self._finish(None, "cannot start: {}".format(error))
            return 0
        durable.write_json(self.folder.file("started"), {**claim, "session": self._pid})
        status = self._copy_until_exit(output, wake)
        processes.kill_job(self.folder.job, self._pid, soft_s=0.0 if self._reason else 0.5)
        self._drain(output)
        self._finish(status, self._reason)
        return 0

    # -- starting -----------------------------------------------------------------------------------------------

    def _spawn(self) -> int:
        """Fork and exec the job on a raw terminal; returns the reading end. OSError when exec fails."""
        env = durable.read_json(self.folder.file("env.json")) or {}
        reading, slave = os.openpty()
        tty.setraw(slave, termios.TCSANOW)
        os.set_inheritable(reading, False)
        failed, failing = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            self._exec(slave, failing, env)
        os.close(slave)
        os.close(failing)
        problem = os.read(failed, 1024)
        os.close(failed)
        os.unlink(self.folder.file("env.json"))
        if problem:
            os.waitpid(self._pid, 0)
            raise OSError(problem.decode(errors="replace"))
        return reading

    def _exec(self, slave: int, failing: int, env: dict[str, Any]) -> None:
        """In the child: become the job. A raw terminal keeps bytes as they are and makes programs flush by the line."""
        try:
            os.setsid()
            null = os.open(os.devnull, os.O_RDONLY)
            for fd, source in ((0, null), (1, slave), (2, slave)):
                os.dup2(source, fd)
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGPIPE, signal.SIGCHLD):
                signal.signal(number, signal.SIG_DFL)
            signal.set_wakeup_fd(-1)
            if os.getuid() == 0 and self.spec["uid"] != 0:
                os.initgroups(self.spec["user"], self.spec["gid"])
                os.setgid(self.spec["gid"])
                os.setuid(self.spec["uid"])
            os.umask(0o022)
            os.chdir(self.spec["cwd"])
            os.execve(self.spec["argv"][0], self.spec["argv"], env)
        except BaseException as error:
            os.write(failing, str(error).encode()[:1000])
        finally:
            os._exit(127)

    def _reserve_exit_record(self) -> None:
        self._exit_fd = os.open(self.folder.file("exit.tmp"), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.write(self._exit_fd, b" " * _EXIT_ROOM)
        os.fsync(self._exit_fd)

    # -- while it runs ------------------------------------------------------------------------------------------

    def _catch_signals(self) -> int:
        """SIGTERM: read `stop` and act. SIGCHLD: look. Both wake the loop through a pipe."""
        wake, waking = os.pipe()
        os.set_blocking(waking, False)
        os.set_blocking(wake, False)
        signal.set_wakeup_fd(waking, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGCHLD):
            signal.signal(number, lambda *_: None)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        return wake

    def _copy_until_exit(self, output: int, wake: int) -> int:
        """Move output to the log until the job's first process has ended; returns its wait status."""
        self._look_for_stop(durable.boot_clock())
        limit = self.spec.get("max_duration_s")
        ends_at = durable.boot_clock() + limit if limit else None
        watched = [output, wake]
        while True:
            pid, status = os.waitpid(self._pid, os.WNOHANG)
            if pid:
                return status
            now = durable.boot_clock()
            if self._kill_at is not None and now >= self._kill_at:
                processes.send(processes.of_job(self.folder.job, self._pid), signal.SIGKILL)
                self._kill_at = now + 1.0
            if ends_at is not None and now >= ends_at and self._reason is None:
                self._stop("max_duration", self.spec.get("stop_duration_s", 30), now)
            timers = [t - now for t in (self._kill_at, None if self._reason else ends_at) if t is not None]
            ready = select.select(watched, [], [], max(0.0, min(timers)) if timers else None)[0]
            if wake in ready:
                os.read(wake, 512)
                self._look_for_stop(now)
            if output in ready and not self._copy(output):
                watched = [wake]

    def _look_for_stop(self, now: float) -> None:
        asked = durable.read_json(self.folder.file("stop"))
        if asked is None:
            return
        if asked.get("abort"):
            self._reason = "aborted"
            self._kill_at = now
        elif self._reason is None:
            self._stop("stopped", float(asked.get("grace_s", 30)), now)

    def _stop(self, reason: str, grace_s: float, now: float) -> None:
        self._reason = reason
        self._kill_at = now + grace_s
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._pid, signal.SIGINT)

    def _copy(self, output: int) -> bool:
        """Move one piece of output; False once no process holds the terminal any more."""
        try:
            chunk = os.read(output, _CHUNK)
        except OSError:  # EIO: every writer has closed
            return False
        self._write(chunk)
        return bool(chunk)

    def _drain(self, output: int) -> None:
        while select.select([output], [], [], 0)[0] and self._copy(output):
            pass

    def _write(self, chunk: bytes) -> None:
        room = max(0, LOG_CAP - self._written)
        if len(chunk) > room:
            marker = b"" if self._dropped else _CAP_MARKER
            self._dropped += len(chunk) - room
            chunk = chunk[:room] + marker
        while chunk:
            try:
                count = os.write(self._log, chunk)
            except OSError:  # disk full: the job goes on, the loss is counted and told at the end
                self._dropped += len(chunk)
                return
            self._sha.update(chunk[:count])
            self._written += count
            chunk = chunk[count:]

    # -- the end ------------------------------------------------------------------------------------------------

    def _finish(self, status: int | None, reason: str | None) -> None:
        """Put the end on disk, whole: into room that was kept, then under its name."""
        code = None
        if status is not None:
            code = 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
        record = {
            "exit_code": code,
            "reason": reason,
            "at": time.time(),
            "log_bytes": self._written,
            "log_sha256": self._sha.hexdigest(),
            "log_dropped": self._dropped,
        }
        os.fsync(self._log)
        os.pwrite(self._exit_fd, json.dumps(record).encode(), 0)
        os.fsync(self._exit_fd)
        os.rename(self.folder.file("exit.tmp"), self.folder.file("exit.json"))
        durable.sync_folder(self.folder.path)


def main(state: str, job: str) -> int:
    """Supervise `job` of the state folder `state`; the program `pool-runner supervise JOB`."""
    try:
        return Supervisor(state, job).run()
    except Exception as error:
        sys.stderr.write("supervisor of {}: {}\n".format(job, error))
        return 1
