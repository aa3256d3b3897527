"""`pool proxy`: the ProxyCommand by which a person's own ssh comes into a running job."""

from __future__ import annotations

import argparse
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from typing import Any

_EXAMPLES = """\
examples:
  pool proxy dev-1             a ProxyCommand, as `pool ssh-config` writes it down for you
  pool ssh-config --install    once; then: ssh dev-1, scp, sftp, rsync, VS Code
"""
_CHUNK = 1 << 17


def register(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "proxy",
        description="Carry a connection of ssh to a running job, over stdin and stdout. Waits for a run that starts.",
        epilog=_EXAMPLES,
    )
    parser.add_argument("name", metavar="RUN", help="name or id of the run")
    parser.add_argument("--rank", type=int, default=0, metavar="K", help="this rank (default: 0)")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    from pool.cli import render
    from pool.inside.shell import opened

    _carry(opened("ssh", args.name, args.rank, waits=render.waiting)[1].socket)
    return 0


def _carry(link: socket.socket) -> None:
    """Between stdin, stdout and `link`, until the other side ends."""
    import socket
    import threading

    from pool.cli import render

    def inward() -> None:
        while chunk := os.read(0, _CHUNK):
            link.sendall(chunk)
        link.shutdown(socket.SHUT_WR)

    threading.Thread(target=inward, daemon=True).start()
    while chunk := link.recv(_CHUNK):
        render.write_all(1, chunk)
