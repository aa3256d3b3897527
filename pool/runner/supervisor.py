"""One small process per job, outside everything else: starts it once, keeps its output, time and end.

It makes `started`, which succeeds once, and only then lets the job run, copies what the job writes to the log byte for
byte, asks it to end and later kills it when a stop is asked for, the time is up or the host shuts down, ends what the
job left behind, writes `exit.json` last. How a job is run is its driver's doing: `process` or `container`.
CLI, server, sshd and the runner may all die meanwhile. Imports little: its start is on the way of every run.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import select
import signal
import sys
import time
from typing import TYPE_CHECKING, Any

from pool.runner import activity, durable, processes
from pool.runner.jobs import JobFolder
from pool.runner.process import Ended, Process

if TYPE_CHECKING:
    from pool.runner.container import Container

#: Log bytes kept on the host; what comes later is counted, not kept.
LOG_CAP = 1 << 30
_CAP_MARKER = b"\npool: the log is full (1 GiB); later output is not kept\n"
#: How much of its grace a job gets when the host shuts down: systemd waits for 90 s, and then nothing is written down.
_SHUTDOWN_S = 60.0
#: How long the output of processes that cannot be killed is still taken.
_UNKILLABLE_S = 5.0


class Supervisor:
    """Runs one prepared job to its end."""

    def __init__(self, state: str, job: str) -> None:
        self.folder = JobFolder(state, job)
        self.spec = self.folder.spec
        self._driver = _driver(self.folder, self.spec)
        self._log = -1
        self._sha = hashlib.sha256()
        self._written = self._dropped = 0
        self._reason: str | None = None
        self._kill_at = self._ends_at = self._idle_at = math.inf  # by durable.boot_clock
        self._idle_s = math.inf
        self._terminated = False

    def run(self) -> int:
        """Start the job unless another supervisor has; returns when its end is on disk."""
        wake = self._catch_signals()
        self._log = os.open(self.folder.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        driver = self._driver
        driver.prepare(durable.read_json(self.folder.file("env.json")) or {})
        if not self._claim():
            return 0  # what was prepared ends with us
        problem = driver.start()
        os.unlink(self.folder.file("env.json"))
        if problem:
            self._write("pool: the job cannot be started: {}\n".format(problem).encode())
            driver.clear(0.0)  # an engine that did not answer may have started it all the same
            self._finish(Ended(None), "cannot start: {}".format(problem))
            return 0
        ended = self._copy_until_exit(wake)
        if self._reason is None:  # the host may have ended the job at the moment at which it told us
            self._reason = self._told_to_end()
        gone = driver.clear(soft_s=0.0 if self._reason else 0.5)
        for chunk in driver.rest(None if gone else _UNKILLABLE_S):
            self._write(chunk)
        self._finish(ended, self._reason or ended.reason)
        return 0

    def _claim(self) -> bool:
        """Make `started`; False when the job has been started, or ended before it was."""
        claim = {"boot": durable.boot_identity(), "supervisor": processes.identity(os.getpid()), "at": time.time()}
        try:
            durable.create_json(self.folder.file("started"), {**claim, "session": self._driver.leader})
        except FileExistsError:
            return False
        return True

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

    def _copy_until_exit(self, wake: int) -> Ended:
        """Move output to the log until the job has ended; returns how."""
        self._look_for_stop(durable.boot_clock())
        self._set_limits(durable.boot_clock())
        driver = self._driver
        while True:
            ended = driver.poll()
            if ended is not None:
                return ended
            now = durable.boot_clock()
            left_s = self._keep_time(now)
            if driver.look_again_s is not None:
                left_s = min(left_s, driver.look_again_s)
            watched = [fd for fd in (driver.output, driver.exit, wake) if fd >= 0]
            ready = select.select(watched, [], [], None if left_s == math.inf else max(0.0, left_s))[0]
            if wake in ready:
                os.read(wake, 512)
                self._look_for_stop(now)
            if driver.output in ready:
                self._write(driver.read())

    def _set_limits(self, now: float) -> None:
        """Note when its time is up, and when nobody will have been connected for too long unless somebody comes."""
        self._ends_at = now + (self.spec.get("max_duration_s") or math.inf)
        self._idle_s = self.spec.get("inactivity_s") or math.inf
        self._idle_at = now + self._idle_s
        if self._idle_s < math.inf:
            with contextlib.suppress(OSError):  # a full disk: it is never taken for idle
                activity.begin(self.folder)

    def _keep_time(self, now: float) -> float:
        """Do what is due by `now`; in how many seconds to look again."""
        if now >= self._kill_at:
            self._driver.kill()
            self._kill_at = now + 1.0
        if self._reason is None and now >= self._ends_at:
            self._stop("max_duration", self.spec.get("stop_duration_s", 30), now)
        if self._reason is None and now >= self._idle_at:
            self._idle_at = activity.last(self.folder) + self._idle_s + activity.LAG_S
            if now >= self._idle_at:
                self._stop("inactivity", self.spec.get("stop_duration_s", 30), now)
        return (self._kill_at if self._reason else min(self._ends_at, self._idle_at)) - now

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
        self._driver.interrupt()

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

    def _finish(self, ended: Ended, reason: str | None) -> None:
        """Remove what ran it, and tell how it ended."""
        removed = self._driver.remove()
        record = {
            "exit_code": ended.code,
            "reason": reason,
            "at": time.time(),
            "log_bytes": self._written,
            "log_sha256": self._sha.hexdigest(),
            "log_dropped": self._dropped,
            "removed": removed,
        }
        with contextlib.suppress(OSError):  # a full or failing disk: the end is still told
            os.fsync(self._log)
        self.folder.write_exit(record)


def _driver(folder: JobFolder, spec: dict[str, Any]) -> Process | Container:
    if "container" not in spec:
        return Process(folder.job, spec)
    from pool.runner.container import Container  # HTTP and its parts, for jobs that need it alone

    return Container(folder, spec)


def main(state: str, job: str) -> int:
    """Supervise `job` of the state folder `state`; the program `pool-runner supervise JOB`."""
    try:
        return Supervisor(state, job).run()
    except Exception as error:
        sys.stderr.write("supervisor of {}: {}\n".format(job, error))
        sys.stderr.flush()  # Python 3.8 keeps it back, and a forked supervisor ends without looking
        return 1
