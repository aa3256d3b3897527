"""How a person comes into a dev-environment: asked for once, before it starts, and told once it is up."""

from __future__ import annotations

import contextlib
import os
import sys

from pool.cli import render, ssh_entry
from pool.client import Client
from pool.errors import PoolError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: Editor -> the scheme of its links.
_SCHEMES = {"vscode": "vscode", "cursor": "cursor"}
_NO = "no-include"


def offer_include(*, ask: bool) -> None:
    """Ask once whether ~/.ssh/config may have the Include, where there is somebody to ask. A no is remembered."""
    refused = os.path.join(os.path.dirname(ssh_entry.path()), _NO)
    if not ask or not (sys.stdin.isatty() and sys.stderr.isatty()):
        return
    if ssh_entry.is_included() or os.path.exists(refused):
        return
    render.note("Your own ssh and your editor find runs by name once ~/.ssh/config has this as its first line:")
    sys.stderr.write(f"  {ssh_entry.include_line()}\nPut it there? [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() in ("y", "yes"):
        ssh_entry.include()
    else:
        os.makedirs(os.path.dirname(refused), mode=0o700, exist_ok=True)
        with open(refused, "w", encoding="ascii"):
            pass


def enter() -> None:
    """Have ssh find the newest run by name, though it may yet have to start, where it looks for runs at all."""
    with contextlib.suppress(PoolError):  # it is written again when the run is shown
        if ssh_entry.is_included():
            ssh_entry.write(Client())


def tell(run: dict[str, Any]) -> None:
    """Say what to type, and the editor's link, now that it runs."""
    name = run["name"]
    try:
        client = Client()
        folder = client.get(f"/runs/{run['id']}/where")["folder"] or ""
        ssh_entry.write(client)
    except PoolError as error:  # it may end at this very moment, or its host be silent
        render.note(f"pool: {error.message}")
        return
    if ssh_entry.is_included():
        scheme = _SCHEMES[run["ide"] or "vscode"]
        render.note(f"pool: ssh {name}")
        render.note(f"pool: {scheme}://vscode-remote/ssh-remote+{name}{folder}")
    else:
        render.note(f"pool: pool ssh {name}")
        render.note("pool: for `ssh`, `scp` and editors, once: pool ssh-config --install")
    render.note(f"pool: it is up until: pool stop {name}")
