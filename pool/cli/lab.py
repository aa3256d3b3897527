"""`pool lab`: real SSH hosts on this machine, to try pool without a server room."""

from __future__ import annotations

import argparse
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pool.lab.loopback import LabHost

    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

_EXAMPLES = """\
examples:
  pool lab up                      two hosts with two H100 each, on 127.0.0.11 and 127.0.0.12
  pool lab up --hosts 4 --gpus 8   add hosts until there are four; the new ones have eight cards
  pool lab status --json           what is up, for a program
  pool lab down                    end them and everything that runs on them

The hosts are real OpenSSH daemons that only this machine can reach, each with its own home folder
and keys. Their cards are made up: nvidia-smi tells of them, nothing can compute on them.
"""


def register(subparsers: Subparsers) -> None:
    """Add `pool lab` and its three verbs."""
    parser = subparsers.add_parser(
        "lab",
        description="Real SSH hosts on this machine, to try pool and to test with.",
        epilog=_EXAMPLES,
    )
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    up = verbs.add_parser("up", help="start hosts; those that are up stay as they are")
    up.add_argument("--hosts", type=int, default=2, metavar="N", help="how many there shall be (default: 2)")
    up.add_argument("--gpus", type=int, default=2, metavar="N", help="cards of each new host (default: 2)")
    up.add_argument("--gpu", default="H100", metavar="MODEL", help="model of the cards (default: H100)")
    up.add_argument("--json", action="store_true", help="print the hosts as JSON")
    up.set_defaults(run=_up)
    down = verbs.add_parser("down", help="end the hosts and everything that runs on them")
    down.set_defaults(run=_down)
    status = verbs.add_parser("status", help="show the hosts")
    status.add_argument("--json", action="store_true", help="print the hosts as JSON")
    status.set_defaults(run=_status)


def _up(args: argparse.Namespace) -> int:
    from pool.lab import loopback

    found = loopback.up(args.hosts, gpus=args.gpus, gpu_model=args.gpu)
    if args.json:
        return _print_json(found)
    for host in found:
        sys.stdout.write(f"{host.name} is up at {host.address}:{host.port}\n")
    sys.stdout.write("\nadd them to your pool:\n")
    for host in found:
        sys.stdout.write(f"  {_add_ssh(host)}\n")
    return 0


def _down(_: argparse.Namespace) -> int:
    from pool.lab import loopback

    count = loopback.down()
    sys.stdout.write(f"the lab is down: {count} hosts\n" if count else "no lab is up\n")
    return 0


def _status(args: argparse.Namespace) -> int:
    from pool.lab import loopback

    found = loopback.hosts()
    if args.json:
        return _print_json(found)
    if not found:
        sys.stdout.write("no lab is up\ntry: pool lab up\n")
    for host in found:
        state = f"up (sshd {host.pid})" if host.pid else "down (try: pool lab up)"
        sys.stdout.write(f"{host.name}  {host.address}:{host.port}  {state}\n")
    return 0


def _add_ssh(host: LabHost) -> str:
    """The command line that adds this host."""
    import shlex

    words = ["pool", "add-ssh", f"{host.user}@{host.address}", "-p", str(host.port), "-i", host.key]
    return shlex.join([*words, "--name", host.name, "--fingerprint", host.fingerprint])


def _print_json(found: list[LabHost]) -> int:
    import json

    from pool.lab import loopback

    sys.stdout.write(json.dumps(loopback.to_json(found), indent=2) + "\n")
    return 0
