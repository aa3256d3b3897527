"""Shells inside of jobs that are processes, as a host serves them over its bridge."""

from __future__ import annotations

import glob
import hashlib
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from pool.runner import processes
from pool.runner.streams import StreamError
from tests.runner_host import Bridge, RefusalError, RunnerHost, until
from tests.shells import Said, said, size, used

#: Writes its port into a file, and takes far more connections than it may get.
MANY = """
import os, socket
listener = socket.create_server(("127.0.0.1", 0), backlog=999)
with open("part", "w") as file:
    file.write(str(listener.getsockname()[1]))
os.rename("part", "port")
held = [listener.accept()[0] for _ in range(600)]
"""


@pytest.fixture(scope="module")
def host(session_dir: str) -> Iterator[RunnerHost]:
    """One host for all of these."""
    made = RunnerHost(tempfile.mkdtemp(prefix="r", dir=session_dir), os.path.join(session_dir, "lab"))
    yield made
    made.end()


@pytest.fixture
def bridge(host: RunnerHost) -> Bridge:
    """A bridge to it."""
    return host.connect()


@pytest.fixture
def job(bridge: Bridge) -> Iterator[str]:
    """A job that runs until it is stopped."""
    name = f"sh-{uuid.uuid4().hex[:12]}"
    bridge.run(name, "mkdir sub; cd sub; export LATER=1; sleep 1000 & wait", env={"ODD": "a\nb %$'\"\udcff"})
    yield name
    bridge.ask("stop", job=name, abort=True)
    bridge.end_of(name)
    until(lambda: not bridge.ask("jobs")["ledger"], "free GPUs")


def test_a_command_has_the_job_s_environment(host: RunnerHost, bridge: Bridge, job: str) -> None:
    """Its variables, byte for byte, its folder; both outputs apart, and its exit code."""
    line = 'printf "%s|" "$ODD" "$POOL_JOB_ID" "$CUDA_VISIBLE_DEVICES" "$LATER"; pwd -P; echo err >&2; exit 7'
    code, out, err = said(bridge.open("shell", job=job, argv=[line]))
    assert (code, err) == (7, b"err\n")
    assert out == b"a\nb %$'\"\xff|" + f"{job}|||{host.path(job, 'work')}\n".encode()
    assert said(bridge.open("shell", job=job, argv=["printf", "%s|", "a b", "$HOME"]))[1] == b"a b|$HOME|"
    assert said(bridge.open("shell", job=job), b"echo $((6 * 7)); exit 3")[:2] == (3, b"42\n")
    assert said(bridge.open("shell", job=job, argv=["kill -9 $$"]), None)[0] == 137


def test_bytes_are_exact_both_ways(bridge: Bridge, job: str) -> None:
    """Far more than a window, and the end of input is told."""
    data = os.urandom(20 << 20)
    code, out, err = said(bridge.open("shell", job=job, argv=["cat", "-"]), data)
    assert (code, err) == (0, b"")
    assert hashlib.sha256(out).digest() == hashlib.sha256(data).digest()


def test_what_reads_no_input_does_not_wait_for_it(bridge: Bridge, job: str) -> None:
    """Also when far more than fits is on its way: the output, and the exit code, arrive."""
    assert said(bridge.open("shell", job=job, argv=["head -c 3; exit 4"]), b"x" * (12 << 20))[:2] == (4, b"xxx")


def test_what_is_left_in_the_background_holds_nobody_up(host: RunnerHost, bridge: Bridge, job: str) -> None:
    """The program's end is the end; what it has left goes on until the job's."""
    code, out, _ = said(bridge.open("shell", job=job, argv=["sleep 1000 & echo $!"]))
    assert code == 0
    assert int(out) in host.alive(job)


def test_a_terminal(bridge: Bridge, job: str) -> None:
    """A real one, of the size that it is given; Ctrl-C reaches what runs; its exit code is the shell's."""
    shell = Said(bridge.open("shell", job=job, tty=size(33, 111)))
    shell.stream.write(b"echo > $(tty) && echo mi''ne\r")
    shell.until(b"mine")
    used(shell)


