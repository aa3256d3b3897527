"""`pool provision`: bring hosts of the pool to what they should be, again; and what it shares with `pool add-ssh`."""

from __future__ import annotations

import argparse
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: What is installed, in order; the runner is on every host.
_ROLES = ("nvidia_driver", "docker", "nvidia_container_toolkit")

_EXAMPLES = """\
examples:
  pool provision                    every host, after a question; what is as it should be is left alone (changed=0)
  pool provision gpu1 --dry-run     what would be changed on gpu1, as a diff; changes nothing
  pool provision gpu1 gpu2 -y --skip nvidia_driver
"""


def register(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "provision",
        description="See to driver, Docker, toolkit and runner on hosts again, as add-ssh does. Jobs there run on.",
        epilog=_EXAMPLES,
    )
    parser.add_argument("names", nargs="*", metavar="HOST", help="names of hosts, as in pool ps (default: all)")
    add_manner(parser)
    parser.add_argument("-y", "--yes", action="store_true", help="do not ask")
    parser.add_argument("--json", action="store_true", help="print the outcome as JSON")
    parser.set_defaults(run=_run)


def add_manner(parser: argparse.ArgumentParser) -> None:
    """The options that say how hosts are provisioned."""
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument(
        "--skip", action="append", choices=_ROLES, metavar="ROLE", help=f"leave out {', '.join(_ROLES)} (repeatable)"
    )
    choice.add_argument(
        "--only",
        action="append",
        choices=(*_ROLES, "runner"),
        metavar="ROLE",
        help="nothing but this and the runner (repeatable): --only runner",
    )
    parser.add_argument(
        "--reboot", action="store_true", help="reboot a host where nothing runs, if its new driver needs it"
    )
    parser.add_argument("--dry-run", action="store_true", help="show what would be changed; change nothing")


def manner(args: argparse.Namespace) -> dict[str, Any]:
    """What the options say, as the server takes it."""
    skip = [role for role in _ROLES if role not in args.only] if args.only else args.skip or []
    return {"skip": skip, "reboot": args.reboot, "dry_run": args.dry_run}


def say_ends(ended: list[dict[str, Any]], *, dry_run: bool) -> None:
    """A line for each host that came to its end, and where the whole log is."""
    for host in ended:
        if not host["error"]:
            end = f"would change in {host['changed']} steps" if dry_run else f"is ready (changed={host['changed']})"
            sys.stderr.write(f"{host['name']} {end}\n")
    for log in sorted({host["log"] for host in ended if host["log"]}):
        sys.stderr.write(f"the whole log: {log}\n")


def _run(args: argparse.Namespace) -> int:
    from pool.cli import render
    from pool.cli.steps import show_steps
    from pool.client import Client

    client = Client()
    names = chosen(client, args.names)
    if not names:
        render.note("there are no hosts\ntry: pool add-ssh user@host -i key")
        return 0
    render.confirm(f"Provision {', '.join(names)}?", yes=args.yes or args.dry_run)
    ended = show_steps(client.stream("POST", "/hosts/provision", {"hosts": names} | manner(args)))
    say_ends(ended, dry_run=args.dry_run)
    if args.json:
        render.write_json({"hosts": ended})
    raise_last([host["error"] for host in ended if host["error"]])
    return 0


def chosen(client: Any, names: list[str]) -> list[str]:
    """These hosts, each once, or all there are. NotFoundError for one that is not in the pool."""
    from pool.errors import NotFoundError

    known = [host["name"] for host in client.get("/hosts")]
    for name in names:
        if name not in known:
            raise NotFoundError(f"there is no host {name}", hint="pool ps")
    return list(dict.fromkeys(names)) or known


def raise_last(errors: list[dict[str, Any]]) -> None:
    """Tell every error; the last one ends the command."""
    from pool.cli import render
    from pool.errors import from_json

    for error in errors[:-1]:
        render.note(f"pool: {error['message']}" + (f"\ntry: {error['hint']}" if error["hint"] else ""))
    if errors:
        raise from_json(errors[-1])
