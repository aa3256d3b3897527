"""Forwards a job's TCP ports to this machine, each bound to 127.0.0.1, as `pool run` and `pool attach` do.

    forwards = Forwards(ports)                 every local port is bound, or ConflictError and none is
    forwards.start(run, rank, say=print)       connections go through from now on
    forwards.close()

A connection that comes before the job listens is held, its bytes untouched, and goes through once it does, unless the
program here has given it up by then: what that has sent does not come to the job late. What breaks on the way, the
server and the link included, breaks the connection: the program here sees a reset, never an end.
"""

from __future__ import annotations

import contextlib
import errno
import select
import socket
import threading
import time

from pool.client import Client
from pool.errors import ConflictError, PoolError, RunnerError, ServerError, UnreachableError
from pool.runner.carry import carry, cut
from pool.runner.ports import is_held, program_at

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pool.runner.streams import OwnStream

_ADDRESS = "127.0.0.1"
_BACKLOG = 128
#: Connections that wait for one port; more are turned away, as they would be where nobody listens.
_HELD_MAX = 200
#: One question whether the job listens may take so long.
_ASK_S = 20.0
_PAUSE_S = 1.0
#: Of connections that are open when the job has ended: time for the last bytes, which are on their way.
_LAST_BYTES_S = 3.0


class Forwards:
    """The forwarded ports of one rank: `{"container": port, "local": port | None}`, None being any free one."""

    def __init__(self, ports: list[dict[str, Any]]) -> None:
        """Bind all of them. ConflictError names one that is in use, and what to type instead."""
        self._forwards: list[_Forward] = []
        try:
            for port in ports:
                listener = _free(port["container"]) if port["local"] is None else _bound(port["local"], port)
                self._forwards.append(_Forward(listener, port["container"]))
        except BaseException:
            self.close()
            raise

    def start(self, run: dict[str, Any], rank: int, *, say: Callable[[str], object]) -> None:
        """Carry what comes to the ports of that rank, until `close`; `say` gets lines for a person."""
        for forward in self._forwards:
            forward.start(run, rank, say)

    def close(self, *, patient: bool = False) -> None:
        """Take no more connections and let those go that wait; `patient`: the job has ended, so the open ones will."""
        for forward in self._forwards:
            forward.stop()
        deadline = time.monotonic() + _LAST_BYTES_S
        for forward in self._forwards if patient else ():
            forward.drained(deadline - time.monotonic())


