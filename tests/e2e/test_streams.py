"""Streams into running jobs, from a command through the server and the link to the host, for their owner alone."""

from __future__ import annotations

import hashlib
import os
import socket
import threading
import time
from pathlib import Path

import pytest

from pool.client import Client
from pool.errors import ConflictError, NotFoundError, RunnerError
from pool.runner.frames import Frame
from pool.runner.streams import OwnStream
from tests.conftest import Cli
from tests.e2e.test_run import Write, until, write  # noqa: F401 - a fixture

#: Listens on a free port of the loopback, says which, and sends back to each who connects what it hears, to its end.
ECHO = """
import socket, threading
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
def serve(link):
    while chunk := link.recv(1 << 16):
        link.sendall(chunk)
    link.shutdown(socket.SHUT_WR)
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
"""


@pytest.fixture
def client(ready: Cli, monkeypatch: pytest.MonkeyPatch) -> Client:
    """As the commands speak to the server."""
    monkeypatch.setenv("POOL_STATE_DIR", ready.env["POOL_STATE_DIR"])
    return Client(start=False)


def received(stream: OwnStream) -> bytes:
    """All that comes."""
    found = []
    while frame := stream.read():
        found.append(frame.body)
    return b"".join(found)


def started(ready: Cli, folder: str, name: str) -> int:
    """The task of ECHO runs; its port."""
    done = ready("run", ".", "-f", "t.dstack.yml", "-y", "-d", "-n", name, cwd=folder)
    assert done.rc == 0, done
    until(ready, name, "running")
    while not (said := ready("logs", name).stdout):
        pass
    return int(said)


def test_a_port_of_a_job(ready: Cli, write: Write, client: Client) -> None:  # noqa: F811
    """Many connections at once, far more than a window, both ways, exact; half-closed ones are answered."""
    folder = write("python3 echo.py")
    Path(folder, "echo.py").write_text(ECHO, encoding="ascii")
    port = started(ready, folder, "echo-1")
    try:
        data = [os.urandom(6 << 20) for _ in range(5)]
        back: dict[int, str] = {}

        def echo(number: int) -> None:
            _, stream = client.open("port", run="echo-1", rank=0, port=port, attached=True)
            sender = threading.Thread(target=lambda: (stream.write(data[number]), stream.end()))
            sender.start()
            back[number] = hashlib.sha256(received(stream)).hexdigest()
            sender.join()
            stream.close()

        threads = [threading.Thread(target=echo, args=(number,)) for number in range(len(data))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert back == {number: hashlib.sha256(each).hexdigest() for number, each in enumerate(data)}
        with socket.create_server(("127.0.0.1", 0)) as other, pytest.raises(RunnerError, match="does not listen"):
            client.open(
                "port", run="echo-1", rank=0, port=other.getsockname()[1], attached=True
            )  # the host's, not the job's
        with pytest.raises(NotFoundError, match="no rank 7"):
            client.open("port", run="echo-1", rank=7, port=port, attached=True)
    finally:
        ready("stop", "echo-1", "--abort")
    with pytest.raises(ConflictError, match="has ended"):
        client.open("port", run="echo-1", rank=0, port=port, attached=True)


def test_a_user_has_so_many_and_no_more(ready: Cli, write: Write, client: Client) -> None:  # noqa: F811
    """The next is refused in words; when some have gone, there is room again, also for whoever sends strange heads."""
    folder = write("python3 echo.py")
    Path(folder, "echo.py").write_text(ECHO, encoding="ascii")
    port = started(ready, folder, "echo-2")
    opened: list[OwnStream] = []
    try:
        with pytest.raises(ConflictError, match="has 256 connections to runs"):
            for _ in range(300):
                opened.append(client.open("port", run="echo-2", rank=0, port=port, attached=True)[1])
        assert len(opened) == 256
        for stream in opened:
            stream.write(b"x", {"body": 1, "self": 2})
        assert all((stream.read() or Frame(0, 0, {})).body == b"x" for stream in opened)
        for stream in opened:
            stream.socket.close()
        deadline = time.monotonic() + 10
        while True:
            try:
                client.open("port", run="echo-2", rank=0, port=port, attached=True)[1].close()
                break
            except ConflictError:
                assert time.monotonic() < deadline
    finally:
        ready("stop", "echo-2", "--abort")
