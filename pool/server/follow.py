"""A run as it goes, for a command that follows it: its output and states as frames, over a stream of its own.

Log bytes go from the link to the command by a thread that does nothing else, past the loop that serves HTTP.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pool.errors import InputError
from pool.lifecycle.follow import Notice, Output, follow
from pool.runner import frames
from pool.runner.frames import Frame
from pool.server.endpoint import event
from pool.server.views import run_json

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pool.lifecycle.context import Context


def followed(ctx: Context, head: dict[str, Any]) -> Iterator[Frame]:
    """The frames of the run `head["run"]`; the last one's head has `end`: the run as it is then.

    `ranks` (all when empty), `places` (`{"rank": "attempt:offset"}`, from where a reader goes on) and `live` are as of
    lifecycle/follow.py. InputError, NotFoundError.
    """
    run = ctx.store.runs.named(str(head["run"]))
    try:
        ranks = [int(rank) for rank in head.get("ranks") or ()]
        places = {int(rank): _place(place) for rank, place in (head.get("places") or {}).items()}
    except (ValueError, AttributeError, TypeError) as error:
        raise InputError(f"not a rank or offset: {error}") from error
    for item in follow(ctx, run, ranks=ranks, places=places, live=bool(head.get("live"))):
        if isinstance(item, Output):
            yield event({"rank": item.rank, "attempt": item.attempt, "offset": item.offset}, item.data)
        elif isinstance(item, Notice):
            yield event({"rank": item.rank, "notice": item.text})
        elif item is None:
            yield Frame(frames.PING, 0, {})
        else:
            yield event({"run": run_json(item)})
    yield event({"end": run_json(ctx.store.runs.get(run.id))})


def _place(text: str) -> tuple[int, int]:
    attempt, offset = (int(word) for word in text.split(":"))
    return attempt, offset
