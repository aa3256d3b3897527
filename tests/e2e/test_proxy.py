"""A person's own OpenSSH comes into a running job: `ssh RUN`, forwards, sftp, with the key that is pinned."""

from __future__ import annotations

import hashlib
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pool.runner import processes
from tests.conftest import Cli
from tests.e2e.test_run import Write, until, write  # noqa: F401 - a fixture
from tests.e2e.test_streams import ECHO, started

#: Listens on a port that it says, and takes no connection: there is no room for one more.
DEAF = """import socket, time
listener = socket.socket()
listener.bind(("127.0.0.1", 0))
listener.listen(0)
port = listener.getsockname()[1]
links = [socket.socket() for _ in range(3)]
for link in links:
    link.setblocking(False)
    link.connect_ex(("127.0.0.1", port))
print(port)
time.sleep(1000)
"""


@pytest.fixture
def person(ready: Cli, tmp_path: Path) -> Cli:
    """The same pool, for somebody with a home of their own, whose ssh has the entry."""
    cli = Cli(ready.env | {"HOME": str(tmp_path / "home")})
    (tmp_path / "home").mkdir()
    return cli


@pytest.fixture
def job(ready: Cli, write: Write) -> Iterator[int]:  # noqa: F811
    """The run `inside`, which echoes on a port; the port."""
    folder = write("python3 echo.py", env=["WORD=of the task"], resources={"gpu": 1})
    Path(folder, "echo.py").write_text(ECHO, encoding="ascii")
    yield started(ready, folder, "inside")
    ready("stop", "inside", "--abort")


def entered(cli: Cli) -> list[str]:
    """`ssh` with the entry, as after `pool ssh-config --install`; `-F` because ssh looks up the home itself."""
    done = cli("ssh-config", "--install", "-y")
    assert done.rc == 0, done
    return ["ssh", "-F", os.path.join(cli.env["HOME"], ".ssh", "config")]


def test_the_entry_is_put_in_once_and_taken_out(person: Cli, job: int) -> None:
    """What a person's file has stays, and comes after; without a yes nothing is written."""
    path = Path(person.env["HOME"], ".ssh", "config")
    refused = person("ssh-config", "--install")
    assert refused.rc == 2, refused
    assert not path.exists()
    path.parent.mkdir(mode=0o700, exist_ok=True)
    path.write_text("Host other\n  User me\n", encoding="ascii")
    for _ in range(2):
        assert person("ssh-config", "--install", "-y").rc == 0
    first, *rest = path.read_text(encoding="ascii").splitlines()
    assert first.startswith("Include ")
    assert rest == ["Host other", "  User me"]
    shown = person("ssh-config")
    assert "Host inside\n" in shown.stdout
    for _ in range(2):
        assert person("ssh-config", "--remove").rc == 0
    assert path.read_text(encoding="ascii") == "Host other\n  User me\n"


def test_a_forward_of_ssh_itself(person: Cli, job: int) -> None:
    """`ssh -L` to a port of the job; a port that is not the job's is refused, as is any other machine's."""
    ssh = entered(person)
    with socket.create_server(("127.0.0.1", 0)) as other:
        local = [free_port() for _ in range(2)]
        forwards = [f"127.0.0.1:{local[0]}:localhost:{job}", f"127.0.0.1:{local[1]}:localhost:{other.getsockname()[1]}"]
        words = [word for each in forwards for word in ("-L", each)]
        going = subprocess.Popen([*ssh, "-N", *words, "inside"], env=person.env, stderr=subprocess.PIPE)
        try:
            link = connected(local[0])
            data = os.urandom(3 << 20)
            link.settimeout(30)
            back = b""
            link.sendall(data[: 1 << 16])
            while len(back) < 1 << 16:
                back += link.recv(1 << 16)
            assert back == data[: 1 << 16]
            link.close()
            assert connected(local[1]).recv(1) == b""
        finally:
            ended(going)
        assert going.stderr
        assert "connect failed" in going.stderr.read().decode()