def test_a_signal_reaches_a_program_without_a_terminal(bridge: Bridge, job: str) -> None:
    """As Ctrl-C does with one."""
    program = Said(bridge.open("shell", job=job, argv=["trap 'echo asked; exit 9' INT; echo begun; sleep 1000 & wait"]))
    program.until(b"begun")
    program.stream.write(head={"signal": "INT"})
    assert program.code() == 9
    assert program.out[1] == b"begun\nasked\n"


@pytest.mark.parametrize("tty", [None, size(24, 80)])
@pytest.mark.parametrize("how", ["closed", "bridge"])
def test_who_goes_away_takes_the_program_along(
    host: RunnerHost, bridge: Bridge, job: str, tty: dict[str, object] | None, how: str
) -> None:
    """Asked by SIGHUP, and killed if deaf to it; whether the stream was given up or the connection was lost."""
    theirs = host.connect()
    line = "echo $$; nohup sleep 1000 2>&1 | cat & trap '' HUP; while :; do sleep 0.1; done"
    shell = Said(theirs.open("shell", job=job, argv=[line], tty=tty))
    shell.until(b"\n")
    pid = int(shell.out[1].split()[0])
    until(lambda: len(host.alive(job)) > 4, "the shell's own processes")
    if how == "closed":
        shell.stream.close("I have enough")
    else:
        theirs.process.kill()
    until(lambda: pid not in host.alive(job), "the end of the shell")
    until(lambda: len(host.alive(job)) == 2, "the job alone")
    theirs.close()


def test_a_signal_does_not_wait_for_input_to_be_read(bridge: Bridge, job: str) -> None:
    """Though the program reads nothing of what comes before."""
    program = Said(bridge.open("shell", job=job, argv=["echo begun; exec sleep 1000"]))
    program.until(b"begun")
    program.stream.write(bytes(2 << 20))
    program.stream.write(head={"eof": True})
    program.stream.write(head={"signal": "INT"})
    assert program.code() == 130


@pytest.mark.parametrize("how", ["closed", "bridge"])
def test_who_goes_away_is_missed_by_what_reads_no_input(host: RunnerHost, bridge: Bridge, job: str, how: str) -> None:
    """And says nothing: more than it takes has been sent, so that nobody reads and nobody can write."""
    theirs = host.connect()
    program = Said(theirs.open("shell", job=job, argv=["echo begun; exec sleep 1000"]))
    program.until(b"begun")
    program.stream.write(bytes(2 << 20))
    time.sleep(0.3)
    if how == "closed":
        program.stream.close("I have enough")
    else:
        theirs.process.kill()
    until(lambda: len(host.alive(job)) == 2, "the job alone")
    theirs.close()


def test_what_is_not_understood_ends_the_program(host: RunnerHost, bridge: Bridge, job: str) -> None:
    """It is not left with nobody who would end it."""
    stream = bridge.open("shell", job=job, argv=["sleep 1000"])
    stream.write(head={"size": "tall"})
    with pytest.raises(StreamError, match="stumbled"):
        while stream.read():
            pass
    stream.close()
    until(lambda: len(host.alive(job)) == 2, "the job alone")


def test_a_runner_that_can_open_no_file_hangs_up_too(host: RunnerHost, bridge: Bridge, job: str) -> None:
    """On the program at once, and on the rest of its session once it can find it."""
    theirs = host.connect()
    line = "nohup sleep 1000 >/dev/null 2>&1 & trap '' HUP; echo $$; while :; do sleep 0.1; done"
    shell = Said(theirs.open("shell", job=job, argv=[line]))
    shell.until(b"\n")
    pid = int(shell.out[1])
    runner = host.runner_pid()
    limit = resource.prlimit(runner, resource.RLIMIT_NOFILE)
    resource.prlimit(runner, resource.RLIMIT_NOFILE, (3, limit[1]))
    theirs.process.kill()
    until(lambda: pid not in host.alive(job), "the end of the shell")
    resource.prlimit(runner, resource.RLIMIT_NOFILE, limit)
    until(lambda: len(host.alive(job)) == 2, "the job alone")
    theirs.close()


