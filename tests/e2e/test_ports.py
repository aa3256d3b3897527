"""A job's ports at 127.0.0.1 of the machine where one types: through `pool run` and `pool attach`, by real programs.

The hosts of the lab have the loopback of this machine, so a port of a job never has the same number here.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from websockets.sync.client import connect

from pool.client import Client
from pool.errors import InputError
from tests.conftest import Cli
from tests.e2e.test_run import Write, count, until, write  # noqa: F401 - a fixture

#: Sends back what it hears, to its end, and says how much that was; `late`: only from when the file `open` is there.
ECHO = """
import os, socket, sys, threading, time
while "late" in sys.argv and not os.path.exists(sys.argv[2]):
    time.sleep(0.05)
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])), backlog=200)
print("listening", flush=True)
def serve(link):
    heard = 0
    try:
        while chunk := link.recv(1 << 16):
            heard += len(chunk)
            link.sendall(chunk)
        link.shutdown(socket.SHUT_WR)
        print("whole", heard, flush=True)
    except OSError as error:
        print("broken", type(error).__name__, flush=True)
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
"""
#: Says its name to who connects.
NAMED = """
import os, socket, sys
listener = socket.create_server(("127.0.0.1", int(sys.argv[1]) + int(os.environ["DSTACK_NODE_RANK"])))
while True:
    link = listener.accept()[0]
    link.sendall(os.environ["DSTACK_NODE_RANK"].encode())
    link.close()
"""
#: Never reads, and says what becomes of who connects.
DEAF = """
import select, socket, sys
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])), backlog=200)
links = select.poll()
links.register(listener, select.POLLIN)
held = {}
while True:
    for number, seen in links.poll():
        if number == listener.fileno():
            link = listener.accept()[0]
            held[link.fileno()] = link
            links.register(link, select.POLLRDHUP)
            print("came", flush=True)
        else:
            print("reset" if seen & select.POLLERR else "ended", flush=True)
            links.unregister(number)
"""
#: Listens on IPv6 alone and says "the job".
SIX = """
import socket, sys
listener = socket.socket(socket.AF_INET6)
listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
listener.bind(("::", int(sys.argv[1])))
listener.listen()
while True:
    link = listener.accept()[0]
    link.sendall(b"the job")
    link.close()
"""
WEB = """
import sys
from websockets.sync.server import serve
def upper(socket):
    for message in socket:
        socket.send(message.upper())
serve(upper, "127.0.0.1", int(sys.argv[1]), max_size=None).serve_forever()
"""


def free() -> int:
    """A local port that nobody has."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


class Attached:
    """A `pool run` or `pool attach` that goes on; what it says on stderr, line by line."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[str] = []
        self._changed = threading.Condition()
        threading.Thread(target=self._read, daemon=True).start()
        self.output: list[str] = []
        threading.Thread(target=self._drain, daemon=True).start()

    def until(self, text: str, within_s: float = 30) -> str:
        """The first line with `text` in it."""
        with self._changed:
            found = self._changed.wait_for(lambda: [line for line in self.lines if text in line], within_s)
        assert found, self.lines
        return found[0]

    def written(self, text: str, within_s: float = 30) -> None:
        """Wait until stdout has it."""
        deadline = time.monotonic() + within_s
        while text not in "".join(self.output):
            assert time.monotonic() < deadline, self.output
            time.sleep(0.02)

    def _read(self) -> None:
        assert self.process.stderr
        for line in self.process.stderr:
            with self._changed:
                self.lines.append(line.rstrip("\n"))
                self._changed.notify_all()

    def _drain(self) -> None:
        assert self.process.stdout
        self.output.extend(iter(lambda: self.process.stdout.read(1) if self.process.stdout else "", ""))


Begin = Callable[..., Attached]


@pytest.fixture
def begin(ready: Cli, write: Write) -> Iterator[Begin]:  # noqa: F811
    """`begin(name, program, ports, *arguments)`: that program runs as a task, attached; ended after the test."""
    begun: list[tuple[str, Attached]] = []

    def begin(name: str, program: str, ports: list[object], *arguments: object, nodes: int = 1) -> Attached:
        words = " ".join(str(word) for word in arguments)
        folder = write(f"exec {sys.executable} program.py {words}", ports=ports, nodes=nodes)
        Path(folder, "program.py").write_text(program, encoding="ascii")
        started = Attached(ready.start("run", ".", "-f", "t.dstack.yml", "-y", "-n", name, cwd=folder))
        begun.append((name, started))
        return started

    yield begin
    for name, attached in begun:
        ready("stop", name, "--abort")
        assert attached.process.wait(30) is not None


def echoed(local: int, data: bytes) -> bytes:
    """What comes back of it, to the other side's end."""
    with socket.create_connection(("127.0.0.1", local), timeout=60) as link:
        sender = threading.Thread(target=lambda: (link.sendall(data), link.shutdown(socket.SHUT_WR)))
        sender.start()
        found = b"".join(iter(lambda: link.recv(1 << 18), b""))
        sender.join()
        return found


