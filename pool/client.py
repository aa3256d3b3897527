"""Talks to the pool server over its Unix socket; starts it when it does not run. The CLI's way in, and the Python SDK.

One that is shared (`POOL_SERVER`, or a head node's) is never started from here: systemd does that.

    Client().get("/hosts")                       JSON
    Client().stream("GET", "/runs/x/states")     frames: (head, body) pairs
    Client().events("follow", run="x", live=1)   the same over a stream, for much at once
    Client().open("port", run="x", port=6006)    bytes both ways

Each call is a connection of its own; there is nothing to open or close.
Light on purpose: importing `http.client` alone costs more than this file may (`pool ps` <= 5 x `python -c pass`).
HTTP/1.0 with `Connection: close` needs no more than this.
"""

from __future__ import annotations

import json
import os
import socket
import time

from pool import config
from pool.errors import ServerError, from_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

    from pool.runner.streams import OwnStream

#: How long a server that was just started may take until it answers.
_START_S = 30.0
#: Read from the socket at once: four times as much halves the throughput of a log (cold memory, a writer that waits).
_CHUNK = 1 << 16


class Client:
    """The server of this machine's state folder. Every error it answers is raised as the PoolError it was."""

    def __init__(self, *, start: bool = True) -> None:
        """`start`: start the server when it does not run; else ServerError."""
        self._start = start and not config.shared_socket()
        self._again = start

    def get(self, path: str) -> Any:
        """GET as JSON; asked again when the server dies under it."""
        return again(lambda client: client._json("GET", path), self) if self._again else self._json("GET", path)

    def post(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """POST a JSON object, answer as JSON."""
        return self._json("POST", path, body or {})

    def put(self, path: str, pieces: Iterable[bytes], length: int) -> Any:
        """PUT `length` bytes that come in pieces, answer as JSON."""
        with self._connect() as link:
            _send_all(link, _head("PUT", path, length))
            for piece in pieces:
                _send_all(link, piece)
            return _answer(link)

    def stream(
        self, method: str, path: str, body: dict[str, Any] | None = None
    ) -> Iterator[tuple[dict[str, Any], bytes]]:
        """The frames of a stream, heads and bodies, as they come.

        An `error` head is raised. ServerError when the stream is cut off before its `end` head.
        """
        with self._connect() as link:
            _send(link, method, path, body)
            yield from _frames(link, _check_status(link))

    def events(self, verb: str, **head: Any) -> Iterator[tuple[dict[str, Any], bytes]]:
        """The frames of a stream that only the server speaks on; as of `stream`."""
        from pool.runner.frames import OPEN, Frame, encode

        with self._connect() as link:
            _upgrade(link)
            _send_all(link, encode(Frame(OPEN, 0, {"verb": verb, **head}), local=True))
            yield from _frames(link, b"")

    def open(self, verb: str, **head: Any) -> tuple[dict[str, Any], OwnStream]:
        """Open a stream: the head of the answer, and the stream, to be closed in the end. The PoolError it answers."""
        from pool.runner.frames import ERROR, OPEN, Frame
        from pool.runner.streams import OwnStream, StreamError

        link = self._connect()
        stream = OwnStream(link)
        try:
            _upgrade(link)
            stream.say(Frame(OPEN, 0, {"verb": verb, **head}))
            answer = stream.first()
            if answer.kind == ERROR:
                raise from_json(answer.head)
        except BaseException as error:
            link.close()
            if isinstance(error, StreamError):
                raise _cut_off() from None
            raise
        return answer.head, stream

    def _json(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        with self._connect() as link:
            _send(link, method, path, body)
            return _answer(link)

    def _connect(self) -> socket.socket:
        link = _dial()
        if link is None and self._start:
            start()
            link = _dial()
        if link is None:
            shared = config.shared_socket()
            if shared:
                raise ServerError(f"no pool server answers at {shared}", hint="systemctl status pool-server.socket")
            raise ServerError("the pool server does not run", hint="pool server start")
        return link


def start() -> None:
    """Start the server, unless it runs; returns when it answers. ServerError when it does not come up."""
    log_path = config.path("server.log")
    server = _spawn(log_path)
    deadline = time.monotonic() + _START_S
    while True:
        link = _dial()
        if link is not None:
            link.close()
            return
        ended = server.poll()
        if ended == 0 and not _is_locked():  # another was there, and has gone before it answered
            server = _spawn(log_path)
        elif ended:
            killed = ended < 0
            said = f"it was killed by signal {-ended}" if killed else _last_line(log_path)
            raise ServerError(f"the server ended at its start: {said}", hint=f"tail {log_path}", cut_off=killed)
        if time.monotonic() > deadline:
            raise ServerError(f"the server did not answer within {_START_S:.0f} s", hint=f"tail {log_path}")
        time.sleep(0.01)


def _spawn(log_path: str) -> Any:
    """A server of its own session; it ends with 0 at once where another has the state folder."""
    import subprocess
    import sys

    with open(log_path, "ab") as log:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "pool.server.main"],  # -P: not the modules of the caller's folder
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            cwd=config.state_dir(),  # the caller's folder may be unmounted or removed under it
            env=os.environ | {"POOL_STATE_DIR": config.state_dir()} | _absolute("PYTHONPATH"),
        )


