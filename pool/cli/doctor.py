"""`pool doctor`: check the hosts of the pool, part by part, and say what is wrong and what to type next."""

from __future__ import annotations

import argparse
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_EXAMPLES = """\
examples:
  pool doctor                every host; exit code 10 when something is wrong with one
  pool doctor gpu1 --json    each check of gpu1 with its outcome
"""


def register(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "doctor",
        description="Check driver, Docker, container toolkit and runner on each host, as provisioning does at its end."
        " Changes nothing.",
        epilog=_EXAMPLES,
    )
    parser.add_argument("names", nargs="*", metavar="HOST", help="names of hosts, as in pool ps (default: all)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    from pool.cli import render
    from pool.cli.provision import chosen, raise_last
    from pool.client import Client
    from pool.errors import HostError

    client = Client()
    names = chosen(client, args.names)
    ended: list[dict[str, Any]] = []
    for head, _ in client.stream("POST", "/hosts/doctor", {"hosts": names}):
        ended = head.get("end", ended)
    if args.json:
        render.write_json(ended)
    else:
        rows = [
            (host["name"], check["what"], check["status"], check["said"]) for host in ended for check in host["checks"]
        ]
        if rows:
            sys.stdout.write(render.table(("HOST", "CHECK", "STATUS", "SAID"), rows))
        elif not names:
            render.note("there are no hosts\ntry: pool add-ssh user@host -i key")
    raise_last([host["error"] for host in ended if host["error"]])
    wrong = [host["name"] for host in ended if any(check["status"] == "failed" for check in host["checks"])]
    if wrong:
        raise HostError(
            f"something is wrong with {', '.join(wrong)}", hint=f"pool provision {' '.join(wrong)} sees to it"
        )
    return 0
