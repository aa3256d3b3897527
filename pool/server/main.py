"""The server's process: `python -m pool.server.main`. Started by the first `pool` command, or by hand to watch it.

One server a state folder: it holds `server.lock` for its life. kill -9 loses nothing that was acknowledged.
A socket that systemd hands over, as a head node's, is served beside that of the state folder.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import signal
import socket
import sys
from typing import TYPE_CHECKING

import anyio.to_thread
import uvicorn
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from uvicorn.protocols.http.h11_impl import H11Protocol

from pool import config
from pool.errors import FencedError, NotFoundError
from pool.lifecycle.assemble import assemble
from pool.server.peer import peer_uid
from pool.server.routes import routes
from pool.server.streams import openers, streams_protocol

if TYPE_CHECKING:
    import asyncio
    from collections.abc import AsyncIterator

    from starlette.requests import Request
    from starlette.responses import Response

_log = logging.getLogger("pool.server")

#: A follower of a run holds one thread while it waits.
_THREADS = 1000
#: Open streams get this long when the server ends; their readers reconnect by offset.
_GRACE_S = 1
#: The first descriptor that systemd hands over, see sd_listen_fds(3).
_HANDED_OVER = 3


class _PeerProtocol(H11Protocol):
    """HTTP whose client is the uid that the kernel names (SO_PEERCRED), not what a request says."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        peer: socket.socket = transport.get_extra_info("socket")
        self.client = (f"uid:{peer_uid(peer)}", 0)


def main() -> int:
    """Serve until asked to stop; 0 when another server has the folder already, 75 when a newer one took the pool."""
    folder = config.state_dir()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("paramiko").setLevel(logging.CRITICAL)  # what it raises is told; its tracebacks are noise
    lock = os.open(config.path("server.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return 0
    os.umask(0o077)
    # ansible-playbook and its friends are found beside this interpreter, whatever the caller's PATH says.
    os.environ["PATH"] = os.path.dirname(sys.executable) + os.pathsep + os.environ.get("PATH", os.defpath)
    return _serve(folder)


def _serve(folder: str) -> int:
    fenced: list[bool] = []

    def on_fenced() -> None:
        _log.error("a newer server has taken over this pool; this one ends")
        fenced.append(True)
        server.should_exit = True

    ctx, loop = assemble(folder, on_fenced)

    @contextlib.asynccontextmanager
    async def life(_: Starlette) -> AsyncIterator[None]:
        anyio.to_thread.current_default_thread_limiter().total_tokens = _THREADS
        loop.start()
        yield
        loop.end()
        ctx.keeper.close()

    def end() -> None:
        server.should_exit = True

    app = Starlette(routes=routes(ctx, end), lifespan=life, exception_handlers={404: _not_found})
    app.router.redirect_slashes = False
    settings = uvicorn.Config(
        app,
        http=_PeerProtocol,
        ws=streams_protocol(openers(ctx)),
        loop="asyncio",  # whose transports let go of a socket; another loop's may not
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=_GRACE_S,
    )
    server = uvicorn.Server(settings)
    path = config.socket_path()
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)  # ours: we hold the lock
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(path)
    with open(config.path("server.pid"), "w") as file:
        file.write(str(os.getpid()))
    server.run(sockets=[listener, *_handed_over()])
    for name in (path, config.path("server.pid")):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
    _log.info("ended")
    # Threads that wait on a silent host must not hold up the end: everything acknowledged is on disk.
    os._exit(FencedError.exit_code if fenced else 0)


def _handed_over() -> list[socket.socket]:
    """The sockets that systemd listens on for us; what we start gets neither them nor the word of them."""
    pid, number = os.environ.pop("LISTEN_PID", ""), os.environ.pop("LISTEN_FDS", "0")
    os.environ.pop("LISTEN_FDNAMES", None)
    if pid != str(os.getpid()):
        return []
    found = [socket.socket(fileno=_HANDED_OVER + each) for each in range(int(number))]
    for each in found:
        each.set_inheritable(False)
    return found


def _not_found(_: Request, __: Exception) -> Response:
    return JSONResponse(NotFoundError(hint="pool runs, or pool ps").to_json(), status_code=404)


if __name__ == "__main__":
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    sys.exit(main())
