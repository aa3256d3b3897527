"""`pool offer`: which hosts could take a request now, and why the others cannot."""

from __future__ import annotations

import argparse
import os

from pool.cli.options import REQUEST, add_options, given

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_EXAMPLES = """\
examples:
  pool offer --gpu A100:2                   two A100 on one host
  pool offer --gpu 24GB.. --nodes 2         one GPU of 24 GB or more on each of two hosts
  pool offer --gpu H100:8 --json            exit code 6 when no host fits
"""
#: A request needs a task around it; this one asks for nothing by itself.
_TASK = "type: task\ncommands: ['true']\n"


def register(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "offer",
        description="Show which hosts a request would get now, and for each other host every requirement it misses.",
        epilog=_EXAMPLES,
    )
    add_options(parser, REQUEST)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    import sys

    from pool.cli import render
    from pool.cli.plan import write_plan
    from pool.client import Client
    from pool.errors import BlockedError

    asked = {"text": _TASK, "source": "the command line", "folder": os.path.abspath(os.sep), "options": given(args)}
    plan = Client().post("/plan", asked)
    if args.json:
        render.write_json(plan)
    else:
        write_plan(plan, sys.stdout)
    if not plan["offers"]:
        raise BlockedError(plan["reason"], hint=plan["suggestion"] or "pool ps")
    return 0