def test_many_connections_and_much_through_one(begin: Begin) -> None:
    """The URL is said once it answers; a hundred at once, half-closed and answered, and 200 MB both ways, are exact."""
    port, local = free(), free()
    begun = begin("echoes", ECHO, [f"{local}:{port}"], port)
    assert begun.until("http") == f"pool: http://127.0.0.1:{local} -> port {port} of echoes"
    data = [os.urandom(50_000) for _ in range(100)]
    back: dict[int, bytes] = {}
    threads = [threading.Thread(target=lambda n=n: back.update({n: echoed(local, data[n])})) for n in range(100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert back == dict(enumerate(data))
    much = os.urandom(1 << 20) * 200
    assert hashlib.sha256(echoed(local, much)).digest() == hashlib.sha256(much).digest()


def test_a_websocket(begin: Begin) -> None:
    """A real server in the job and a real client here: small and large messages, a ping, a proper end."""
    port, local = free(), free()
    begin("sockets", WEB, [f"{local}:{port}"], port).until(f"-> port {port} of sockets")
    with connect(f"ws://127.0.0.1:{local}", max_size=None) as client:
        for message in ("hello", "x" * 3_000_000, "end"):
            client.send(message)
            assert client.recv(timeout=20) == message.upper()
        assert client.ping().wait(20)


def test_who_comes_before_the_job_listens_waits(begin: Begin, ready: Cli, tmp_path: Path) -> None:
    """Its bytes go through once it does; one that never will is let go of at the end."""
    (port, local), (never, unused) = (free(), free()), (free(), free())
    begun = begin("late-1", ECHO, [f"{local}:{port}", f"{unused}:{never}"], port, tmp_path / "open", "late")
    until(ready, "late-1", "running")
    found: list[bytes] = []
    early = threading.Thread(target=lambda: found.append(echoed(local, b"early bird")))
    early.start()
    begun.until(f"pool: waiting for port {port} of late-1")
    assert not [line for line in begun.lines if "http" in line]
    held = socket.create_connection(("127.0.0.1", unused))
    held.sendall(b"hello")
    begun.until(f"waiting for port {never}")
    (tmp_path / "open").touch()
    early.join(20)
    assert found == [b"early bird"]
    begun.until(f"http://127.0.0.1:{local} ->")
    ready("stop", "late-1", "--abort")
    with pytest.raises(ConnectionResetError):
        held.recv(1)
    assert begun.process.wait(20) == 7


def test_who_has_given_up_does_not_come_late(begin: Begin, ready: Cli, tmp_path: Path) -> None:
    """What it had sent is not sent to the job; who has said all and waits for the answer is not taken for such."""
    port, local = free(), free()
    begun = begin("late-2", ECHO, [f"{local}:{port}"], port, tmp_path / "open", "late")
    until(ready, "late-2", "running")
    for _ in range(15):
        with socket.create_connection(("127.0.0.1", local)) as link:
            link.sendall(b"an old order")
    waits = socket.create_connection(("127.0.0.1", local), timeout=30)
    waits.sendall(b"patient")
    waits.shutdown(socket.SHUT_WR)
    begun.until("waiting for")
    time.sleep(2.5)
    (tmp_path / "open").touch()
    with waits:
        assert b"".join(iter(lambda: waits.recv(100), b"")) == b"patient"
    time.sleep(0.5)
    begun.written("whole 7")
    assert "".join(begun.output).count("whole") == 1
    assert "broken" not in "".join(begun.output)


def test_who_goes_is_missed_by_a_job_that_reads_nothing(begin: Begin, ready: Cli) -> None:
    """Programs here that sent more than anybody takes: the job sees the end of each once `pool attach` has gone."""
    port, local = free(), free()
    begun = begin("deaf", DEAF, [f"{free()}:{port}"], port)
    until(ready, "deaf", "running")
    attached = Attached(ready.start("attach", "deaf", "-p", f"{local}:{port}"))
    attached.until(f"http://127.0.0.1:{local} ->")
    threads = []
    for _ in range(5):
        link = socket.create_connection(("127.0.0.1", local))
        threads.append(threading.Thread(target=lambda link=link: flood(link), daemon=True))
        threads[-1].start()
    deadline = time.monotonic() + 20
    while "".join(begun.output).count("came") < 5:
        assert time.monotonic() < deadline, begun.output
        time.sleep(0.05)
    time.sleep(1)
    attached.process.kill()
    attached.process.wait()
    deadline = time.monotonic() + 10
    while "".join(begun.output).count("reset") < 5:
        assert time.monotonic() < deadline, begun.output
        time.sleep(0.05)
    assert "ended" not in "".join(begun.output)
    for thread in threads:
        thread.join(5)
        assert not thread.is_alive()


def flood(link: socket.socket) -> None:
    """Until nobody is there to take it."""
    with contextlib.suppress(OSError):
        while True:
            link.sendall(bytes(1 << 20))


def test_the_job_alone_is_reached(begin: Begin) -> None:
    """Not another program of the host that has the same port of IPv4, where the job has that of IPv6."""
    port, local = free(), free()
    with socket.create_server(("127.0.0.1", port)) as other:
        other.settimeout(0.3)
        begin("six", SIX, [f"{local}:{port}"], port).until("http")
        for _ in range(3):
            assert echoed(local, b"") == b"the job"
        with pytest.raises(TimeoutError):
            other.accept()


def test_a_port_that_another_program_of_the_host_has(begin: Begin) -> None:
    """It is said, and nobody comes to that program."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        begun = begin("thwarted", "import time; time.sleep(60)", [f"*:{port}"], port)
        assert re.search(
            rf"port {port} of thwarted: another program of gpu\d listens there", begun.until("another program")
        )
        other.settimeout(0.3)
        with pytest.raises(TimeoutError):
            other.accept()


@pytest.mark.parametrize("how", ["in the file", "-p"])
def test_a_local_port_that_is_in_use(ready: Cli, write: Write, how: str) -> None:  # noqa: F811
    """Said with who has it and what to type instead, before anything is submitted; with -d nothing is bound."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        folder = write("true", ports=[port] if how == "in the file" else [])
        words = ["-p", str(port)] if how == "-p" else []
        before = count(ready)
        done = ready("run", ".", "-f", "t.dstack.yml", "-y", "-q", *words, cwd=folder)
        assert (done.rc, count(ready)) == (4, before), done
        who, what = re.escape(f"in use by {Path('/proc/self/comm').read_text().strip()} (pid {os.getpid()})"), r"-p \d+"
        assert re.fullmatch(f"pool: local port {port} is {who}\ntry: {what}:{port}\n", done.stderr)
        detached = ready("run", ".", "-f", "t.dstack.yml", "-y", "-d", *words, cwd=folder)
        assert detached.rc == 0, detached
        until(ready, detached.stdout.strip(), "done")
        any_free = ready("run", ".", "-f", "t.dstack.yml", "-y", "-p", f"*:{port}", cwd=folder)
        assert any_free.rc == 0, any_free
    assert f"ports     127.0.0.1: free -> {port}\n" in any_free.stderr


def test_any_rank(begin: Begin, ready: Cli) -> None:
    """`pool run` has rank 0's; `pool attach --rank` has another's, also one that the task does not declare."""
    port, local = free(), free()
    begun = begin("ranked", NAMED, [f"{local}:{port}"], port, nodes=2)
    assert begun.until("http").endswith(f"-> port {port} of rank 0 of ranked")
    assert echoed(local, b"") == b"0"
    busy = ready("attach", "ranked")
    assert busy.rc == 4
    assert f"local port {local} is in use by" in busy.stderr
    assert ready("attach", "ranked", "--rank", "2", "-p", "1").rc == 3
    other = free()
    attached = Attached(
        ready.start("attach", "ranked", "--rank", "1", "-p", f"{other}:{port + 1}", "-p", f"{free()}:{port}")
    )
    attached.until(f"http://127.0.0.1:{other} -> port {port + 1} of rank 1 of ranked")
    assert echoed(other, b"") == b"1"
    attached.process.terminate()
    assert attached.process.wait(20) == -signal.SIGTERM


def test_only_ports_that_are_declared_or_named(begin: Begin, ready: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server refuses others to whoever does not say that a person named them."""
    port = free()
    begin("declared", ECHO, [f"{free()}:{port}"], port).until("http")
    monkeypatch.setenv("POOL_STATE_DIR", ready.env["POOL_STATE_DIR"])
    with pytest.raises(InputError, match="declares no port 1") as error:
        Client(start=False).open("port", run="declared", rank=0, port=1)
    assert error.value.hint == "pool attach declared -p 1"
    for words, rc in ((["-p", "x"], 2), (["-p", "1", "--no-ports"], 2), (["-p", "7:1", "-p", "7:2"], 2)):
        assert ready("attach", "declared", *words).rc == rc


@pytest.mark.parametrize("victim", ["server", "session"])
def test_what_breaks_on_the_way_breaks_the_connection(begin: Begin, ready: Cli, victim: str) -> None:
    """It is reset on both sides, never ended as if it were whole; the next one goes through again."""
    port, local = free(), free()
    begun = begin(f"breaks-{victim}", ECHO, [f"{local}:{port}"], port)
    begun.until("http")
    with socket.create_connection(("127.0.0.1", local), timeout=60) as link:
        link.sendall(b"x" * 100_000)
        assert link.recv(1)
        if victim == "server":
            os.kill(int(Path(ready.env["POOL_STATE_DIR"], "server.pid").read_text()), signal.SIGKILL)
        else:
            for pid in bridges(ready):
                os.kill(pid, signal.SIGKILL)
        with pytest.raises(ConnectionResetError):
            while link.recv(1 << 16):
                pass
    assert echoed(local, b"again") == b"again"
    begun.written("broken ConnectionResetError")
    begun.written("whole 5")


def bridges(ready: Cli) -> list[int]:
    """The pids of `pool-runner bridge` on the hosts of the lab."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            marked = f"POOL_LAB={ready.env['POOL_LAB']}".encode() in Path(f"/proc/{pid}/environ").read_bytes()
            if marked and Path(f"/proc/{pid}/cmdline").read_bytes().endswith(b"\0bridge\0"):
                found.append(int(pid))
    assert found
    return found


def test_http_as_people_use_it(begin: Begin) -> None:
    """Python's own web server in the job, a page fetched here."""
    port = free()
    program = "import http.server, sys; http.server.test(http.server.SimpleHTTPRequestHandler, port=int(sys.argv[1]))"
    url = begin("web", program, [f"{free()}:{port}"], port).until("http").split()[1]
    with urllib.request.urlopen(f"{url}/program.py", timeout=20) as answer:
        assert answer.read().decode() == program
