"""The client against servers that answer wrongly, half or not at all: always one of our errors, never a hang."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pool import client, config
from pool.client import Client
from pool.errors import ConflictError, InputError, PoolError, ServerError
from pool.runner import frames
from pool.runner.frames import Frame

Serve = Callable[[bytes], "list[bytes]"]


@pytest.fixture
def serve(state_dir: str) -> Iterator[Serve]:
    """`serve(answer)`: each connection gets these bytes and the end; the list has what was asked."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(os.path.join(state_dir, "server.sock"))
    listener.listen()
    asked: list[bytes] = []

    def start(answer: bytes) -> list[bytes]:
        def work() -> None:
            while True:
                try:
                    link, _ = listener.accept()
                except OSError:
                    return
                with link:
                    asked.append(link.recv(1 << 16))
                    link.sendall(answer)

        threading.Thread(target=work, daemon=True).start()
        return asked

    yield start
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    os.unlink(os.path.join(state_dir, "server.sock"))


def answer(body: bytes, status: int = 200) -> bytes:
    """A whole answer."""
    return b"HTTP/1.1 %d x\r\ncontent-length: %d\r\n\r\n" % (status, len(body)) + body


def test_an_answer_and_an_error(serve: Serve) -> None:
    """JSON comes back as a value, an error as what it was."""
    serve(answer(b'{"a": [1]}'))
    assert Client(start=False).get("/x") == {"a": [1]}


def test_an_error_is_raised_as_it_was(serve: Serve) -> None:
    """Class, words, hint."""
    serve(answer(json.dumps(ConflictError("taken", hint="try").to_json()).encode(), 400))
    with pytest.raises(ConflictError, match="taken") as raised:
        Client(start=False).post("/x", {})
    assert raised.value.hint == "try"


@pytest.mark.parametrize(
    "wrong", [b"", b"HTTP/1.1 200", b"HTTP/1.1 200 OK\r\n\r\n", answer(b'{"a": 1}')[:-2], answer(b"oops", 500)]
)
def test_half_an_answer(serve: Serve, wrong: bytes) -> None:
    """An answer that is cut off, empty or no JSON is the server's error, with what to look at."""
    serve(wrong)
    for ask in (lambda: Client(start=False).get("/x"), lambda: Client(start=False).put("/x", [b"y" * 100], 100)):
        with pytest.raises(ServerError) as raised:
            ask()
        assert raised.value.hint


def test_streams(serve: Serve) -> None:
    """Frames until the one that says `end`; pings are not shown; without an end it was cut off."""
    body = b"".join(
        frames.encode(frame, local=True)
        for frame in (
            Frame(frames.EVENT, 0, {"a": 1}, b"x"),
            Frame(frames.PING, 0, {}),
            Frame(frames.EVENT, 0, {"b": 2}),
        )
    )
    asked = serve(answer(body))
    seen = []
    with pytest.raises(ServerError) as raised:
        for head, data in Client(start=False).stream("POST", "/x", {"c": 3}):
            seen.append((head, data))
    assert seen == [({"a": 1}, b"x"), ({"b": 2}, b"")]
    assert raised.value.details["cut_off"]
    assert asked[0].endswith(b'\r\n\r\n{"c": 3}')


def test_a_stream_that_ends_and_one_that_fails(serve: Serve) -> None:
    """`end` is the last; `error` is raised."""
    end, error = Frame(frames.EVENT, 0, {"end": 5}), Frame(frames.EVENT, 0, {"error": InputError("no").to_json()})
    serve(answer(frames.encode(end, local=True) + frames.encode(error, local=True)))
    assert [head for head, _ in Client(start=False).stream("GET", "/x")] == [{"end": 5}]


def test_the_agent_s_socket_is_told_when_it_may_stand_in_a_header(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server may have been started under another; a value that would break the request is not sent."""
    asked = serve(answer(b"null"))
    for value, line in (
        ("/tmp/a.sock", b"Pool-Agent: /tmp/a.sock\r\n"),
        ("a\r\nX: y", b""),
        ("\N{SNOWMAN}", b""),
        ("", b""),
    ):
        monkeypatch.setenv("SSH_AUTH_SOCK", value)
        Client(start=False).get("/x")
        assert (b"Pool-Agent" in asked[-1]) == bool(line)
        assert line in asked[-1]
        assert b"X: y" not in asked[-1]


def test_no_server(state_dir: str) -> None:
    """Without leave to start one it is an error with the command that does."""
    with pytest.raises(ServerError, match="does not run") as raised:
        Client(start=False).get("/x")
    assert raised.value.hint == "pool server start"


def test_died(state_dir: str) -> None:
    """A killed server leaves its pid file and no lock; one that runs holds the lock; one that ended leaves neither."""
    assert not client.died()
    pid_file, lock_file = Path(state_dir, "server.pid"), Path(state_dir, "server.lock")
    pid_file.write_text("1")
    with open(lock_file, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert not client.died()
    assert client.died()
    pid_file.unlink()
    assert not client.died()


def test_a_state_folder_that_cannot_be(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One that cannot be made, or is too deep for a socket: what to set instead."""
    (tmp_path / "file").write_text("")
    for path, said in ((tmp_path / "file" / "x", "cannot make the state folder"), (tmp_path / ("x" * 120), "too long")):
        monkeypatch.setenv("POOL_STATE_DIR", str(path))
        with pytest.raises(InputError, match=said) as raised:
            Client().get("/x")
        assert isinstance(raised.value, PoolError)
        assert str(raised.value.hint).startswith("export POOL_STATE_DIR=")


def test_a_shared_server_is_asked_and_never_started(
    serve: Serve, state_dir: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`POOL_SERVER` names its socket; where nobody answers, the error says what to look at, and nothing starts."""
    asked = serve(answer(b"[1]"))
    shared = os.path.join(state_dir, "server.sock")
    monkeypatch.setenv("POOL_STATE_DIR", os.path.join(state_dir, "mine"))
    monkeypatch.setenv("POOL_SERVER", shared)
    assert Client().get("/hosts") == [1]
    assert asked[0].startswith(b"GET /hosts ")
    assert not client.died()
    monkeypatch.setenv("POOL_SERVER", shared + ".none")
    with pytest.raises(ServerError, match="no pool server answers at") as raised:
        Client().get("/hosts")
    assert raised.value.hint == "systemctl status pool-server.socket"
    assert not os.path.exists(os.path.join(state_dir, "mine", "server.log"))


def test_whose_server_is_asked(state_dir: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The one that is named, else the state folder's where that is named, else the head node's where one may ask it."""
    head = tmp_path / "head.sock"
    monkeypatch.setattr(config, "HEAD_SOCKET", str(head))
    assert config.shared_socket() is None
    monkeypatch.delenv("POOL_STATE_DIR")
    assert config.shared_socket() is None
    head.touch()
    assert config.shared_socket() == str(head)
    monkeypatch.setenv("POOL_STATE_DIR", state_dir)
    assert config.shared_socket() is None
