"""`pool attach`: output and ports of a live run again, as `pool run` had them."""

from __future__ import annotations

import argparse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_EXAMPLES = """\
examples:
  pool attach brave-otter-1                its output from where you stopped reading, then as it comes, and its ports
  pool attach brave-otter-1 --from-start   all of its output again
  pool attach brave-otter-1 --rank 1       output and ports of rank 1
  pool attach brave-otter-1 -p 8001:8000   also port 8000 of it, at http://127.0.0.1:8001
"""


def register(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "attach",
        description="Show a run's output from where you stopped reading, forward its ports, and stay to its end; "
        "Ctrl-C asks: stop or detach.",
        epilog=_EXAMPLES,
    )
    parser.add_argument("name", metavar="RUN", help="name or id of the run")
    parser.add_argument(
        "--rank", type=int, action="append", metavar="K", help="only this rank (repeatable; ports are the first one's)"
    )
    parser.add_argument(
        "-p",
        "--port",
        action="append",
        default=[],
        metavar="[L:]PORT",
        help="forward this port too, or to another local one than the task says (repeatable)",
    )
    parser.add_argument("--no-ports", action="store_true", help="forward none")
    parser.add_argument("--from-start", action="store_true", help="show its output from the start")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    from urllib.parse import quote

    from pool.cli import way_in
    from pool.cli.attached import bound, stay
    from pool.client import Client
    from pool.errors import InputError

    if args.no_ports and args.port:
        raise InputError("--no-ports goes without -p", hint=f"pool attach {args.name} --no-ports")
    run = Client().get(f"/runs/{quote(args.name, safe='')}")
    way_in.enter()
    ports = [] if args.no_ports else _ports(run, args)
    return stay(run, bound(ports), ranks=args.rank, from_start=args.from_start)


def _ports(run: dict[str, Any], args: argparse.Namespace) -> list[dict[str, Any]]:
    """What to forward: of a run that has ended nothing; only its owner has any."""
    from pool.cli import render
    from pool.client import Client
    from pool.errors import ConflictError, OwnerError

    if not args.port and (run["finished"] or not run["ports"]):
        return []
    if run["finished"]:
        raise ConflictError(f"{run['name']} has ended, and its ports with it", hint=f"pool logs {run['name']}")
    try:
        asked = {"rank": args.rank[0] if args.rank else 0, "ports": args.port}
        found: list[dict[str, Any]] = Client().post(f"/runs/{run['id']}/ports", asked)["ports"]
        return found
    except OwnerError as error:
        if args.port:
            raise
        render.note(f"pool: {error.message}: its ports are not forwarded")
        return []