def test_commands_of_ssh_run_inside(person: Cli, job: int) -> None:
    """With the job's variables, GPU and folder; exit codes, stderr and stdin's end as of any host."""
    ssh = entered(person)

    def run(command: str, stdin: bytes = b"", *options: str) -> subprocess.CompletedProcess[bytes]:
        argv = [*ssh, *options, "inside", command]
        return subprocess.run(argv, env=person.env, input=stdin, capture_output=True, timeout=60, check=False)

    said = run("echo $WORD; echo $CUDA_VISIBLE_DEVICES; ls; echo wrong >&2; exit 7")
    assert said.returncode == 7
    assert said.stdout.decode().split("\n")[0] == "of the task"
    assert said.stdout.decode().split("\n")[1].startswith("GPU-")
    assert "echo.py" in said.stdout.decode()
    assert said.stderr == b"wrong\n"
    data = os.urandom(8 << 20)
    assert hashlib.sha256(run("cat", data).stdout).digest() == hashlib.sha256(data).digest()
    assert run("kill -9 $$").returncode in (137, 255)
    assert run("tty", b"", "-tt").stdout.startswith(b"/dev/pts/")


def test_a_run_that_begins_later_is_found(person: Cli, write: Write) -> None:  # noqa: F811
    """Once the Include is there nothing more is to be typed; each rank has a name of its own."""
    ssh = entered(person)
    folder = write("sleep 1000", nodes=2)
    assert person("run", ".", "-f", "t.dstack.yml", "-y", "-d", "-n", "later", cwd=folder).rc == 0
    try:
        for name, rank in (("later", b"0"), ("later-rank-0", b"0"), ("later-rank-1", b"1")):
            argv = [*ssh, name, "echo $DSTACK_NODE_RANK"]
            done = subprocess.run(argv, env=person.env, capture_output=True, timeout=60, check=False)
            assert done.stdout.strip() == rank, done
    finally:
        person("stop", "later", "--abort", "-y")


def test_many_commands_at_once_over_one_connection(person: Cli, job: int, tmp_path: Path) -> None:
    """As an editor does, with ControlMaster."""
    ssh = [*entered(person), "-o", f"ControlPath={tmp_path}/m"]
    master = subprocess.Popen([*ssh, "-o", "ControlMaster=yes", "-N", "inside"], env=person.env)
    try:
        wait(lambda: os.path.exists(f"{tmp_path}/m"))
        argv = [[*ssh, "inside", f"echo {number}; cat >&2; exit {number}"] for number in range(20)]
        pipe = subprocess.PIPE
        going = [subprocess.Popen(each, env=person.env, stdin=pipe, stdout=pipe, stderr=pipe) for each in argv]
        for number, each in enumerate(going):
            out, err = each.communicate(b"x" * 100_000, timeout=60)
            assert (out, len(err), each.returncode) == (b"%d\n" % number, 100_000, number)
    finally:
        ended(master)