class _Forward:
    """One port. `_state` is what was last heard of it: waits, listens, taken or ended."""

    def __init__(self, listener: socket.socket, port: int) -> None:
        self._listener, self._port = listener, port
        self._changed = threading.Condition()
        self._state = "waits"
        self._closed = False
        self._held = self._open = 0
        self._said: set[str] = set()

    def start(self, run: dict[str, Any], rank: int, say: Callable[[str], object]) -> None:
        self._run, self._rank, self._tell = run, rank, say
        self._head = {"rank": rank, "port": self._port, "attached": True}
        for work in (self._watch, self._accept):
            threading.Thread(target=work, name=f"port {self._port}", daemon=True).start()

    def stop(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes who accepts
        self._listener.close()

    def drained(self, patience_s: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: not self._open, max(0.0, patience_s))

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                if self._closed:
                    return
                time.sleep(0.1)  # out of file descriptors, say: not for ever
                continue
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self._serve, args=(sock,), name=f"port {self._port}", daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        with self._changed:
            self._open += 1
        try:
            stream = self._reach(sock)
            if stream is not None:
                carry(stream, sock)
            else:
                cut(sock)
                sock.close()
        finally:
            with self._changed:
                self._open -= 1
                self._changed.notify_all()

    def _reach(self, sock: socket.socket) -> OwnStream | None:
        """A stream to the port, as soon as the job listens there; None when it is not going to, or `sock` has gone."""
        while True:
            try:
                return Client(start=False).open("port", run=self._run["id"], **self._head)[1]
            except PoolError as error:
                if error.details.get("cause") == "busy":
                    with self._changed:
                        self._say("busy", f"pool: {error.message}")
                if not _may_come(error) or not self._hold(sock):
                    return None

    def _hold(self, sock: socket.socket) -> bool:
        """Wait until the job listens; False when it has ended, too many wait, or nobody has the other end of `sock`."""
        with self._changed:
            if self._held >= _HELD_MAX or self._closed:
                return False
            if self._state == "listens":
                self._state = "waits"
                self._said.clear()
            self._changed.notify_all()
            self._say("waits", f"pool: waiting for {self._words()}")
            self._held += 1
        try:
            while not _given_up(sock):
                with self._changed:
                    if self._changed.wait_for(lambda: self._closed or self._state in ("listens", "ended"), _PAUSE_S):
                        return not self._closed and self._state == "listens" and not _given_up(sock)
            return False
        finally:
            with self._changed:
                self._held -= 1

    def _watch(self) -> None:
        """Ask whether the job listens, until it does, and again when a connection found that it does not."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._state != "listens")
                if self._closed:
                    return
            answer = self._ask()
            with self._changed:
                self._state = answer["state"]
                self._changed.notify_all()
                if self._state == "listens":
                    local = self._listener.getsockname()[1]
                    self._say("listens", f"pool: http://{_ADDRESS}:{local} -> {self._words()}")
                elif self._state == "taken":
                    where = f"another program of {answer['host']} listens there"
                    self._say("taken", f"pool: {self._words()}: {where}, so the job cannot; give it another port")
                if self._state in ("taken", "ended") or answer.get("pause"):
                    self._changed.wait_for(lambda: self._closed, _PAUSE_S)

    def _ask(self) -> dict[str, Any]:
        try:
            asked = self._head | {"wait_s": _ASK_S}
            answer: dict[str, Any] = Client(start=False).post(f"/runs/{self._run['id']}/port", asked)
            return answer
        except ServerError:
            return {"state": "waits", "pause": True}  # whoever follows the run starts it again, or says so
        except PoolError as error:
            with self._changed:
                self._say("refused", f"pool: {error.message}")
            return {"state": "ended"}

    def _say(self, what: str, text: str) -> None:
        """Once; with the lock held, so that nothing is said after `stop`."""
        if what not in self._said and not self._closed:
            self._said.add(what)
            self._tell(text)

    def _words(self) -> str:
        rank = f"rank {self._rank} of " if self._run["nodes"] > 1 else ""
        return f"port {self._port} of {rank}{self._run['name']}"


def _given_up(sock: socket.socket) -> bool:
    """True when the program at the other end has closed it, or has gone; not while it only has no more to say."""
    poll = select.poll()
    poll.register(sock, select.POLLRDHUP)
    seen = sum(flags for _, flags in poll.poll(0))
    return bool(seen & (select.POLLERR | select.POLLHUP) or (seen & select.POLLRDHUP and not is_held(sock)))


def _may_come(error: PoolError) -> bool:
    """True where the job may yet listen, or be reached again; not where it refused the connection itself, or ended."""
    if isinstance(error, (ServerError, UnreachableError)):
        return True
    cause = error.details.get("cause")
    return (isinstance(error, ConflictError) and cause == "waits") or (
        isinstance(error, RunnerError) and cause == "not_listening"
    )


def _free(port: int) -> socket.socket:
    """Bound to the first free local port from `port` on."""
    for number in range(port, 65536):
        with contextlib.suppress(OSError):
            return _listen(number)
    raise ConflictError(f"no local port from {port} on is free", hint=f"-p LOCAL:{port}")


def _bound(local: int, port: dict[str, Any]) -> socket.socket:
    container = port["container"]
    try:
        return _listen(local)
    except OSError as error:
        other = _free(max(local + 1, 1024))
        hint = f"-p {other.getsockname()[1]}:{container}"
        other.close()
        if error.errno != errno.EADDRINUSE:
            raise ConflictError(f"local port {local}: {error.strerror}", hint=hint) from error
        program = program_at(local)
        by = f" by {program}" if program else ""
        raise ConflictError(f"local port {local} is in use{by}", hint=hint) from error


def _listen(port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((_ADDRESS, port))
        listener.listen(_BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener
