"""`pool undrain`: give hosts jobs again, whoever drained them."""

from __future__ import annotations

import argparse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_EXAMPLES = """\
examples:
  pool undrain gpu1         give gpu1 jobs again, whoever drained it
  pool undrain gpu1 gpu2
"""


def register(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "undrain",
        description="Give hosts jobs again, whoever drained them: a person, or a playbook that failed on them.",
        epilog=_EXAMPLES,
    )
    parser.add_argument("names", nargs="+", metavar="HOST", help="names of hosts, as in pool ps")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    from pool.cli import render
    from pool.cli.drain import each, told

    done, errors = each(args.names, "undrain", {})
    for name, answer in done.items():
        if not args.json:
            render.note(f"{name} {'takes jobs again' if answer['changed'] else 'was not drained'}")
    return told(args, done, errors)
