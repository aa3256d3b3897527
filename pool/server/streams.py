"""Streams between a command and a host: `pool ssh`, forwarded ports. The rest of the server speaks HTTP.

A connection that asks to be upgraded becomes a stream of its own (runner/streams.py): the command sends OPEN with
`{"verb": …}`, and the answer is REPLY, or ERROR with a PoolError as JSON. The name in the request is that of WebSocket,
because uvicorn hands over connections that ask for that; nothing else of it is meant.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import os
import socket
import threading
from typing import TYPE_CHECKING, Any, cast

import paramiko

from pool.errors import ConflictError, InputError
from pool.lifecycle.ports import open_port
from pool.lifecycle.streams import open_copy, open_stream, own_run, running_job
from pool.runner import frames
from pool.runner.carry import join
from pool.runner.frames import Frame
from pool.runner.streams import OwnStream, StreamError
from pool.server.endpoint import as_pool_error, event
from pool.server.follow import followed
from pool.server.peer import login_name, peer_uid
from pool.ssh import inbound
from pool.ssh.identity import host_key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pool.lifecycle.context import Context
    from pool.runner.streams import Stream

    #: What serves a command's stream, to its end.
    Serve = Callable[[OwnStream], None]
    #: `open(user, head)`: the head of the answer, and what serves the stream then. PoolError.
    Opener = Callable[[str, dict[str, Any]], tuple[dict[str, Any], Serve]]

#: What a command may take to say what it wants.
_FIRST_S = 30.0
#: Open streams of one user at once: each is a few threads here and on a host.
_USER_MAX = 256

_UPGRADED = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"


def openers(ctx: Context) -> dict[str, Opener]:
    """Every stream that a command may open."""

    def port(user: str, head: dict[str, Any]) -> tuple[dict[str, Any], Serve]:
        return _joined(open_port(ctx, user, head))

    def shell(user: str, head: dict[str, Any]) -> tuple[dict[str, Any], Serve]:
        return _joined(open_stream(ctx, user, head, "shell", argv=head.get("argv"), tty=head.get("tty")))

    def ssh(user: str, head: dict[str, Any]) -> tuple[dict[str, Any], Serve]:
        run = own_run(ctx, user, str(head["run"]))
        running_job(run, int(head.get("rank") or 0))
        return {}, lambda own: inbound.serve(
            own.socket,
            paramiko.Ed25519Key.from_private_key_file(host_key(ctx.folder)),
            lambda argv, tty: open_stream(ctx, user, head, "shell", argv=argv, tty=tty)[1],
            lambda number: open_stream(ctx, user, head, "port", port=number)[1],
        )

    def follow(_: str, head: dict[str, Any]) -> tuple[dict[str, Any], Serve]:
        return {}, lambda own: _say_all(own, followed(ctx, head))

    def copy_out(user: str, head: dict[str, Any]) -> tuple[dict[str, Any], Serve]:
        return _joined(open_copy(ctx, user, head, "copy_out", path=head["path"]))

    def copy_in(user: str, head: dict[str, Any]) -> tuple[dict[str, Any], Serve]:
        more = {name: head[name] for name in ("path", "name", "folder")}
        return _joined(open_copy(ctx, user, head, "copy_in", **more))

    return {
        "port": port,
        "shell": shell,
        "ssh": ssh,
        "copy_out": copy_out,
        "copy_in": copy_in,
        "follow": follow,
    }


def _say_all(own: OwnStream, said: Iterator[Frame]) -> None:
    """An error on the way is a last frame with an `error` head, as in the streams of endpoint.py."""
    try:
        for frame in said:
            own.say(frame)
    except StreamError:
        raise
    except Exception as error:
        own.say(event({"error": as_pool_error(error, "a stream").to_json()}))


def _joined(opened: tuple[dict[str, Any], Stream]) -> tuple[dict[str, Any], Serve]:
    head, stream = opened
    return head, lambda own: join(own, stream)


def streams_protocol(openers: dict[str, Opener]) -> type[asyncio.Protocol]:
    """What takes over a connection that was upgraded, with the verbs that it may ask for."""

    counted = _Counted()

    class StreamsProtocol(asyncio.Protocol):
        def __init__(self, **_: Any) -> None:
            self._taken: socket.socket | None = None

        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self._transport = cast(asyncio.Transport, transport)

        def data_received(self, _: bytes) -> None:
            """The request again; all that it says is that it is one."""
            mine = self._transport.get_extra_info("socket")
            self._taken = socket.socket(fileno=os.dup(mine.fileno()))
            self._transport.abort()  # the loop lets go of it; the connection is ours, through the copy

        def connection_lost(self, _: Exception | None) -> None:
            if self._taken is not None:
                threading.Thread(
                    target=_serve, args=(self._taken, openers, counted), name="stream", daemon=True
                ).start()

    return StreamsProtocol


class _Counted:
    """How many streams each user has open."""

    def __init__(self) -> None:
        self._using = threading.Lock()
        self._open: collections.Counter[int] = collections.Counter()

    @contextlib.contextmanager
    def one(self, uid: int) -> Iterator[bool]:
        """One more, for as long as this lasts; False where these are too many."""
        with self._using:
            self._open[uid] += 1
            fits = self._open[uid] <= _USER_MAX
        try:
            yield fits
        finally:
            with self._using:
                self._open[uid] -= 1
                self._open += collections.Counter()  # keeps who has any


def _serve(link: socket.socket, openers: dict[str, Opener], counted: _Counted) -> None:
    """One stream, from its opening to its end."""
    link.setblocking(True)
    own = OwnStream(link)
    try:
        uid = peer_uid(link)
        with counted.one(uid) as fits:
            link.sendall(_UPGRADED)
            asked = own.first(_FIRST_S)
            try:
                if not fits:
                    raise ConflictError(
                        f"{login_name(uid)} has {_USER_MAX} connections to runs already",
                        hint="end a pool attach, pool logs -f or pool ssh, or what uses a forwarded port",
                        cause="busy",
                    )
                head, serve = _open(uid, openers, asked)
            except Exception as error:
                own.say(Frame(frames.ERROR, 0, as_pool_error(error, "a stream").to_json()))
                return
            own.say(Frame(frames.REPLY, 0, head))
            serve(own)
    except (StreamError, OSError):
        pass  # the command has gone
    finally:
        own.close()


def _open(uid: int, openers: dict[str, Opener], asked: Frame) -> tuple[dict[str, Any], Serve]:
    opener = openers.get(str(asked.head.get("verb")))
    if asked.kind != frames.OPEN or opener is None:
        raise InputError(f"there is no stream {asked.head.get('verb')!r}", hint="is the server of the same version?")
    return opener(login_name(uid), asked.head)
