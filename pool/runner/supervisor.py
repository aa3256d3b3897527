"""One small process per job, outside everything else: starts it once, keeps its output, time and end.

It makes `started`, which succeeds once, and only then lets the job exec, copies what the job writes to the log byte
for byte, sends SIGINT and later SIGKILL when a stop is asked for, the time is up or the host shuts down, ends what the
job left behind, writes `exit.json` last.
CLI, server, sshd and the runner may all die meanwhile. Imports little: its start is on the way of every run.
"""

from __future__ import annotations

import contextlib
import hashlib
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
#: How much of its grace a job gets when the host shuts down: systemd waits for 90 s, and then nothing is written down.
_SHUTDOWN_S = 60.0
#: How long the output of processes that cannot be killed is still taken.
_UNKILLABLE_S = 5.0
#: A job inherits none of what this process, Python, or a shell that started the runner in the background has set.
_DEFAULT_SIGNALS = signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}


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
        self._terminated = False
        self._pid = 0
        self._leader: dict[str, Any] = {}

    def run(self) -> int:
        """Start the job unless another supervisor has; returns when its end is on disk."""
        wake = self._catch_signals()
        self._log = os.open(self.folder.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        env = durable.read_json(self.folder.file("env.json")) or {}
        output, going, failed = self._fork(env)
        if not self._claim():
            return 0  # the child sees the end of `going` and is gone, and so are we
        problem = self._let_go(going, failed)
        if problem:
            self._write("pool: the job cannot be started: {}\n".format(problem).encode())
            self._finish(None, "cannot start: {}".format(problem))
            return 0
        status = self._copy_until_exit(output, wake)
        if self._reason is None:  # the host may have ended the job at the moment at which it told us
            self._reason = self._told_to_end()
        gone = processes.kill_job(self.folder.job, self._leader, soft_s=0.0 if self._reason else 0.5)
        self._drain(output, None if gone else _UNKILLABLE_S)
        self._finish(status, self._reason)
        return 0

    # -- starting -----------------------------------------------------------------------------------------------

    def _fork(self, env: dict[str, Any]) -> tuple[int, int, int]:
        """Make the job's first process, on a raw terminal, waiting; the terminal's reading end and two pipe ends.

        It execs after a byte on the first pipe, and says on the second why it cannot.
        """
        reading, slave = os.openpty()
        tty.setraw(slave, termios.TCSANOW)
        go, going = os.pipe()
        failed, failing = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            os.close(going)
            self._exec(go, slave, failing, env)
        for fd in (slave, go, failing):
            os.close(fd)
        self._leader = processes.identity(self._pid)
        return reading, going, failed

    def _claim(self) -> bool:
        """Make `started`; False when the job has been started, or ended before it was."""
        claim = {"boot": durable.boot_identity(), "supervisor": processes.identity(os.getpid()), "at": time.time()}
        try:
            durable.create_json(self.folder.file("started"), {**claim, "session": self._leader})
        except FileExistsError:
            return False
        return True

    def _let_go(self, going: int, failed: int) -> str:
        """Let the child exec; why it could not, or nothing."""
        with contextlib.suppress(BrokenPipeError):  # it has failed already, and says so
            os.write(going, b"!")
        os.close(going)
        problem = os.read(failed, 300).decode(errors="replace")
        os.close(failed)
        os.unlink(self.folder.file("env.json"))
        if problem:
            os.waitpid(self._pid, 0)
        return problem

    def _exec(self, go: int, slave: int, failing: int, env: dict[str, Any]) -> None:
        """In the child: become the job. A raw terminal keeps bytes as they are and makes programs flush by the line."""
        try:
            os.setsid()
            null = os.open(os.devnull, os.O_RDONLY)
            for fd, source in ((0, null), (1, slave), (2, slave)):
                os.dup2(source, fd)
            signal.set_wakeup_fd(-1)
            for number in _DEFAULT_SIGNALS:
                signal.signal(number, signal.SIG_DFL)
            if os.getuid() == 0 and self.spec["uid"] != 0:
                os.initgroups(self.spec["user"], self.spec["gid"])
                os.setgid(self.spec["gid"])
                os.setuid(self.spec["uid"])
            os.umask(0o022)
            os.chdir(self.spec["cwd"])
            if os.read(go, 1):
                # Bytes, because this Python's idea of the locale must not decide what the job sees.
                plain = {k.encode(errors="surrogateescape"): v.encode(errors="surrogateescape") for k, v in env.items()}
                os.execve(self.spec["argv"][0], self.spec["argv"], plain)
        except BaseException as error:
            os.write(failing, str(error).encode(errors="replace")[:300])
        finally:
            os._exit(127)

    # -- while it runs ------------------------------------------------------------------------------------------

    def _catch_signals(self) -> int:
        """SIGTERM: read `stop` and act. SIGCHLD: look. Both wake the loop through a pipe."""
        wake, waking = os.pipe()
        os.set_blocking(waking, False)
        os.set_blocking(wake, False)
        signal.set_wakeup_fd(waking, warn_on_full_buffer=False)
        signal.signal(signal.SIGTERM, self._was_terminated)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        return wake

    def _was_terminated(self, *_: object) -> None:
        self._terminated = True

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
                processes.send(processes.of_job(self.folder.job, self._leader), signal.SIGKILL)
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
            told = self._told_to_end() if self._reason is None else None
            if told:
                self._stop(told, min(self.spec.get("stop_duration_s", 30), _SHUTDOWN_S), now)
        elif asked.get("abort"):
            self._reason = "aborted"
            self._kill_at = now
        elif self._reason is None:
            self._stop("stopped", float(asked.get("grace_s", 30)), now)

    def _told_to_end(self) -> str | None:
        """Why a SIGTERM came that no `stop` file explains: from systemd, which shuts down or was told to stop the unit.

        None without one; of anyone else's, on a host where jobs have no unit, nothing is thought.
        """
        if not self._terminated or os.path.exists(self.folder.file("stop")):
            return None
        self._terminated = False
        if processes.shuts_down():
            return "host_reboot"
        return "stopped on the host, by systemctl" if processes.has_unit(self.folder.job) else None

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

    def _drain(self, output: int, limit_s: float | None) -> None:
        """Take what is still in the terminal; with a limit where a process that cannot be killed may write for ever."""
        until = None if limit_s is None else time.monotonic() + limit_s
        while select.select([output], [], [], 0)[0] and self._copy(output):
            if until is not None and time.monotonic() > until:
                return

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
        """Tell how it ended."""
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
        with contextlib.suppress(OSError):  # a full or failing disk: the end is still told
            os.fsync(self._log)
        self.folder.write_exit(record)


def main(state: str, job: str) -> int:
    """Supervise `job` of the state folder `state`; the program `pool-runner supervise JOB`."""
    try:
        return Supervisor(state, job).run()
    except Exception as error:
        sys.stderr.write("supervisor of {}: {}\n".format(job, error))
        sys.stderr.flush()  # Python 3.8 keeps it back, and a forked supervisor ends without looking
        return 1
