"""`pool add-ssh`: make machines that you can ssh into hosts of the pool."""

from __future__ import annotations

import argparse
import os

from pool.cli.provision import add_manner, manner, raise_last, say_ends

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_EXAMPLES = """\
examples:
  pool add-ssh ubuntu@gpu1 -i ~/.ssh/id_ed25519
  pool add-ssh gpu1 gpu2 gpu3 -l ubuntu -i key --network 10.0.0.0/24     three at once, side by side
  pool add-ssh ubuntu@gpu1 --dry-run         what is there, and what would be changed, as a diff; changes nothing
  pool add-ssh ubuntu@gpu1 --only runner     no driver, no Docker, no container toolkit
  pool add-ssh ssh://root@[fd00::5]:2222 -i key --name gpu5 --fingerprint SHA256:...
  pool add-ssh ubuntu@10.0.0.7 -J me@bastion -i key     through a jump host, as with ssh -J
  pool add-ssh --inventory inventory.ini --limit gpu    hosts that Ansible knows; the options are their defaults

A host's key is shown and asked about once, then pinned. The same command again changes nothing.
"""


def register(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "add-ssh",
        description="Log in to each machine, show the plan, have Ansible install driver, Docker, toolkit, runner; run"
        " a job.",
        epilog=_EXAMPLES,
    )
    parser.add_argument("destinations", nargs="*", metavar="[USER@]HOST", help="as for ssh; ssh://USER@HOST:PORT too")
    parser.add_argument("--inventory", metavar="FILE", help="take the hosts of an Ansible inventory, INI or YAML")
    parser.add_argument("--limit", metavar="PATTERN", help="of the inventory, only these: gpu1,rack2:!gpu7")
    parser.add_argument("-i", "--identity", metavar="KEY", help="private key file (default: the agent's keys)")
    parser.add_argument("-p", "--port", type=int, metavar="PORT", help="SSH port (default: 22, or ~/.ssh/config)")
    parser.add_argument("-l", "--login", metavar="USER", help="login name (default: yours, or ~/.ssh/config)")
    parser.add_argument(
        "-J",
        "--jump",
        metavar="[USER@]HOST[:PORT]",
        help="jump host, or several with commas (default: ~/.ssh/config, or as before; none: go directly)",
    )
    parser.add_argument("--name", help="what the pool calls it (default: the host name); one host only")
    parser.add_argument("--pool", help="the pool it joins (default: default)")
    parser.add_argument("--region", help="its region label (default: remote)")
    parser.add_argument("--network", metavar="CIDR", help="the network over which it reaches the others: 10.0.0.0/24")
    parser.add_argument("--internal-ip", metavar="IP", help="its address there, when it cannot be found in --network")
    parser.add_argument("--label", action="append", metavar="K=V", help="a label of your own (repeatable)")
    parser.add_argument("--price", type=float, metavar="P", help="price an hour, for a task's max_price (default: 0)")
    parser.add_argument("--fingerprint", metavar="SHA256:…", help="the host key you expect; one host only")
    parser.add_argument(
        "--jump-fingerprint",
        action="append",
        metavar="SHA256:…",
        help="the key you expect of the jump host (repeatable, in the order of -J)",
    )
    parser.add_argument("--python", metavar="PATH", help="its Python, 3.8 or newer (default: the first that is whole)")
    parser.add_argument(
        "--scope",
        choices=("system", "user"),
        help="system: a service, needs root or sudo; user: your own process (default: system where the host allows it)",
    )
    add_manner(parser)
    parser.add_argument("--json", action="store_true", help="print the outcome as JSON")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    from pool.cli import render
    from pool.cli.trust import agree
    from pool.client import Client
    from pool.errors import InputError

    if (len(args.destinations) > 1 or args.inventory) and (args.name or args.fingerprint or args.internal_ip):
        raise InputError("--name, --fingerprint and --internal-ip are for one host at a time")
    if bool(args.destinations) == bool(args.inventory) or (args.limit and not args.inventory):
        raise InputError("name the hosts, or an --inventory to take them from", hint="pool add-ssh --help")
    client = Client()
    if args.inventory:
        wishes, refused = _in_inventory(args, client)
    else:
        wishes, refused = [_wish(args, destination) for destination in args.destinations], []
    trusted, errors = agree(client, wishes)
    errors = refused + errors
    outcome = _add(client, trusted, manner(args)) if trusted else []
    errors += [added["error"] for added in outcome if added["error"]]
    if args.json:
        render.write_json({"hosts": outcome, "errors": errors})
    raise_last(errors)
    return 0


def _in_inventory(args: argparse.Namespace, client: Any) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The wishes of the hosts in the inventory, and the errors of those that are none; what is left aside is said."""
    from pool.cli import render

    found = client.post(
        "/hosts/inventory",
        {
            "path": os.path.abspath(os.path.expanduser(args.inventory)),
            "limit": args.limit,
            "defaults": {key: value for key, value in _wish(args, "").items() if value},
            "folder": os.getcwd(),
        },
    )
    hosts: dict[str, list[str]] = {}
    for host, note in found["notes"]:
        hosts.setdefault(note, []).append(host)
    for note, names in hosts.items():
        shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        render.note(f"pool: {shown}: {note}")
    return found["wishes"], found["errors"]


def _wish(args: argparse.Namespace, destination: str) -> dict[str, Any]:
    return {
        "destination": destination,
        "user": args.login,
        "port": args.port,
        "key": os.path.abspath(os.path.expanduser(args.identity)) if args.identity else None,
        "jump": args.jump,
        "jump_fingerprints": args.jump_fingerprint or [],
        "python": args.python,
        "name": args.name,
        "pool": args.pool,
        "region": args.region,
        "network": args.network,
        "internal_ip": args.internal_ip,
        "labels": args.label or [],
        "price": args.price,
        "fingerprint": args.fingerprint,
        "scope": args.scope,
    }


def _add(client: Any, wishes: list[dict[str, Any]], how: dict[str, Any]) -> list[dict[str, Any]]:
    from pool.cli.steps import show_steps

    ended: list[dict[str, Any]] = show_steps(client.stream("POST", "/hosts", {"hosts": wishes} | how))
    say_ends(ended, dry_run=how["dry_run"])
    return ended