def test_the_next_runner_hangs_up_on_what_a_killed_one_has_left(host: RunnerHost) -> None:
    """Though deaf to SIGHUP and not on a terminal; not on what was left in the background before."""
    theirs, job = host.connect(), f"sh-{uuid.uuid4().hex[:12]}"
    theirs.run(job, "sleep 1000 & wait")
    stays = int(said(theirs.open("shell", job=job, argv=["nohup sleep 1000 >/dev/null 2>&1 & echo $!"]))[1])
    until(lambda: not glob.glob(host.path(job, "shells/*")), "no shell")
    shell = Said(theirs.open("shell", job=job, argv=["trap '' HUP; echo $$; while :; do sleep 0.1; done"]))
    shell.until(b"\n")
    pid = int(shell.out[1])
    until(lambda: glob.glob(host.path(job, "shells/*")), "a shell that is noted")
    host.kill_runner()
    assert pid in host.alive(job)
    again = host.connect()
    until(lambda: pid not in host.alive(job), "the end of the shell")
    assert stays in host.alive(job)
    assert os.listdir(host.path(job, "shells")) == []
    again.ask("stop", job=job, abort=True)
    again.end_of(job)


@pytest.mark.skipif(os.getuid() != 0, reason="takes processes of two users")
def test_the_environment_is_that_of_the_job_s_own_user(host: RunnerHost) -> None:
    """Not of whoever else takes the job's mark, where the job itself has given it away."""
    bridge, job = host.connect(), f"sh-{uuid.uuid4().hex[:12]}"
    bridge.run(job, "env -i sleep 1000 & exec env -i sleep 1000")
    until(lambda: not any(processes.is_of_job(pid, job) for pid in host.alive(job)), "no mark")
    other = subprocess.Popen(["sleep", "1000"], user=65534, env={processes.MARK: job, "LD_PRELOAD": "/tmp/theirs"})
    try:
        with pytest.raises(RefusalError, match="has its environment any more"):
            bridge.open("shell", job=job, argv=["true"])
    finally:
        other.kill()
        other.wait()
    bridge.ask("stop", job=job, abort=True)
    bridge.end_of(job)


def test_what_cannot_be_entered_says_why(host: RunnerHost, bridge: Bridge, job: str) -> None:
    """A folder that is not there; a job that has not started, or has ended, or is not known, or another's."""
    assert said(bridge.open("shell", job=job, argv=["nonesuch"]))[0] == 127
    shutil.rmtree(host.path(job, "work"))
    with pytest.raises(RefusalError, match="No such file or directory"):
        bridge.open("shell", job=job, argv=["true"])
    other = f"{job}-2"
    with pytest.raises(RefusalError, match="not on this host"):
        bridge.open("shell", job=other)
    bridge.prepare(other, "sleep 1000")
    with pytest.raises(RefusalError, match="not started") as refusal:
        bridge.open("shell", job=other)
    assert refusal.value.cause == "waits"
    bridge.ask("start", job=other)
    shell = Said(bridge.open("shell", job=other, tty=size(24, 80)))
    with pytest.raises(RefusalError, match="another pool"):
        host.connect(pool="b" * 32).open("shell", job=other)
    bridge.ask("stop", job=other, grace_s=5)
    assert bridge.end_of(other)["exit_code"] == 130
    assert shell.code() in (129, 137, 143)
    with pytest.raises(RefusalError, match="has ended") as refusal:
        bridge.open("shell", job=other)
    assert refusal.value.cause == "ended"


def test_no_more_streams_than_a_host_can_bear(host: RunnerHost, bridge: Bridge) -> None:
    """One server opens so many; the next is refused in words, and taken as soon as one is closed."""
    name = f"sh-{uuid.uuid4().hex[:12]}"
    bridge.run(name, f"ulimit -n 2000\nexec {sys.executable} - <<'END'\n{MANY}\nEND")
    theirs = host.connect()
    said_of = Path(host.path(name, "work"), "port")
    until(said_of.exists, "its port")
    port = int(said_of.read_text())
    opened = [theirs.open("port", job=name, port=port) for _ in range(512)]
    with pytest.raises(RefusalError, match="512 streams"):
        theirs.open("port", job=name, port=port)
    opened.pop().close("enough")
    until(lambda: _opens(theirs, name, port), "room for another one")
    theirs.close()
    bridge.ask("stop", job=name, abort=True)
    bridge.end_of(name)


def _opens(bridge: Bridge, job: str, port: int) -> bool:
    try:
        bridge.open("port", job=job, port=port)
    except RefusalError:
        return False
    return True
