"""`pool exec`: one command on many hosts side by side; hosts that say the same are shown as one."""

from __future__ import annotations

import argparse
import os
import sys

from pool.cli.options import until_command

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pool.cli.side_by_side import Ended

_EXAMPLES = """\
examples:
  pool exec --hosts all -- uptime                           hosts that say the same are grouped, as clush -b does
  pool exec --hosts gpu1,gpu2 -- nvidia-smi -L
  pool exec --pool night --timeout 20s -- df -h /           the hosts of one pool, 20 seconds each at most
  pool exec --hosts all -L -- 'ls -d /data/*'               each line behind its host's name
  pool exec --hosts all --json -- cat /etc/os-release

One word is a line for the shell of each host; several arrive there as they are.
The exit code is the largest of the hosts'; 11 for a host that cannot be reached, 124 for one whose time was up.
Ctrl-C and --timeout end the connection; a command that does not notice that lives on at its host, as with ssh.
"""
_WITH_VALUE = {"--hosts", "--pool", "--timeout"}
#: So many hosts are asked at once; later, those that were turned away (sshd's MaxStartups, of a jump host above all).
_TRIES = ((0, 32), (0.5, 4), (2, 4))
#: When it takes longer it is said how far it is.
_QUIET_S = 1.0
#: How long the way to a host may take.
_CONNECT_S = 15


def register(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "exec",
        usage="pool exec (--hosts all | --hosts HOST,... | --pool NAME) [options] -- CMD ...",
        description="Run one command on many hosts side by side, with your own ssh and your own keys.",
        epilog=_EXAMPLES,
    )
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--hosts", metavar="HOST,…", help="names of hosts or pools, as in pool ps; or all")
    where.add_argument("--pool", metavar="NAME", help="the hosts of this pool")
    parser.add_argument("--timeout", metavar="TIME", help="end it after this long on each host: 30s, 5m")
    parser.add_argument("-L", "--labels", action="store_true", help="each line behind its host's name, nothing grouped")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=_run)


def split(words: list[str]) -> tuple[list[str], list[str]]:
    """`pool`'s own words and the command's."""
    return until_command(words, _WITH_VALUE)


def _run(args: argparse.Namespace) -> int:
    import tempfile
    import time

    from pool.cli import outcome, render
    from pool.cli.ssh import remote, ways_in
    from pool.errors import InputError

    if not args.run_args:
        raise InputError("there is no command to run", hint="pool exec --hosts all -- uptime")
    limit_s, hosts = _limit(args.timeout), _chosen(args)
    with tempfile.TemporaryDirectory(prefix="pool-exec-") as folder:
        ways = ways_in(hosts, os.path.join(folder, "known_hosts"), batch=True)
        # What ssh has to complain of goes to a file: stderr is the command's.
        logs = {name: os.path.join(folder, f"{name}.log") for name in hosts}
        options = ["-o", f"ConnectTimeout={_CONNECT_S}", "-o", "LogLevel=ERROR", "-E"]
        command = remote(args.run_args)
        commands = {name: [*ways[name], *options, logs[name], *command] for name in hosts}
        outcomes: dict[str, outcome.Outcome] = {}
        for pause_s, at_once in _TRIES:
            todo = [name for name in hosts if name not in outcomes or outcomes[name].turned_away]
            if not todo:
                break
            time.sleep(pause_s)
            ends = _run_all({name: commands[name] for name in todo}, at_once, limit_s)
            outcomes |= {name: outcome.Outcome(ends[name], _taken(logs[name])) for name in todo}
    if args.json:
        render.write_json([{"host": name} | each.to_json() for name, each in outcomes.items()])
    elif args.labels:
        outcome.show_labelled(outcomes)
    else:
        outcome.show_grouped(outcomes)
    return max(each.counts for each in outcomes.values())


def _run_all(commands: dict[str, list[str]], at_once: int, limit_s: int | None) -> dict[str, Ended]:
    """Every end; on a terminal it is said how many there are, where it takes a while."""
    import contextlib
    import time

    from pool.cli.side_by_side import run_each
    from pool.errors import PoolError

    began, shown = time.monotonic(), -1

    def tick(done: int) -> None:
        nonlocal shown
        if done != shown and sys.stderr.isatty() and time.monotonic() - began > _QUIET_S:
            shown = done
            sys.stderr.write(f"\r\x1b[K{done} of {len(commands)} hosts are through")
            sys.stderr.flush()

    try:
        with contextlib.closing(run_each(commands, at_once=at_once, limit_s=limit_s, tick=tick)) as ends:
            return dict(ends)
    except FileNotFoundError:
        raise PoolError("there is no ssh on this machine", hint="apt install openssh-client") from None
    finally:
        if shown >= 0:
            sys.stderr.write("\r\x1b[K")


def _chosen(args: argparse.Namespace) -> list[str]:
    """The hosts that are meant, each once, in their order. NotFoundError for a word that is no host and no pool."""
    from pool.cli.alike import by_number
    from pool.client import Client
    from pool.errors import InputError, NotFoundError

    words = [args.pool] if args.pool else [word for word in args.hosts.split(",") if word]
    if not words:
        raise InputError("--hosts names no host", hint="pool exec --hosts all -- uptime")
    pool_of = {host["name"]: host["pool"] for host in Client().get("/hosts")}
    if not pool_of:
        raise NotFoundError("there are no hosts", hint="pool add-ssh user@host -i key")
    found: set[str] = set()
    for word in words:
        named = {name for name, pool in pool_of.items() if pool == word}
        if not args.pool:
            named = {word} if word in pool_of else set(pool_of) if word == "all" else named
        if not named:
            raise NotFoundError(f"there is no {'pool' if args.pool else 'host or pool'} {word!a}", hint="pool ps")
        found |= named
    return sorted(found, key=by_number)


def _limit(text: str | None) -> int | None:
    from pool.errors import InputError

    if text is None:
        return None
    from pool.task.duration import parse_duration

    try:
        return parse_duration(text)
    except ValueError as error:
        raise InputError(f"--timeout: not a length of time: {text!a}", hint="--timeout 30s") from error


def _taken(log: str) -> str:
    """What stands in a file, which is gone then; nothing where there is none."""
    try:
        with open(log, encoding="utf-8", errors="replace") as file:
            os.unlink(log)
            return file.read()
    except FileNotFoundError:
        return ""
