"""`pool ssh`: a shell or one command inside of a running job; or on a host, through the person's own OpenSSH client."""

from __future__ import annotations

import argparse
import os
import shlex

from pool.cli.options import until_command

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_EXAMPLES = """\
examples:
  pool ssh brave-otter-1                     a shell inside of the run's job, with its folder, variables and GPUs
  pool ssh brave-otter-1 --rank 3            inside of that rank
  pool ssh brave-otter-1 -- nvidia-smi       one command; ends with its exit code
  pool ssh brave-otter-1 -- cat log > log    without a terminal every byte arrives as it is, both ways
  pool ssh gpu1                              a shell on a host, as the user that gpu1 was added with
  pool ssh gpu1 -- 'ls -d /data/*'           one word is a line for the shell there; several arrive as they are
  pool ssh gpu1 -t -- top                    a command that needs a terminal
"""


def register(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "ssh",
        usage="pool ssh RUN|HOST [--rank K] [-t|-T] [-- CMD ...]",
        description="Open a shell inside of your running job, or run one command there; a run that has not started\n"
        "is waited for. Or the same on a host, with your own ssh and your own keys: the host, and every\n"
        "jump host on the way, has to show its pinned key.",
        epilog=_EXAMPLES,
    )
    parser.add_argument("name", metavar="RUN|HOST", help="name or id of a run, or name of a host, as in pool ps")
    parser.add_argument("--rank", type=int, metavar="K", help="of a run: this rank (default: 0)")
    parser.add_argument("--host", action="store_true", help="the host of this name, where a live run has it as well")
    terminal = parser.add_mutually_exclusive_group()
    terminal.add_argument("-t", "--tty", action="store_true", help="give the command a terminal")
    terminal.add_argument("-T", "--no-tty", action="store_true", help="give the shell none")
    parser.set_defaults(run=_run)


def split(words: list[str]) -> tuple[list[str], list[str]]:
    """`pool`'s own words and the command's."""
    return until_command(words, {"--rank"}, named=1)


def _run(args: argparse.Namespace) -> int:
    if args.rank is None and (args.host or _is_host(args.name)):
        return _into_host(args)
    from pool.cli.shell import into_run

    tty = True if args.tty else False if args.no_tty else None
    return into_run(args.name, args.rank or 0, args.run_args, tty=tty)


def _is_host(name: str) -> bool:
    """True for the name of a host; ConflictError when it is that of a live run as well."""
    from urllib.parse import quote

    from pool.client import Client
    from pool.errors import ConflictError, NotFoundError

    client = Client()
    is_host = name in [host["name"] for host in client.get("/hosts")]
    try:
        run = client.get(f"/runs/{quote(name, safe='')}")
    except NotFoundError:
        if not is_host:
            raise NotFoundError(f"there is no run and no host {name!a}", hint="pool runs --live; pool ps") from None
        return True
    if is_host and not run["finished"]:
        hint = f"pool ssh {name} --rank 0, or: pool ssh {name} --host"
        raise ConflictError(f"both a host and a live run have the name {name}", hint=hint)
    return is_host


def _into_host(args: argparse.Namespace) -> int:
    """Become ssh. PoolError when there is none here."""
    from pool import config
    from pool.errors import PoolError

    folder = config.path("ssh")
    os.makedirs(folder, mode=0o700, exist_ok=True)
    words = ways_in([args.name], os.path.join(folder, f"{args.name}.known_hosts"), batch=False)[args.name]
    tty = ["-t"] if args.tty else ["-T"] if args.no_tty else []
    try:
        os.execvp("ssh", [*words, *tty, *remote(args.run_args)])  # noqa: S606 no shell is wanted
    except FileNotFoundError:
        raise PoolError("there is no ssh on this machine", hint="apt install openssh-client") from None


def ways_in(hosts: list[str], known_hosts: str, *, batch: bool) -> dict[str, list[str]]:
    """The ssh command of each host, by its name; the keys that they have to show are in the file `known_hosts` then.

    With `batch` nothing is ever asked. A server that is shared cannot lend its keys: there the person's own are meant.
    """
    from pool import config
    from pool.client import Client

    keys = config.shared_socket() is None
    told = Client().post("/hosts/ssh", {"hosts": hosts, "known_hosts": known_hosts, "keys": keys, "batch": batch})
    fresh = f"{known_hosts}.{os.getpid()}"  # replaced in one step: another ssh may be reading it
    with open(fresh, "w", encoding="utf-8") as file:
        file.write("".join(f"{line}\n" for line in told["known_hosts"]))
    os.replace(fresh, known_hosts)
    commands: dict[str, list[str]] = told["commands"]
    return commands


def remote(command: list[str]) -> list[str]:
    """What follows the host: one word is a line for the shell there, several are quoted for it; [] for a shell."""
    if not command:
        return []
    return ["--", command[0] if len(command) == 1 else shlex.join(command)]
