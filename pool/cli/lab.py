"""`pool lab`: real SSH hosts on this machine, to try pool without a server room."""

from __future__ import annotations

import argparse
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pool.lab.loopback import LabHost

    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

_EXAMPLES = """\
examples:
  pool lab up                      two hosts with two H100 each, on 127.0.0.11 and 127.0.0.12
  pool lab up --hosts 4 --gpus 8   add hosts until there are four; the new ones have eight cards
  pool lab status --json           what is up, for a program
  pool lab down                    end them and everything that runs on them
  pool lab up --system             two whole machines: systemd, sudo, apt, addresses of their own

The hosts are real OpenSSH daemons that only this machine can reach, each with its own home folder
and keys. Their cards are made up: nvidia-smi tells of them, nothing can compute on them.

With --system each host is a container that systemd boots in, with a user that may sudo, and room for a
Docker engine of its own. That needs root; docker.io and mmdebstrap are installed with apt-get where they
are missing, and the image of the hosts is made once (half a minute) and kept in ~/.cache/pool/lab.
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
    up.add_argument("--system", action="store_true", help="whole machines, in containers (as root)")
    up.add_argument("--json", action="store_true", help="print the hosts as JSON")
    up.set_defaults(run=_up)
    down = verbs.add_parser("down", help="end the hosts and everything that runs on them")
    down.add_argument("--purge", action="store_true", help="remove the kept image of --system hosts, too")
    down.set_defaults(run=_down)
    status = verbs.add_parser("status", help="show the hosts")
    status.add_argument("--json", action="store_true", help="print the hosts as JSON")
    status.set_defaults(run=_status)


def _up(args: argparse.Namespace) -> int:
    from pool.lab import loopback

    if args.system:
        from pool.lab.system import SystemLab

        system = SystemLab(tell=_tell)
        found = system.up(args.hosts, gpus=args.gpus, gpu_model=args.gpu)
        told = system.to_json(found)
    else:
        found = loopback.up(args.hosts, gpus=args.gpus, gpu_model=args.gpu)
        told = loopback.to_json(found)
    if args.json:
        return _print_json(told)
    for host in found:
        sys.stdout.write(f"{host.name} is up at {host.address}:{host.port}\n")
    sys.stdout.write("\nadd them to your pool:\n")
    for host in found:
        sys.stdout.write(f"  {_add_ssh(host)}\n")
    return 0


def _down(args: argparse.Namespace) -> int:
    from pool.lab import loopback
    from pool.lab.system import SystemLab

    count = SystemLab().down() + loopback.down()
    sys.stdout.write(f"the lab is down: {count} hosts\n" if count else "no lab is up\n")
    if args.purge:
        from pool.lab import engine, image

        image.drop(engine.find())
    return 0


def _status(args: argparse.Namespace) -> int:
    from pool.lab import loopback
    from pool.lab.system import SystemLab

    system = SystemLab()
    simple, whole = loopback.hosts(), system.hosts()
    if args.json:
        return _print_json(loopback.to_json(simple) + system.to_json(whole))
    if not simple and not whole:
        sys.stdout.write("no lab is up\ntry: pool lab up\n")
    for found, program, again in ((simple, "sshd", "pool lab up"), (whole, "systemd", "pool lab up --system")):
        for host in found:
            state = f"up ({program} {host.pid})" if host.pid else f"down (try: {again})"
            sys.stdout.write(f"{host.name}  {host.address}:{host.port}  {state}\n")
    return 0


def _tell(line: str) -> None:
    sys.stderr.write(f"{line}\n")


def _add_ssh(host: LabHost) -> str:
    """The command line that adds this host."""
    import shlex

    port = [] if host.port == 22 else ["-p", str(host.port)]
    words = ["pool", "add-ssh", f"{host.user}@{host.address}", *port, "-i", host.key]
    return shlex.join([*words, "--name", host.name, "--fingerprint", host.fingerprint])


def _print_json(found: list[dict[str, Any]]) -> int:
    import json

    sys.stdout.write(json.dumps(found, indent=2) + "\n")
    return 0
