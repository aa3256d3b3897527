"""`pool rm`: take a host out of the pool and undo on it what adding did."""

from __future__ import annotations

import argparse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_EXAMPLES = """\
examples:
  pool rm gpu1             asks, fetches the logs of finished runs, removes the runner from gpu1
  pool rm gpu1 gpu2 -y     does not ask
  pool rm gpu1 --force     forget a host that is gone for good, as it is
"""


def register(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "rm",
        description="Take hosts out of the pool and undo on them what adding did, and nothing else.",
        epilog=_EXAMPLES,
    )
    parser.add_argument("names", nargs="+", metavar="HOST", help="names of hosts, as in pool ps")
    parser.add_argument("--force", action="store_true", help="forget it even when it does not answer or has jobs")
    parser.add_argument("-y", "--yes", action="store_true", help="do not ask")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    from urllib.parse import quote

    from pool.cli import render
    from pool.cli.steps import show_steps
    from pool.client import Client
    from pool.errors import NotFoundError

    client = Client()
    known = {host["name"] for host in client.get("/hosts")}
    for name in args.names:
        if name not in known:
            raise NotFoundError(f"there is no host {name}", hint="pool ps")
    render.confirm(f"Remove {', '.join(args.names)} and everything of pool on it?", yes=args.yes)
    for name in args.names:
        ended = show_steps(client.stream("POST", f"/hosts/{quote(name, safe='')}/remove", {"force": args.force}))
        render.note(f"{name} is {'removed' if ended['undone'] else 'forgotten as it is: what is on it stays'}")
    return 0
