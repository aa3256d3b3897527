"""Becomes the shell of a running job: in its environment, folder and control groups, with its user and limits.

`pool-runner enter JOB FD [WORD …]` is started by the runner on a terminal or on pipes, with the job's mark: were the
job to end meanwhile, its supervisor would find it. Why it cannot enter is said on FD, which closes when it has. The
words are the shell's.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import resource
import signal
import termios
import time
from typing import Any

from pool.runner import processes
from pool.runner.jobs import JobFolder

#: A job that was just started may not yet have become itself.
_BECOMES_S = 5.0
_UTF8 = 0o40000  # termios.IUTF8: to rub out a letter of several bytes rubs out all of them


def main(state: str, job: str, failed: int, words: list[str]) -> int:
    """Enter `job` of the state folder `state`; returns only when that fails."""
    try:
        os.set_inheritable(failed, False)
        _enter(JobFolder(state, job), words)
    except BaseException as error:
        os.write(failed, str(error).encode(errors="replace")[:300])
    return 127


def _enter(folder: JobFolder, words: list[str]) -> None:
    spec, started = folder.spec, folder.started
    if not started or folder.exit is not None:
        raise ProcessLookupError("job {} does not run".format(folder.job))
    leader, supervisor = started["session"], int(started["supervisor"]["pid"])
    env = _environment(folder.job, leader, spec["uid"])
    pid = int(leader["pid"])
    _take_limits(pid if processes.alive(leader) else supervisor)
    if processes.is_in(supervisor, "/" + processes.unit(folder.job)):
        _join(supervisor)
    if os.isatty(0):
        _take_terminal(spec["uid"])
        env[b"TERM"] = os.environb.get(b"TERM", b"xterm")
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_DFL)
    if os.getuid() == 0 and spec["uid"] != 0:
        os.initgroups(spec["user"], spec["gid"])
        os.setgid(spec["gid"])
        os.setuid(spec["uid"])
    os.umask(0o022)
    os.chdir(spec["cwd"])
    os.execve(spec["argv"][0], [spec["argv"][0], *words], env)


def _environment(job: str, leader: dict[str, Any], uid: int) -> dict[bytes, bytes]:
    """That of the job's first process; of another one of its user where that has given the job's mark away.

    Anybody's process may carry the mark.
    """
    deadline = time.monotonic() + _BECOMES_S
    while True:
        others = [pid for pid in processes.of_job(job, leader) if processes.uid(pid) == uid]
        for pid in [int(leader["pid"]), *others] if processes.alive(leader) else others:
            env = processes.environment(pid)
            if env.get(processes.MARK.encode()) == job.encode() and not _is_entering(pid):
                return env
        if not others:
            raise ProcessLookupError("job {} has ended".format(job))
        if time.monotonic() > deadline:
            raise ProcessLookupError("no process of job {} has its environment any more".format(job))
        time.sleep(0.02)


def _is_entering(pid: int) -> bool:
    """True for another one of these: it has the job's mark, and nothing else of it yet."""
    words = processes.command(pid)
    return words[4:5] == [b"--state"] and words[6:7] == [b"enter"]


def _take_limits(pid: int) -> None:
    """The limits of that process; as far as one may who is not root."""
    for name in [name for name in dir(resource) if name.startswith("RLIMIT_")]:
        with contextlib.suppress(OSError, ValueError):
            which = getattr(resource, name)
            resource.setrlimit(which, resource.prlimit(pid, which))
    with contextlib.suppress(OSError):
        with open("/proc/{}/oom_score_adj".format(pid)) as file:
            told = file.read()
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write(told)


def _join(pid: int) -> None:
    """Go where that process is, in every hierarchy of control groups: there its limits hold, and its device rules."""
    mine = set(_groups("self"))
    for controllers, path in _groups(str(pid)):
        if (controllers, path) not in mine:
            with open(os.path.join(_mounted(controllers), path.lstrip("/"), "cgroup.procs"), "w") as file:
                file.write(str(os.getpid()))


def _groups(pid: str) -> list[tuple[str, str]]:
    """`(controllers, path)` in each hierarchy; of cgroup v2 the controllers are ""."""
    with open("/proc/{}/cgroup".format(pid)) as file:
        fields = [line.rstrip("\n").split(":", 2) for line in file]
    return [(controllers, path) for _, controllers, path in fields]


def _mounted(controllers: str) -> str:
    """Where that hierarchy is mounted."""
    with open("/proc/self/mountinfo") as file:
        for line in file:
            before, _, after = line.partition(" - ")
            kind, _, options = after.split()[:3]
            if kind == "cgroup2" and not controllers:
                return before.split()[4]
            if kind == "cgroup" and controllers and set(controllers.split(",")) <= set(options.split(",")):
                return before.split()[4]
    raise FileNotFoundError("control groups of {!r} are mounted nowhere".format(controllers))


def _take_terminal(uid: int) -> None:
    """Make it this session's, and its user's."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    attributes = termios.tcgetattr(0)
    attributes[0] |= _UTF8
    termios.tcsetattr(0, termios.TCSANOW, attributes)
    with contextlib.suppress(PermissionError):
        os.fchown(0, uid, -1)
        os.fchmod(0, 0o620)
