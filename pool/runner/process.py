"""A job as a process of this host: the job's first process, on a raw terminal of its own, and all that comes of it."""

from __future__ import annotations

import contextlib
import os
import signal
from typing import Any, Iterator, NamedTuple

from pool.runner import oom, processes
from pool.runner.terminal import Terminal

#: A job inherits none of what the supervisor, Python, or a shell that started the runner in the background has set.
_DEFAULT_SIGNALS = signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}


class Ended(NamedTuple):
    """How a job ended: its exit code (128 and the signal that killed it), and a cause that is not the job's own."""

    code: int | None
    reason: str | None = None


class Process:
    """One job without a container."""

    def __init__(self, job: str, spec: dict[str, Any]) -> None:
        self.leader: dict[str, Any] = {}  #: the identity of the job's first process
        self.exit = -1  #: what can be read once it has ended; here SIGCHLD tells
        self.look_again_s: float | None = None  #: when to `poll` again, though nothing can be read
        self._job, self._spec = job, spec
        self._pid = 0
        self._unit = processes.has_unit(job)
        self._terminal: Terminal | None = None

    @property
    def output(self) -> int:
        """What can be read, for `select`; -1 before there is anything and once there is nothing more."""
        return self._terminal.output if self._terminal else -1

    def prepare(self, env: dict[str, Any]) -> None:
        """Make the job's first process, waiting.

        It execs after a byte on the first pipe, and says on the second why it cannot.
        """
        self._terminal = Terminal()
        go, self._going = os.pipe()
        self._failed, failing = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            os.close(self._going)
            self._exec(go, self._terminal.end, failing, env)
        self._terminal.let_go()
        for fd in (go, failing):
            os.close(fd)
        self.leader = processes.identity(self._pid)

    def start(self) -> str:
        """Let it exec; why it could not, or nothing."""
        with contextlib.suppress(BrokenPipeError):  # it has failed already, and says so
            os.write(self._going, b"!")
        os.close(self._going)
        problem = os.read(self._failed, 300).decode(errors="replace")
        os.close(self._failed)
        if problem:
            os.waitpid(self._pid, 0)
        return problem

    def poll(self) -> Ended | None:
        """How it ended; None while it runs."""
        pid, status = os.waitpid(self._pid, os.WNOHANG)
        if not pid:
            return None
        code = 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
        return Ended(code, "out_of_memory" if code and self._unit and oom.kills() else None)

    def read(self) -> bytes:
        """The next piece of output; nothing once no process holds the terminal any more."""
        assert self._terminal
        return self._terminal.read()

    def interrupt(self) -> None:
        """Ask it to end."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._pid, signal.SIGINT)

    def kill(self) -> None:
        """End all of it now."""
        processes.send(processes.of_job(self._job, self.leader), signal.SIGKILL)

    def clear(self, soft_s: float) -> bool:
        """End what is left of it, `soft_s` after a SIGTERM; False for what cannot be killed."""
        return processes.kill_job(self._job, self.leader, soft_s=soft_s)

    def rest(self, limit_s: float | None) -> Iterator[bytes]:
        """What is still in the terminal; with a limit where a process that cannot be killed may write for ever."""
        assert self._terminal
        return self._terminal.rest(limit_s)

    def remove(self) -> bool:
        """Leave nothing but the log; False when something has to be removed later."""
        return True

    def _exec(self, go: int, terminal: int, failing: int, env: dict[str, Any]) -> None:
        """In the child: become the job."""
        try:
            os.setsid()
            if self._unit:
                oom.be_like_others()
            null = os.open(os.devnull, os.O_RDONLY)
            for fd, source in ((0, null), (1, terminal), (2, terminal)):
                os.dup2(source, fd)
            signal.set_wakeup_fd(-1)
            for number in _DEFAULT_SIGNALS:
                signal.signal(number, signal.SIG_DFL)
            if os.getuid() == 0 and self._spec["uid"] != 0:
                os.initgroups(self._spec["user"], self._spec["gid"])
                os.setgid(self._spec["gid"])
                os.setuid(self._spec["uid"])
            os.umask(0o022)
            os.chdir(self._spec["cwd"])
            if os.read(go, 1):
                # Bytes, because this Python's idea of the locale must not decide what the job sees.
                plain = {k.encode(errors="surrogateescape"): v.encode(errors="surrogateescape") for k, v in env.items()}
                os.execve(self._spec["argv"][0], self._spec["argv"], plain)
        except BaseException as error:
            os.write(failing, str(error).encode(errors="replace")[:300])
        finally:
            os._exit(127)
