"""`pool inventory`: the pool as a dynamic inventory of Ansible. `pool-inventory` is the same as a program for `-i`."""

from __future__ import annotations

import argparse
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_EXAMPLES = """\
examples:
  pool inventory                          every host, with its groups and facts, as JSON
  pool inventory --host gpu1              the variables of one
  pool inventory --plugins                where `plugin: pool` is, for ANSIBLE_INVENTORY_PLUGINS

with Ansible:
  ansible -i "$(command -v pool-inventory)" status_ready -m ping
  ansible-playbook -i "$(command -v pool-inventory)" site.yml --limit gpu_h100_80gb_hbm3
"""


def register(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "inventory",
        description="Print the hosts as an inventory of Ansible: how to reach each, its facts, and groups of them.",
        epilog=_EXAMPLES,
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--list", action="store_true", help="every host (the default)")
    what.add_argument("--host", metavar="NAME", help="the variables of one host")
    what.add_argument("--plugins", action="store_true", help="print the folder of the inventory plug-in")
    parser.set_defaults(run=_run)


def main() -> int:
    """`pool-inventory`: Ansible runs it with --list, or with --host NAME."""
    from pool.cli.main import main as pool

    return pool(["inventory", *sys.argv[1:]])


def _run(args: argparse.Namespace) -> int:
    from pool.cli import render
    from pool.client import Client
    from pool.errors import NotFoundError

    found = Client().get("/inventory")
    if args.plugins:
        sys.stdout.write(f"{found['plugins']}\n")
    elif args.host is None:
        render.write_json(found["inventory"])
    elif args.host in (hosts := found["inventory"]["_meta"]["hostvars"]):
        render.write_json(hosts[args.host])
    else:
        raise NotFoundError(f"there is no host {args.host!a}", hint="pool ps")
    return 0
