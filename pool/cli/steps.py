"""Shows the steps of long work on hosts as they end: one line each, with the time it took."""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

#: The roles whose steps are shown with what they see to; the others are the runner's.
_PARTS = {"nvidia_driver": "driver", "docker": "docker", "nvidia_container_toolkit": "toolkit"}
#: A step that takes longer is said to be still going on, where there is no terminal to show it at.
_SAY_S = 30.0


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
    due: dict[tuple[str, str], float] = {}  # (host, step) -> how long it will have been waited for when that is said
    for head, _ in stream:
        if "end" in head:
            _erase(live)
            return head["end"]
        part = f"{_PARTS[head['role']]}: " if head["role"] in _PARTS else ""
        line, status = f"{head['host']}  {part}{head['step']}", head["status"]
        if status == "started":
            due[head["host"], head["step"]] = _SAY_S
            _erase(live)
            if live:
                sys.stderr.write(f"{line} …")
        elif status == "waiting":
            _wait(line, head, due, live)
        elif status != "skipped":
            _erase(live)
            sys.stderr.write(_ended(line, head))
        sys.stderr.flush()
    return None


def _wait(line: str, head: dict[str, Any], due: dict[tuple[str, str], float], live: bool) -> None:
    """A step that takes long: at a terminal in place, else a line after half a minute, one, two, four …"""
    key, seconds = (head["host"], head["step"]), head["seconds"]
    if live:
        _erase(live)
        sys.stderr.write(f"{line} … {seconds:.0f} s")
    elif seconds >= due.setdefault(key, _SAY_S):
        due[key] *= 2
        sys.stderr.write(f"{line}  still at it, {seconds:.0f} s\n")


def _ended(line: str, head: dict[str, Any]) -> str:
    said = head["message"].splitlines()
    if head["status"] == "plan":
        return "".join(f"{head['host']}  {each}\n" for each in said)
    ended = f"{line}  {head['status']}  {head['seconds']:.1f}s"
    if len(said) > 1:
        return "".join(f"{each}\n" for each in (ended, *(f"    {row}" for row in said)))
    return ended + (f": {said[0]}" if said else "") + "\n"


def _erase(live: bool) -> None:
    if live:
        sys.stderr.write("\r\x1b[K")
