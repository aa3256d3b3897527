"""Every route of the server: each is parse, one call into the lifecycle, and JSON or a stream of frames back."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from starlette.routing import Route

from pool import __version__
from pool.server.code_routes import code_routes
from pool.server.endpoint import Asked, answers_json
from pool.server.host_routes import host_routes
from pool.server.image_routes import image_routes
from pool.server.run_routes import run_routes

if TYPE_CHECKING:
    from collections.abc import Callable

    from pool.lifecycle.context import Context


def routes(ctx: Context, end: Callable[[], None]) -> list[Route]:
    """Every route of a server on `ctx`; `end` makes it stop."""

    def status(_: Asked) -> dict[str, Any]:
        return {"version": __version__, "pid": os.getpid(), "pool_id": ctx.store.pool_id, "folder": ctx.folder}

    def stopped(_: Asked) -> dict[str, Any]:
        end()
        return {}

    return [
        Route("/status", answers_json(status)),
        Route("/stop", answers_json(stopped), methods=["POST"]),
        *host_routes(ctx),
        *image_routes(ctx),
        *code_routes(ctx),
        *run_routes(ctx),
    ]
