"""`pool pull`: have hosts pull an image before a task needs it, side by side, with the progress of each."""

from __future__ import annotations

import argparse
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

_EXAMPLES = """\
examples:
  pool pull registry.lab/train:7                  on every host that has Docker
  pool pull python:3.12 --hosts gpu1,gpu2         on these alone
  pool pull registry.lab/train:7 --username ann --password-stdin   < token
"""


def register(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "pull",
        description="Have hosts pull an image before a task needs it. All get the very same one; its tag is looked up"
        " once.\nA host that has it pulls nothing. The password is forgotten with the pull.",
        epilog=_EXAMPLES,
    )
    parser.add_argument("image", metavar="IMAGE", help="[REGISTRY/]NAME[:TAG], as in a task's image")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--hosts", metavar="HOST,…", help="names of hosts, as in pool ps (default: all with Docker)")
    where.add_argument("--pool", metavar="NAME", help="the hosts of this pool that have Docker")
    parser.add_argument("--username", metavar="USER", help="who logs in to the image's registry")
    parser.add_argument("--password-stdin", action="store_true", help="read the password from stdin")
    parser.add_argument("--json", action="store_true", help="print the outcome as JSON")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    from pool.cli import render
    from pool.cli.images import chosen
    from pool.cli.provision import raise_last
    from pool.client import Client
    from pool.errors import InputError

    login = _login(args)
    client = Client()
    names = [name for name in (args.hosts or "").split(",") if name]
    if args.hosts is not None and not names:
        raise InputError("--hosts names no host", hint="pool ps")
    hosts = chosen(client, names, pool=args.pool)
    body = {"image": args.image, "hosts": hosts, "login": login}
    ended = _show(client.stream("POST", "/images/pull", body), hosts)
    if args.json:
        render.write_json(ended)
    raise_last([host["error"] for host in ended if host["error"]])
    return 0


def _login(args: argparse.Namespace) -> list[str] | None:
    """The username and the password; InputError for one without the other."""
    from pool.errors import InputError

    if bool(args.username) != args.password_stdin:
        hint = f"pool pull {args.image} --username USER --password-stdin"
        raise InputError("--username and --password-stdin go together", hint=hint)
    if not args.username:
        return None
    if sys.stdin.isatty():
        from getpass import getpass

        password = getpass("password: ")
    else:
        password = sys.stdin.readline().rstrip("\r\n")
    if not password:
        raise InputError("there is no password on stdin", hint="… --password-stdin < FILE")
    return [args.username, password]


def _show(stream: Iterator[tuple[dict[str, Any], bytes]], hosts: list[str]) -> list[dict[str, Any]]:
    """Say how far each host is, to stderr: on a terminal in place, else a line for each change. What the end says."""
    from pool.errors import ServerError

    board = _Board(hosts) if _has_room(len(hosts)) else None
    said: dict[str, str] = {}
    try:
        for head, _ in stream:
            if "end" in head:
                ended: list[dict[str, Any]] = head["end"]
                return ended
            line = _line(head["host"], head["status"], head["said"])
            if line == said.get(head["host"]):
                continue
            said[head["host"]] = line
            if board:
                board.show(head["host"], line)
            else:
                sys.stderr.write(line + "\n")
            sys.stderr.flush()
    except KeyboardInterrupt:
        sys.stderr.write("\nthe hosts go on pulling\ntry: pool images\n")
        raise
    except ServerError as error:
        if error.details.get("cut_off"):
            raise ServerError("the server ended in the middle of this", hint="pool images") from error
        raise
    return []


def _has_room(hosts: int) -> bool:
    """True on a terminal with more lines than there are hosts."""
    from os import get_terminal_size

    return sys.stderr.isatty() and hosts < get_terminal_size(sys.stderr.fileno()).lines


class _Board:
    """One line a host, at the foot of the terminal, each written over when it changes."""

    def __init__(self, hosts: list[str]) -> None:
        self._lines = {host: _line(host, "asked", "") for host in hosts}
        self._up = 0

    def show(self, host: str, line: str) -> None:
        """Write all of them anew."""
        from os import get_terminal_size

        columns = max(20, get_terminal_size(sys.stderr.fileno()).columns - 1)
        self._lines[host] = line
        rows = "".join(f"\x1b[K{line[:columns]}\n" for line in self._lines.values())
        sys.stderr.write((f"\x1b[{self._up}A" if self._up else "") + "\r" + rows)
        self._up = len(self._lines)


def _line(host: str, status: str, said: str) -> str:
    return f"{host}  {said}" if status == "pulling" else f"{host}  {status}" + (f": {said}" if said else "")
