"""`pool server`: the per-user server that every command finds, and starts when it is not there."""

from __future__ import annotations

import argparse
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_EXAMPLES = """\
examples:
  pool server status     is it running, since when, where is its state
  pool server stop       end it; jobs run on, and the next command starts it again
"""
_END_S = 15.0


def register(commands: Any) -> None:
    """Add the command and its three verbs."""
    parser = commands.add_parser(
        "server",
        description="The server that keeps links to the hosts. Every command starts it when it does not run.",
        epilog=_EXAMPLES,
    )
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    verbs.add_parser("start", help="start it unless it runs").set_defaults(run=_start)
    verbs.add_parser("stop", help="end it; running jobs are not touched").set_defaults(run=_stop)
    status = verbs.add_parser("status", help="show whether it runs; exit code 5 when not")
    status.add_argument("--json", action="store_true", help="print JSON")
    status.set_defaults(run=_status)


def _start(_: argparse.Namespace) -> int:
    from pool.client import Client

    sys.stdout.write(_told(Client().get("/status")))
    return 0


def _stop(_: argparse.Namespace) -> int:
    from pool import config
    from pool.client import Client
    from pool.errors import ConflictError, ServerError

    if shared := config.shared_socket():
        raise ConflictError(
            f"the server at {shared} is not yours alone",
            hint="sudo systemctl stop pool-server.socket pool-server.service",
        )
    client = Client(start=False)
    try:
        pid = client.get("/status")["pid"]
    except ServerError:
        sys.stdout.write("the pool server does not run\n")
        return 0
    client.post("/stop")
    deadline = time.monotonic() + _END_S
    while _alive(pid):
        if time.monotonic() > deadline:
            raise ServerError(f"the server (pid {pid}) has not ended within {_END_S:.0f} s", hint=f"kill {pid}")
        time.sleep(0.02)
    sys.stdout.write("the pool server has ended\n")
    return 0


def _status(args: argparse.Namespace) -> int:
    from pool.cli import render
    from pool.client import Client

    status = Client(start=False).get("/status")
    if args.json:
        render.write_json(status)
    else:
        sys.stdout.write(_told(status))
    return 0


def _told(status: dict[str, Any]) -> str:
    return f"the pool server runs: pid {status['pid']}, version {status['version']}, state in {status['folder']}\n"


def _alive(pid: int) -> bool:
    """True while it runs; a zombie, whose parent has not looked yet, does not."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
