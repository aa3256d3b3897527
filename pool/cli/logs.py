"""`pool logs`: what a run wrote, byte for byte; while it runs and after."""

from __future__ import annotations

import argparse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_EXAMPLES = """\
examples:
  pool logs brave-otter-1                     everything so far, lines of several ranks prefixed
  pool logs brave-otter-1 -f                  and what still comes
  pool logs brave-otter-1 --rank 1 > r1.log   the exact bytes of one rank
  pool logs brave-otter-1 --json              size and sha256 of each rank's log
"""


def register(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "logs",
        description="Show what a run wrote to stdout and stderr, in the order it came.",
        epilog=_EXAMPLES,
    )
    parser.add_argument("name", metavar="RUN", help="name or id of the run")
    parser.add_argument("-f", "--follow", action="store_true", help="stay until the run has ended")
    parser.add_argument("--rank", type=int, action="append", metavar="K", help="only this rank (repeatable)")
    parser.add_argument("--json", action="store_true", help="print each rank's log size and sha256 as JSON")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    from urllib.parse import quote

    from pool.cli import render
    from pool.cli.follow import Follower
    from pool.client import Client
    from pool.errors import HostError

    run = Client().get(f"/runs/{quote(args.name, safe='')}")
    if args.json:
        keys = ("rank", "host", "status", "log_bytes", "log_sha256")
        render.write_json([{key: job[key] for key in keys} for job in run["jobs"]])
        return 0
    follower = Follower(run, ranks=args.rank, live=args.follow, quiet=True)
    follower.follow()
    return HostError.exit_code if follower.incomplete else 0
