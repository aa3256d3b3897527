"""`pool stop`: end a run."""

from __future__ import annotations

import argparse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_EXAMPLES = """\
examples:
  pool stop brave-otter-1            SIGINT to every rank, SIGKILL after the task's stop_duration
  pool stop brave-otter-1 --abort    SIGKILL at once
"""


def register(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "stop",
        description="End a run: SIGINT to every rank, and SIGKILL after the task's stop_duration (30s by default).",
        epilog=_EXAMPLES,
    )
    parser.add_argument("names", nargs="+", metavar="RUN", help="names or ids of runs")
    parser.add_argument("--abort", action="store_true", help="kill at once")
    parser.add_argument("--no-wait", action="store_true", help="do not wait for the end")
    parser.add_argument("-y", "--yes", action="store_true", help="do not ask")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    from urllib.parse import quote

    from pool.cli import render
    from pool.client import Client

    client = Client()
    runs = [client.get(f"/runs/{quote(name, safe='')}") for name in args.names]
    live = [run for run in runs if not run["finished"]]
    for run in runs:
        if run["finished"]:
            render.note(f"{run['name']} has ended already: {run['status']}")
    if live:
        if args.yes or _asks():
            render.confirm(f"Stop {', '.join(run['name'] for run in live)}?", yes=args.yes)
        for run in live:
            client.post(f"/runs/{run['id']}/stop", {"abort": args.abort})
    for run in live:
        if args.no_wait:
            render.note(f"{run['name']} is being stopped")
        else:
            render.note(f"{run['name']} {_wait(client, run)['status']}")
    return 0


def _asks() -> bool:
    """A person at a terminal is asked; a script has said what it wants."""
    import sys

    return sys.stdin.isatty() and sys.stderr.isatty()


def _wait(client: Any, run: dict[str, Any]) -> dict[str, Any]:
    """The run at its end: its stream of states, without its output."""
    for head, _ in client.stream("GET", f"/runs/{run['id']}/states"):
        if "end" in head:
            ended: dict[str, Any] = head["end"]
            return ended
    return run
