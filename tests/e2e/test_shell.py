"""`pool ssh RUN` as a person types it: a shell inside of the job, and commands; at a terminal and in a pipe."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import Cli
from tests.e2e.test_run import Write, until, write  # noqa: F401 - a fixture


@pytest.fixture
def run(ready: Cli, write: Write) -> Iterator[str]:  # noqa: F811
    """A live run of two ranks."""
    folder = write("echo here; sleep 1000", nodes=2, env={"WORD": "a b"}, resources={"gpu": 1})
    Path(folder, "file").write_text("of the folder\n", encoding="ascii")
    done = ready("run", ".", "-f", "t.dstack.yml", "-y", "-d", "-n", "shell-1", cwd=folder)
    assert done.rc == 0, done
    until(ready, "shell-1", "running")
    yield "shell-1"
    ready("stop", "shell-1", "--abort")


def piped(cli: Cli, *words: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """The command without a terminal, in bytes."""
    return subprocess.run(cli.argv(*words), input=stdin, env=cli.env, capture_output=True, timeout=120, check=False)


def test_a_command(ready: Cli, run: str) -> None:
    """In the job's folder, with its variables and GPUs, of the rank that was asked for; its exit code is kept."""
    done = ready("ssh", run, "--", "cat file; echo $WORD $DSTACK_NODE_RANK; echo err >&2; exit 3")
    assert (done.rc, done.stdout, done.stderr) == (3, "of the folder\na b 0\n", "err\n")
    done = ready("ssh", run, "--rank", "1", "--", "printf", "%s|", "$WORD", "x  y", "*")
    assert (done.rc, done.stdout) == (0, "$WORD|x  y|*|")
    gpus = ready("ssh", run, "nvidia-smi", "-L").stdout
    given = ready("ssh", run, "--", "echo $CUDA_VISIBLE_DEVICES").stdout.strip()
    assert given and given in gpus
    assert ready("ssh", run, "--", "kill -9 $$").rc == 137
    assert ready("ssh", run, stdin="echo from stdin; exit 4").rc == 4


def test_bytes_are_exact(ready: Cli, run: str) -> None:
    """50 MB of all bytes there are, into the job and back, and the end of input."""
    data = os.urandom(50 << 20)
    done = piped(ready, "ssh", run, "--", "cat", "-", stdin=data)
    assert (done.returncode, done.stderr) == (0, b"")
    assert hashlib.sha256(done.stdout).digest() == hashlib.sha256(data).digest()
    assert piped(ready, "ssh", run, "--", "head", "-c", "5", stdin=data).stdout == data[:5]


def test_a_terminal(ready: Cli, run: str) -> None:
    """A real one: of our size, also when that changes; Ctrl-C reaches what runs; the shell's exit code is pool's."""
    person = ready.person("ssh", run)
    person.sendline("stty size; tty")
    person.expect("50 200\r\n")
    person.expect("/dev/pts/")
    person.setwinsize(33, 77)
    for _ in range(50):  # until it has heard
        person.sendline("stty size")
        if person.expect(["33 77\r\n", "50 200\r\n"]) == 0:
            break
    else:
        pytest.fail("the new size did not arrive")
    person.sendline("sh -c 'echo asl\"\"eep; exec sleep 1000'")
    person.expect("asleep\r\n")
    person.sendintr()
    person.sendline("echo code $?")
    person.expect("code 130\r\n")
    person.sendline("exit 5")
    person.expect("exit\r\n")
    person.wait()
    assert person.exitstatus == 5


def test_a_command_at_a_terminal(ready: Cli, run: str) -> None:
    """It gets one only with -t; without, Ctrl-C reaches it all the same, and again leaves it."""
    assert ready("ssh", run, "-t", "--", "test -t 0 && test -t 1").rc == 0
    person = ready.person("ssh", run, "--", "test -t 0 || echo no; trap 'echo asked' INT; while :; do sleep 0.1; done")
    person.expect("no\r\n")
    person.sendintr()
    person.expect("asked\r\n")
    person.sendintr()
    person.wait()
    assert person.exitstatus == 130


def running(*words: str) -> bool:
    """Whether a program has this command line."""
    wanted = "\0".join(words).encode() + b"\0"
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/cmdline").read_bytes() == wanted:
                return True
    return False


def soon(what: Callable[[], bool]) -> None:
    """It becomes so."""
    deadline = time.monotonic() + 10
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("size", [300_000, 30_000_000])
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_who_leaves_a_command_that_reads_no_input(
    ready: Cli, run: str, tmp_path: Path, size: int, how: signal.Signals
) -> None:
    """However much of it is still on its way: Ctrl-C ends it, and so does the end of `pool ssh`."""
    (tmp_path / "input").write_bytes(bytes(size))
    seconds = f"{70000 + os.getpid()}.{size + how}"  # nobody else sleeps so long
    with open(tmp_path / "input", "rb") as file:
        argv = ready.argv("ssh", run, "--", "sleep", seconds)
        entered = subprocess.Popen(argv, env=ready.env, stdin=file, stdout=subprocess.DEVNULL)
    soon(lambda: running("sleep", seconds))
    time.sleep(1)
    entered.send_signal(how)
    assert entered.wait(5) == (130 if how == signal.SIGINT else -9)
    soon(lambda: not running("sleep", seconds))


def test_a_server_that_is_killed(ready: Cli, run: str) -> None:
    """The shell is cut off with a clear word, and the terminal is as it was; the next shell works."""
    script = 'before=$(stty -g); "$@"; echo code $?; [ "$before" = "$(stty -g)" ] && echo restored'
    person = ready.person_of("sh", "-c", script, "sh", *ready.argv("ssh", run))
    person.sendline("echo beg''un")
    person.expect("begun\r\n")
    os.kill(int(Path(ready.env["POOL_STATE_DIR"], "server.pid").read_text(encoding="ascii")), signal.SIGKILL)
    person.expect("pool: the connection to the server was cut off\r\n")
    person.expect("code 5\r\nrestored\r\n")
    person.wait()
    assert ready("ssh", run, "--", "echo again").stdout == "again\n"


def test_a_run_that_has_not_started_is_waited_for(ready: Cli, write: Write) -> None:  # noqa: F811
    """With a note; one that has ended is refused."""
    holds = write("sleep 1000", resources={"gpu": 2}, nodes=2)
    waits = write("echo here; sleep 1000", resources={"gpu": 2})
    for name, folder in (("holds", holds), ("waits", waits)):
        assert ready("run", ".", "-f", "t.dstack.yml", "-y", "-d", "-n", name, cwd=folder).rc == 0
        until(ready, name, "running" if name == "holds" else "submitted")
    asking = ready.start("ssh", "waits", "--", "echo inside")
    time.sleep(1)
    ready("stop", "holds", "--abort")
    out, err = asking.communicate(timeout=60)
    assert (asking.returncode, out) == (0, "inside\n"), err
    assert err.startswith("pool: waiting: waits is submitted")
    ready("stop", "waits", "--abort")
    until(ready, "waits", "stopped")
    done = ready("ssh", "waits")
    assert (done.rc, done.stdout) == (4, "")
    assert done.stderr == "pool: waits has ended: stopped\ntry: pool logs waits\n"
    assert ready("ssh", "nonesuch").rc == 3
