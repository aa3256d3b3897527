"""Routes for folders: whether the server has one, its list, and the contents that are wanted of it.

GET /code/SHA256             {"has"}
PUT /code/SHA256             the list (a manifest) -> {"upload", "wanted", "bytes"}; no upload when none is needed
PUT /code/SHA256/UPLOAD      these contents, one after the other
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse
from starlette.routing import Route

from pool.errors import InputError, PoolError
from pool.lifecycle.code import translated
from pool.runner.ledger import RefusedError, cause_of
from pool.runner.manifest import MAX_BYTES
from pool.server.endpoint import Asked, answers_json

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.requests import Request
    from starlette.responses import Response

    from pool.lifecycle.context import Context

#: Written at once: what comes from the socket comes in far smaller pieces.
_PIECE = 1 << 20


def code_routes(ctx: Context) -> list[Route]:
    """Every route for folders."""
    return [
        Route("/code/{sha256}", answers_json(lambda asked: {"has": _has(ctx, asked)})),
        Route("/code/{sha256}", _answers(lambda request: _take_list(ctx, request)), methods=["PUT"]),
        Route("/code/{sha256}/{upload}", _answers(lambda request: _take_contents(ctx, request)), methods=["PUT"]),
    ]


def _has(ctx: Context, asked: Asked) -> bool:
    try:
        return ctx.code.has(asked.path["sha256"])
    except RefusedError as refusal:
        raise translated(refusal) from refusal


def _answers(act: Callable[[Request], Any]) -> Callable[[Request], Any]:
    """An endpoint that answers what `act` makes of the body as it comes."""

    async def endpoint(request: Request) -> Response:
        try:
            return JSONResponse(await act(request))
        except RefusedError as refusal:
            return JSONResponse(translated(refusal).to_json(), status_code=400)
        except OSError as error:
            return JSONResponse(translated(RefusedError(cause_of(error), str(error))).to_json(), status_code=400)
        except PoolError as error:
            return JSONResponse(error.to_json(), status_code=400)

    return endpoint


async def _take_list(ctx: Context, request: Request) -> dict[str, Any]:
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > MAX_BYTES:
            raise InputError(f"the folder's list has more than {MAX_BYTES >> 20} MiB", hint="leave out: .poolignore")
    upload, wanted, size = await run_in_threadpool(ctx.code.begin, request.path_params["sha256"], bytes(data))
    return {"upload": upload, "wanted": wanted.hex(), "bytes": size}


async def _take_contents(ctx: Context, request: Request) -> dict[str, Any]:
    """Write one piece while the next one comes."""
    upload, offset, piece = request.path_params["upload"], 0, bytearray()
    writing: asyncio.Future[None] | None = None
    try:
        async for chunk in request.stream():
            piece += chunk
            if len(piece) >= _PIECE:
                if writing is not None:
                    await writing
                writing = asyncio.ensure_future(run_in_threadpool(ctx.code.write, upload, offset, bytes(piece)))
                offset += len(piece)
                piece.clear()
        if writing is not None:
            await writing
        await run_in_threadpool(ctx.code.write, upload, offset, bytes(piece))
        await run_in_threadpool(ctx.code.finish, upload)
    except BaseException:  # also of one who hung up
        ctx.code.drop(upload)
        raise
    return {}
