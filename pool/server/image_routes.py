"""Routes about images: what the hosts have, and have them pull one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from starlette.routing import Route

from pool.errors import InputError, PoolError
from pool.lifecycle import image
from pool.lifecycle.image import Progress, Pulled, Wanted
from pool.runner import frames
from pool.runner.frames import Frame
from pool.server.endpoint import Asked, answers_json, answers_stream, event

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pool.lifecycle.context import Context


def image_routes(ctx: Context) -> list[Route]:
    """Every route about images."""

    def images(asked: Asked) -> list[dict[str, Any]]:
        names = [str(name) for name in asked.body["hosts"]]
        return [_listed_json(name, found) for name, found in image.listed(ctx, names)]

    return [
        Route("/images", answers_json(images), methods=["POST"]),
        Route("/images/pull", answers_stream(lambda asked: _pull(ctx, asked)), methods=["POST"]),
    ]


def _pull(ctx: Context, asked: Asked) -> Iterator[Frame]:
    """How far each host is, as it comes, and at the `end` how it went on each, in the order they were named."""
    names = [str(name) for name in asked.body["hosts"]]
    ended: dict[str, dict[str, Any]] = {}
    for told in image.pull(ctx, _wanted(asked.body), names):
        if isinstance(told, Progress):
            yield event({"host": told.host, "status": "pulling", "said": told.text})
        elif isinstance(told, Pulled):
            ended[told.host] = _pulled_json(told)
            said = told.error.reason(told.host) if told.error else told.said
            yield event({"host": told.host, "status": "failed" if told.error else "ready", "said": said})
        else:
            yield Frame(frames.PING, 0, {})
    yield event({"end": [ended[name] for name in names]})


def _wanted(body: dict[str, Any]) -> Wanted:
    login = body.get("login")
    if login is not None and not (len(login) == 2 and all(isinstance(word, str) and word for word in login)):
        raise InputError("a login is a username and a password", hint="pool pull --help")
    return Wanted(str(body["image"]), tuple(login) if login else None)


def _pulled_json(pulled: Pulled) -> dict[str, Any]:
    return {
        "host": pulled.host,
        "image": pulled.image,
        "pinned": pulled.pinned or None,
        "said": pulled.said or None,
        "error": pulled.error.to_json() if pulled.error else None,
    }


def _listed_json(name: str, found: list[dict[str, Any]] | PoolError) -> dict[str, Any]:
    if isinstance(found, PoolError):
        return {"host": name, "images": [], "error": found.to_json()}
    return {"host": name, "images": found, "error": None}
