"""Processes by identity, and a job's processes: all of them, and no one else's."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pool.runner import processes

Start = Callable[..., "subprocess.Popen[bytes]"]

#: A daemon: forks twice, takes a session of its own, tells its pid on stdout and stays.
_DAEMON = """
import os, signal
if os.fork(): os._exit(0)
os.setsid()
if os.fork(): os._exit(0)
os.write(1, b"%d\\n" % os.getpid())
os.close(1)
signal.pause()
"""
_SLEEPER = "import os, signal; os.write(1, b'up\\n'); signal.pause()"
_DEAF = "import os, signal; signal.signal(15, signal.SIG_IGN); os.write(1, b'up\\n'); signal.pause()"


@pytest.fixture
def start() -> Iterator[Start]:
    """`start(code, **env)`: a Python process that has written its first line; killed at the end."""
    started: list[subprocess.Popen[bytes]] = []

    def run(code: str, *, session: bool = True, **env: str) -> subprocess.Popen[bytes]:
        argv = [sys.executable, "-I", "-S", "-c", code]
        process = subprocess.Popen(argv, env=env, stdout=subprocess.PIPE, start_new_session=session)
        started.append(process)
        assert process.stdout is not None
        process.args = process.stdout.readline()
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()


def test_an_identity_is_of_one_process(start: Start) -> None:
    """Alive until it ends; the same number with another start is another process; a zombie is dead."""
    process = start(_SLEEPER)
    who = processes.identity(process.pid)
    assert processes.alive(who)
    assert not processes.alive({**who, "start": "1"})
    os.kill(process.pid, signal.SIGKILL)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert processes.identity(process.pid) == who  # its entry is still there
    assert not processes.alive(who)
    process.wait()
    assert not processes.alive(who)


@pytest.mark.parametrize("who", [None, {}, {"pid": 1}, {"pid": 1, "start": None}, {"pid": 2**22 + 1, "start": "5"}])
def test_nobody_is_not_alive(who: dict[str, object] | None) -> None:
    """No identity, one without a start, one of a process that never was."""
    assert not processes.alive(who)


def test_a_job_is_found_by_its_mark(start: Start) -> None:
    """A daemon that forked twice carries it; another job's does not count, nor one whose id only begins the same."""
    daemon = start(_DAEMON, POOL_JOB_ID="job-1")
    pid = int(bytes(daemon.args))
    start(_SLEEPER, POOL_JOB_ID="job-2")
    start(_SLEEPER, POOL_JOB_ID="job-11")
    start(_SLEEPER, NOT_POOL_JOB_ID="job-1")
    assert processes.of_job("job-1") == [pid]
    assert {"job-1", "job-2", "job-11"} <= processes.marked_jobs()
    assert processes.kill_job("job-1", None, soft_s=0)
    assert processes.of_job("job-1") == []
    assert processes.of_job("job-2") != []


def test_a_job_is_found_by_its_session(start: Start) -> None:
    """What has emptied its environment is still in the session; another session under that number is not ours."""
    leader = start(_SLEEPER)
    who = processes.identity(leader.pid)
    assert processes.of_job("job-1", who) == [leader.pid]
    assert processes.of_job("job-1", {**who, "start": "1"}) == []
    assert processes.of_job("job-1") == []


def test_a_job_is_never_the_one_who_asks(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """A runner that runs inside a job (a lab in a lab) does not end itself."""
    me = processes.identity(os.getsid(0)) if os.getsid(0) == os.getpid() else None
    assert os.getpid() not in processes.of_job("job-1", me)
    code = f"""
import sys; sys.path.insert(0, {str(Path(processes.__file__).parents[2])!r})
from pool.runner import processes
import os
print(os.getpid() in processes.of_job("job-1", processes.identity(os.getpid())), flush=True)
"""
    assert bytes(start(code, POOL_JOB_ID="job-1").args) == b"False\n"


def test_what_ignores_sigterm_is_killed(start: Start) -> None:
    """SIGTERM first; after the soft time SIGKILL."""
    polite, deaf = start(_SLEEPER, POOL_JOB_ID="job-1"), start(_DEAF, POOL_JOB_ID="job-1")
    assert processes.kill_job("job-1", None, soft_s=0.2)
    assert (polite.wait(), deaf.wait()) == (-signal.SIGTERM, -signal.SIGKILL)


def test_what_cannot_be_ended_is_told(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that no signal reaches (another user's, one in the kernel): False, after the deadline."""
    start(_SLEEPER, POOL_JOB_ID="job-1")
    monkeypatch.setattr(processes, "send", lambda *_: None)
    assert not processes.kill_job("job-1", None, soft_s=0, deadline_s=0.1)


def test_a_name_may_hold_anything(start: Start) -> None:
    """The fields of /proc/PID/stat come after a name that may have spaces and parentheses."""
    code = "open('/proc/self/comm', 'w').write('a) R 1 (b'); " + _SLEEPER
    process = start(code, POOL_JOB_ID="job-1")
    assert processes.alive(processes.identity(process.pid))
    assert processes.of_job("job-1") == [process.pid]
