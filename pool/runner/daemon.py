"""The runner's process: a Unix socket in its state folder, one thread a connection, one a request that may wait.

Each connection is one server's bridge. `serve` holds the folder's lock for its life, so there is one runner a folder.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import queue
import signal
import socket
import struct
import sys
import threading
import time
from typing import Any, Callable

from pool.runner import descriptors, durable, frames, notify, presence, processes
from pool.runner.ask import SOCKET, ask
from pool.runner.frames import Decoder, Frame, FrameError
from pool.runner.ledger import RefusedError, cause_of
from pool.runner.peer import Peer
from pool.runner.service import Event, Service
from pool.runner.streams import Stream, StreamError, Streams

#: Users, one name a line, who may speak to a runner that runs as root (the role writes it).
USERS_FILE = "users"
#: Requests under way at once, and such that may wait for something to happen, as a reader of a log does.
_REQUESTS_AT_ONCE, _WAITS_AT_ONCE = 256, 1024
_EVENTS_WAITING = 1000
#: Open at once for one server: each is a few threads and files here.
_STREAMS_MAX = 512
#: A runner that does not answer itself within this time is not well.
_ANSWER_S = 10.0


def serve(state: str) -> int:
    """Run in the foreground until SIGTERM; 1 when another runner has this folder."""
    os.makedirs(state, mode=0o711, exist_ok=True)
    os.chdir(state)  # the socket is bound by its short name: a Unix path may have 107 bytes
    if presence.handed() is None and presence.take(presence.LOCK) is None:
        sys.stderr.write("another runner serves {}\n".format(state))
        return 1
    durable.write_json(os.path.join(state, presence.FILE), processes.identity(os.getpid()), 0o644)
    descriptors.take()
    daemon = Daemon(state)
    signal.signal(signal.SIGTERM, lambda *_: daemon.close())
    notify.ready(lambda: _answers(state))
    daemon.accept_forever()
    daemon.end()
    return 0


def _answers(state: str) -> bool:
    """True when the runner answers as it does to anybody: through its socket."""
    try:
        ask(state, "standing", _ANSWER_S)
    except (RefusedError, OSError):
        return False
    return True


class Daemon:
    """Accepts bridges and passes their requests to the service."""

    def __init__(self, state: str) -> None:
        self._state = state
        self._connections: set[Connection] = set()
        self._closing = False
        self._service = Service(state, self._announce)
        if os.path.exists(SOCKET):
            os.unlink(SOCKET)  # ours: we hold the lock
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self._listener.bind(SOCKET)
        os.chmod(SOCKET, 0o666 if os.getuid() == 0 else 0o600)
        self._listener.listen(64)

    def accept_forever(self) -> None:
        """Until `close`."""
        while True:
            try:
                bridge, _ = self._listener.accept()
            except OSError as error:
                if self._closing:
                    return
                sys.stderr.write("accept: {}\n".format(error))  # out of file descriptors, say: not for ever
                time.sleep(0.1)
                continue
            uid = _peer_uid(bridge)
            if not self._may_speak(uid):
                bridge.close()
                continue
            connection = Connection(bridge, Peer(uid), self._service, self._replace)
            self._connections.add(connection)
            threading.Thread(target=self._serve_one, args=(connection,), daemon=True).start()

    def close(self) -> None:
        """Stop accepting; jobs are not touched."""
        self._closing = True
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def end(self) -> None:
        """After the last connection: leave no process of ours but the supervisors."""
        self._service.close()

    def _serve_one(self, connection: Connection) -> None:
        try:
            connection.serve()
        finally:
            self._connections.discard(connection)

    def _announce(self, pool: str | None, event: Event) -> None:
        for connection in list(self._connections):
            if connection.peer.pool and pool in (None, connection.peer.pool):
                head = event(connection.peer.pool) if callable(event) else event
                connection.tell(Frame(frames.EVENT, 0, head))

    def _replace(self, newest: Peer) -> None:
        """Hang up on servers that `newest` has replaced: they come back, are refused, and know."""
        for connection in list(self._connections):
            if connection.peer.pool == newest.pool and connection.peer.epoch < newest.epoch:
                connection.hang_up()

    def _may_speak(self, uid: int) -> bool:
        if uid in (0, os.getuid()):
            return True
        try:
            with open(os.path.join(self._state, USERS_FILE)) as file:
                names = file.read().split()
            return pwd.getpwuid(uid).pw_name in names
        except (OSError, KeyError):
            return False


class Connection:
    """One bridge: reads frames, answers each request, gives up after `SILENCE_S` without a byte."""

    def __init__(self, bridge: socket.socket, peer: Peer, service: Service, on_hello: Callable[[Peer], None]) -> None:
        self.peer = peer
        self._socket = bridge
        self._service = service
        self._on_hello = on_hello
        self._gone = False
        self._sending = threading.Lock()
        self._room = threading.Semaphore(_REQUESTS_AT_ONCE)
        self._waiting_room = threading.Semaphore(_WAITS_AT_ONCE)
        self._streams = Streams(self.send)
        self._events: queue.Queue[Frame | None] = queue.Queue(_EVENTS_WAITING)

    def serve(self) -> None:
        """Until the other side goes, falls silent or talks nonsense."""
        self._socket.settimeout(frames.SILENCE_S)
        threading.Thread(target=self._tell_events, daemon=True).start()
        decoder = Decoder()
        try:
            while True:
                chunk = self._socket.recv(1 << 16)
                if not chunk:
                    return
                for frame in decoder.feed(chunk):
                    self._take(frame)
        except (OSError, FrameError):
            return
        finally:
            self.hang_up()
            with self._sending:
                self._socket.close()

    def tell(self, event: Frame) -> None:
        """Send an event without waiting; one who does not read them is hung up on, and asks again when it is back."""
        try:
            self._events.put_nowait(event)
        except queue.Full:
            self.hang_up()

    def send(self, frame: Frame) -> None:
        """Send one frame. What cannot be sent whole ends the connection: the next frame would be taken for its rest."""
        with self._sending:
            try:
                frames.send(self._socket, frame)
            except OSError:
                self.hang_up()

    def hang_up(self) -> None:
        """End the connection; `serve` returns."""
        self._gone = True
        self._streams.lost("the server has hung up")
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(queue.Full):
            self._events.put_nowait(None)

    def _tell_events(self) -> None:
        while not self._gone:
            event = self._events.get()
            if event is not None:
                self.send(event)

    def _take(self, frame: Frame) -> None:
        if frame.kind == frames.PING:
            self.send(Frame(frames.PONG, 0, {}))
        elif frame.kind == frames.EVENT and frame.head.get("event") == "bridge":
            self.peer.ssh_ip = frame.head.get("ssh_ip")
        elif frame.kind in (frames.REQUEST, frames.OPEN):
            self._begin(frame)
        else:
            self._streams.take(frame)

    def _begin(self, frame: Frame) -> None:
        """Answer in a thread of its own; never wait here, where pings and the end of others' requests are heard."""
        room = self._waiting_room if frame.head.get("wait_s") else self._room
        if not room.acquire(blocking=False):
            self._refuse(frame, "too_many", "this host has too much to answer at once", {})
            return
        act = self._answer if frame.kind == frames.REQUEST else self._open
        threading.Thread(target=act, args=(frame, room), daemon=True).start()

    def _open(self, frame: Frame, room: threading.Semaphore) -> None:
        """Open a stream and serve it to its end; an open one takes no room of the requests."""
        stream = self._streams.add(frame.stream)
        serve: Callable[[Stream], None] | None = None

        def opened() -> tuple[dict[str, Any], bytes]:
            nonlocal serve
            if self._streams.count > _STREAMS_MAX:
                raise RefusedError("busy", "{} streams to this host are open already".format(_STREAMS_MAX))
            head, serve = self._service.open(self.peer, frame.head)
            return head, b""

        self._reply(frame, opened, room)
        why = ""
        try:
            if serve is not None:
                serve(stream)
        except StreamError:
            pass  # the other side knows
        except Exception as error:
            why = "the host stumbled: {!r}".format(error)
        stream.close(why)

    def _answer(self, frame: Frame, room: threading.Semaphore) -> None:
        self._reply(frame, lambda: self._service.handle(self.peer, frame.head, frame.body), room)
        if frame.head.get("verb") == "hello" and self.peer.pool:
            self._on_hello(self.peer)

    def _reply(self, frame: Frame, act: Callable[[], tuple[dict[str, Any], bytes]], room: threading.Semaphore) -> None:
        try:
            head, body = act()
            self.send(Frame(frames.REPLY, frame.stream, head, body))
        except RefusedError as refusal:
            self._refuse(frame, refusal.cause, str(refusal), refusal.details)
        except OSError as error:
            self._refuse(frame, cause_of(error), "{}: {}".format(frame.head.get("verb"), error), {})
        except Exception as error:  # whatever it was: who waits gets an answer
            self._refuse(frame, "bad_request", "{}: {!r}".format(frame.head.get("verb"), error), {})
        finally:
            room.release()

    def _refuse(self, frame: Frame, cause: str, message: str, details: dict[str, Any]) -> None:
        self.send(Frame(frames.ERROR, frame.stream, {"cause": cause, "message": message, "details": details}))


def _peer_uid(bridge: socket.socket) -> int:
    raw = bridge.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    return int(struct.unpack("3i", raw)[1])