def test_sftp_and_scp(person: Cli, job: int, tmp_path: Path) -> None:
    """Files go both ways, exact, with the programs that people have."""
    settings = entered(person)[1:]
    data = os.urandom(4 << 20)
    (tmp_path / "there").write_bytes(data)
    batch = f"put {tmp_path}/there sent\nget sent {tmp_path}/back\nls -l\n"
    done = subprocess.run(
        ["sftp", *settings, "-b", "-", "inside"],
        env=person.env,
        input=batch.encode(),
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done
    assert (tmp_path / "back").read_bytes() == data
    argv = ["scp", *settings, "-q", "inside:sent", str(tmp_path / "again")]
    assert subprocess.run(argv, env=person.env, timeout=60, check=False).returncode == 0
    assert (tmp_path / "again").read_bytes() == data


def test_a_changed_key_is_refused(person: Cli, job: int) -> None:
    """Whoever else answers is not spoken to."""
    ssh = entered(person)
    known = Path(person.env["POOL_STATE_DIR"], "ssh", "known_hosts")
    known.write_text("pool-job ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f\n")
    done = subprocess.run([*ssh, "inside", "true"], env=person.env, capture_output=True, timeout=60, check=False)
    assert done.returncode == 255
    assert b"HOST IDENTIFICATION HAS CHANGED" in done.stderr


def test_what_a_command_leaves_in_the_background_stays(person: Cli, job: int) -> None:
    """An editor's server, say: the command's end is no hanging up, though ssh's own input is open still."""
    line = "nohup sleep 1001 >/dev/null 2>&1 & echo $!"
    argv = [*entered(person), "inside", line]
    with subprocess.Popen(argv, env=person.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as ssh:
        assert ssh.stdout
        pid = int(ssh.stdout.readline())
        assert ssh.wait(30) == 0
    time.sleep(3)  # longer than there is between SIGHUP and SIGKILL
    assert lives(pid)


def test_who_hangs_up_takes_the_command_along(person: Cli, job: int) -> None:
    """With all that it has started."""
    argv = [*entered(person), "inside", "echo $$; nohup sleep 1002 2>/dev/null"]
    with subprocess.Popen(argv, env=person.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as ssh:
        assert ssh.stdout
        pid = int(ssh.stdout.readline())
        assert lives(pid)
        ssh.kill()
    wait(lambda: not lives(pid))


def test_a_port_that_does_not_answer_holds_nobody_else_up(person: Cli, job: int, tmp_path: Path) -> None:
    """Over the one connection of a ControlMaster; it is not reached, and that is told in the end."""
    ssh = [*entered(person), "-o", f"ControlPath={tmp_path}/m"]
    local = free_port()
    argv = [*ssh, "-o", "ControlMaster=yes", "inside", f"python3 -uc '{DEAF}'"]
    master = subprocess.Popen(argv, env=person.env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    try:
        assert master.stdout
        forward = f"127.0.0.1:{local}:localhost:{int(master.stdout.readline())}"
        argv = [*ssh, "-O", "forward", "-L", forward, "inside"]
        assert subprocess.run(argv, env=person.env, timeout=60, check=False).returncode == 0
        links = [connected(local) for _ in range(3)]
        time.sleep(0.1)
        began = time.monotonic()
        assert subprocess.run([*ssh, "inside", "true"], env=person.env, timeout=60, check=False).returncode == 0
        assert time.monotonic() - began < 5
        for link in links:
            link.settimeout(60)
            assert link.recv(1) == b""
            link.close()
    finally:
        ended(master)


def test_a_terminal_of_ssh_has_the_size_of_the_person_s(person: Cli, job: int) -> None:
    """From the start, and each time that it changes."""
    typing = person.person_of(*entered(person), "-tt", "inside")
    typing.setwinsize(33, 77)
    typing.sendline("stty size")
    typing.expect("33 77\r\n")
    typing.setwinsize(44, 99)
    typing.sendline("stty size")
    typing.expect("44 99\r\n")
    typing.sendline("exit 3")
    typing.wait()
    assert typing.exitstatus == 3


def lives(pid: int) -> bool:
    """True while it runs; the hosts of a lab are this one."""
    return processes.alive(processes.identity(pid))


def ended(ssh: subprocess.Popen[bytes]) -> None:
    """End it. OpenSSH before 9.4 does not notice a SIGTERM that comes just before it waits: then it is told again."""
    deadline = time.monotonic() + 30
    while ssh.poll() is None:
        assert time.monotonic() < deadline
        ssh.terminate()
        time.sleep(0.05)


def wait(look: Callable[[], object]) -> None:
    """Until it is so."""
    deadline = time.monotonic() + 30
    while not look():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def free_port() -> int:
    """A TCP port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as each:
        return int(each.getsockname()[1])


def connected(port: int) -> socket.socket:
    """A connection, once somebody listens."""
    deadline = time.monotonic() + 30
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port))
        except ConnectionRefusedError:
            assert time.monotonic() < deadline
            time.sleep(0.05)