def _absolute(name: str) -> dict[str, str]:
    """The search path `name` of the environment, for a program that starts in another folder."""
    parts = os.environ.get(name, "").split(os.pathsep)
    return {name: os.pathsep.join(os.path.abspath(part) for part in parts if part)} if any(parts) else {}


def _dial() -> socket.socket | None:
    link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    shared = config.shared_socket()
    path = shared or config.socket_path()
    try:
        link.connect(path)
    except (FileNotFoundError, ConnectionRefusedError):
        link.close()
        return None
    except OSError as error:
        link.close()
        hint = (
            f"stat --format=%G {path}   says whose group may ask it" if shared else "is POOL_STATE_DIR another user's?"
        )
        raise ServerError(f"{path}: {error.strerror}", hint=hint) from error
    return link


def again(ask: Callable[[Client], Any], client: Client | None = None) -> Any:
    """What `ask` returns, asked again when the server dies under it: for requests that may be repeated."""
    client, lost_at = client or Client(), None
    while True:
        try:
            return ask(client)
        except ServerError as error:
            if lost_at is None and not error.details.get("cut_off"):
                raise
            lost_at = lost_at or time.monotonic()
            if time.monotonic() - lost_at > _START_S:
                raise
        time.sleep(0.1)
        client = Client(start=died())


def died() -> bool:
    """True when our server has ended without having been asked to: its pid file is left, and nobody holds its lock."""
    return not config.shared_socket() and os.path.exists(config.path("server.pid")) and not _is_locked()


def _is_locked() -> bool:
    """True while a server has the state folder, also before it answers."""
    import fcntl

    with open(config.path("server.lock"), "ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _send(link: socket.socket, method: str, path: str, body: dict[str, Any] | None) -> None:
    data = b"" if body is None else json.dumps(body).encode()
    _send_all(link, _head(method, path, len(data)) + data)


def _send_all(link: socket.socket, data: bytes) -> None:
    try:
        link.sendall(data)
    except (BrokenPipeError, ConnectionResetError):
        return  # it may have answered before it hung up: whoever reads finds out


def _upgrade(link: socket.socket) -> None:
    """Make a stream of a connection to the server."""
    _send_all(link, _head("GET", "/streams", 0, upgrade=True))
    _check_status(link, wanted=101)


def _frames(link: socket.socket, rest: bytes) -> Iterator[tuple[dict[str, Any], bytes]]:
    """Heads and bodies, `rest` having been read, up to the one with `end`."""
    from pool.runner.frames import ERROR, PING, REPLY, Decoder

    decoder = Decoder(local=True)
    while True:
        for frame in decoder.feed(rest):
            if frame.kind == ERROR or "error" in frame.head:
                raise from_json(frame.head if frame.kind == ERROR else frame.head["error"])
            if frame.kind not in (PING, REPLY):
                yield frame.head, frame.body
            if "end" in frame.head:
                return
        rest = _receive(link)
        if not rest:
            raise _cut_off()


def _receive(link: socket.socket) -> bytes:
    """Some bytes; none at the end, however it came."""
    try:
        return link.recv(_CHUNK)
    except ConnectionResetError:
        return b""


def _cut_off() -> ServerError:
    return ServerError("the connection to the server was cut off", hint="pool server status", cut_off=True)


def _head(method: str, path: str, length: int, *, upgrade: bool = False) -> bytes:
    """The head of a request; `upgrade` makes a stream of the connection (server/streams.py says why WebSocket)."""
    agent = os.environ.get("SSH_AUTH_SOCK", "")
    more = f"Pool-Agent: {agent}\r\n" if agent.isascii() and agent.isprintable() and agent else ""
    more += "Connection: Upgrade\r\nUpgrade: websocket\r\n" if upgrade else f"Content-Length: {length}\r\n"
    return f"{method} {path} HTTP/1.{int(upgrade)}\r\nHost: pool\r\n{more}\r\n".encode()


def _answer(link: socket.socket) -> Any:
    body = b"".join([_check_status(link), *iter(lambda: _receive(link), b"")])
    try:
        return json.loads(body)
    except ValueError:
        raise _cut_off() from None


def _check_status(link: socket.socket, wanted: int = 200) -> bytes:
    """Read the answer's head; what was read of its body. Raises the error that the server answered."""
    data = b""
    while b"\r\n\r\n" not in data:
        chunk = _receive(link)
        if not chunk:
            raise _cut_off()
        data += chunk
    head, _, body = data.partition(b"\r\n\r\n")
    status = int(head.split(b" ", 2)[1])
    if status == wanted:
        return body
    while chunk := _receive(link):
        body += chunk
    try:
        error = json.loads(body)
    except ValueError:
        raise ServerError(f"the server answered {status}", hint=f"tail {config.path('server.log')}") from None
    raise from_json(error)


def _last_line(path: str) -> str:
    with open(path, "rb") as file:
        file.seek(max(0, os.path.getsize(path) - 2000))
        lines = file.read().decode(errors="replace").strip().splitlines()
    return lines[-1][:300] if lines else "it said nothing"
