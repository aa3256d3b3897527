"""HTTP in general: what was asked, by whom, and JSON or a stream of frames as the answer.

A PoolError becomes `{"error", "message", "hint", "details"}` with status 400. Streams are the runner's frames (EVENT,
body = raw bytes); one without an `end` or `error` head was cut off.
"""

from __future__ import annotations

import logging
import os
import stat
from typing import TYPE_CHECKING, Any

from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, StreamingResponse

from pool.errors import InputError, PoolError
from pool.runner import frames
from pool.runner.frames import Frame
from pool.server.peer import login_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from starlette.requests import Request
    from starlette.responses import Response

_log = logging.getLogger(__name__)

#: A task file, its options and its environment together; a folder is uploaded beside it.
_BODY_MAX = 16 << 20


class Asked:
    """One request: its path parameters, query, JSON body and the user who the kernel says is asking."""

    def __init__(self, request: Request, body: dict[str, Any]) -> None:
        _take_agent(request)
        self.path = request.path_params
        self.query = request.query_params
        self.body = body
        self.user = login_name(_uid(request))


def answers_json(act: Callable[[Asked], Any]) -> Callable[[Request], Any]:
    """An endpoint that answers what `act` returns, as JSON."""

    async def endpoint(request: Request) -> Response:
        try:
            asked = Asked(request, await _body(request))
            return JSONResponse(await run_in_threadpool(act, asked))
        except Exception as error:
            return JSONResponse(as_pool_error(error, _what(request)).to_json(), status_code=400)

    return endpoint


def answers_stream(act: Callable[[Asked], Iterator[Frame]]) -> Callable[[Request], Any]:
    """An endpoint that sends the frames `act` yields; an error on the way becomes a last frame with an `error` head."""

    async def endpoint(request: Request) -> Response:
        try:
            asked = Asked(request, await _body(request))
        except Exception as error:
            return JSONResponse(as_pool_error(error, _what(request)).to_json(), status_code=400)

        def sent() -> Iterator[bytes]:
            try:
                for frame in act(asked):
                    yield frames.encode(frame, local=True)
            except Exception as error:
                yield frames.encode(event({"error": as_pool_error(error, _what(request)).to_json()}), local=True)

        return StreamingResponse(sent(), media_type="application/octet-stream")

    return endpoint


def event(head: dict[str, Any], body: bytes = b"") -> Frame:
    """One frame of a stream."""
    return Frame(frames.EVENT, 0, head, body)


def as_pool_error(error: Exception, what: str) -> PoolError:
    """The error itself, or what says that `what` met a bug; that goes to the log."""
    if isinstance(error, PoolError):
        return error
    _log.error("%s", what, exc_info=error)
    return PoolError(f"the server stumbled: {error!r}", hint="see server.log in the state folder")


def _what(request: Request) -> str:
    return f"{request.method} {request.url.path}"


async def _body(request: Request) -> dict[str, Any]:
    if request.method == "GET":
        return {}
    if int(request.headers.get("content-length") or 0) > _BODY_MAX:
        raise InputError(f"the request is larger than {_BODY_MAX >> 20} MiB")
    value = await request.json() if await request.body() else {}
    if not isinstance(value, dict):
        raise InputError("the request is not a JSON object")
    return value


def _uid(request: Request) -> int:
    """The caller, as the kernel tells it of the socket's other end (server/main.py asks it)."""
    client = request.client
    return int(client.host.removeprefix("uid:")) if client and client.host.startswith("uid:") else os.getuid()


def _take_agent(request: Request) -> None:
    """Use the ssh-agent of our own user's latest command: the one this server was started under may be long gone."""
    path = request.headers.get("pool-agent")
    if path and _uid(request) == os.getuid() and path != os.environ.get("SSH_AUTH_SOCK") and _is_socket(path):
        os.environ["SSH_AUTH_SOCK"] = path


def _is_socket(path: str) -> bool:
    try:
        return stat.S_ISSOCK(os.stat(path).st_mode)
    except (OSError, ValueError):
        return False
