"""Shows the steps of long work on hosts as they end: one line each, with the time it took."""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any


def show_steps(stream: Iterator[tuple[dict[str, Any], bytes]]) -> Any:
    """Print the steps of a stream to stderr; what its `end` says. On a terminal the running step is shown too.

    The server does the work: it goes on when this is interrupted, and then that is said.
    """
    from pool.errors import ServerError

    live = sys.stderr.isatty()
    try:
        return _show(stream, live)
    except KeyboardInterrupt:
        sys.stderr.write("\nthe server goes on with it\ntry: pool ps\n")
        raise
    except ServerError as error:
        if error.details.get("cut_off"):
            raise ServerError("the server ended in the middle of this", hint="pool ps") from error
        raise


def _show(stream: Iterator[tuple[dict[str, Any], bytes]], live: bool) -> Any:
    for head, _ in stream:
        if "end" in head:
            _erase(live)
            return head["end"]
        line = f"{head['host']}  {head['step']}"
        _erase(live)
        if head["status"] == "started":
            if live:
                sys.stderr.write(f"{line} …")
        elif head["status"] != "skipped":
            said = f": {head['message']}" if head["message"] else ""
            sys.stderr.write(f"{line}  {head['status']}  {head['seconds']:.1f}s{said}\n")
        sys.stderr.flush()
    return None


def _erase(live: bool) -> None:
    if live:
        sys.stderr.write("\r\x1b[K")
