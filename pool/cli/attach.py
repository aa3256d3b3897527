"""`pool attach`: the output of a live run again, as `pool run` showed it."""

from __future__ import annotations

import argparse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_EXAMPLES = """\
examples:
  pool attach brave-otter-1             its output from the start, then as it comes
  pool attach brave-otter-1 --rank 1    of one rank only
"""


def register(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "attach",
        description="Show a run's output from the start and stay to its end; Ctrl-C asks: stop or detach.",
        epilog=_EXAMPLES,
    )
    parser.add_argument("name", metavar="RUN", help="name or id of the run")
    parser.add_argument("--rank", type=int, action="append", metavar="K", help="only this rank (repeatable)")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    from urllib.parse import quote

    from pool.cli.follow import Follower, follow_to_end
    from pool.client import Client

    run = Client().get(f"/runs/{quote(args.name, safe='')}")
    return follow_to_end(Follower(run, ranks=args.rank))
