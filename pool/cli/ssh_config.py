"""`pool ssh-config`: has a person's own ssh, and all that uses it, find the live runs by name."""

from __future__ import annotations

import argparse
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_EXAMPLES = """\
examples:
  pool ssh-config --install    once: put an Include into ~/.ssh/config; then: ssh dev-1, scp, sftp, VS Code
  pool ssh-config              write the entry of the live runs anew, and show it
  pool ssh-config --remove     take the Include out again
"""


def register(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "ssh-config",
        description="Write a file of settings for ssh with an entry for each of your live runs.",
        epilog=_EXAMPLES,
    )
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--install", action="store_true", help="put an Include of it into ~/.ssh/config")
    how.add_argument("--remove", action="store_true", help="take the Include out")
    parser.add_argument("-y", "--yes", action="store_true", help="do not ask")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    from pool.cli import render, ssh_entry
    from pool.client import Client

    if args.remove:
        done = ssh_entry.exclude()
        render.note("the Include is out of ~/.ssh/config" if done else "~/.ssh/config has no Include of pool's")
        return 0
    path = ssh_entry.write(Client())
    if args.install:
        if ssh_entry.is_included():
            render.note("~/.ssh/config has the Include already")
            return 0
        render.confirm(f"Put `{ssh_entry.include_line()}` first in ~/.ssh/config?", yes=args.yes)
        ssh_entry.include()
        render.note("done; to take it out again: pool ssh-config --remove")
        return 0
    with open(path, encoding="utf-8") as file:
        sys.stdout.write(file.read())
    return 0
