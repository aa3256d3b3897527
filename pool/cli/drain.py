"""`pool drain`: give hosts no new jobs, and wait for those that they have."""

from __future__ import annotations

import argparse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pool.errors import PoolError

_EXAMPLES = """\
examples:
  pool drain gpu1 --reason 'new fans'    no new jobs on gpu1; those that run go on
  pool drain gpu1 gpu2 --wait            and wait until they have none left
  pool drain gpu1 --wait 2h              two hours at most (exit code 4: jobs are left; it stays drained)
  pool undrain gpu1                      give it jobs again
"""


def register(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "drain",
        description="Give hosts no new jobs until pool undrain, also after a reboot; those that run go on.",
        epilog=_EXAMPLES,
    )
    parser.add_argument("names", nargs="+", metavar="HOST", help="names of hosts, as in pool ps")
    parser.add_argument("--reason", default="", metavar="WHY", help="shown to everyone who looks at the host")
    parser.add_argument(
        "--wait", nargs="?", const="", metavar="TIME", help="wait until no job is left, so long at most"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    from pool.cli import render

    limit = _limit(args.wait) if args.wait else None
    done, errors = each(args.names, "drain", {"reason": args.reason})
    for name, answer in done.items():
        if not args.json:
            render.note(f"{name} takes no new jobs: {answer['host']['reason']}")
    try:
        for name in list(done) if args.wait is not None else ():
            _await(name, limit, done, errors)
    except KeyboardInterrupt:
        render.note(f"\nthey stay drained\ntry: pool undrain {' '.join(done)}")
        raise
    return told(args, done, errors)


def each(names: list[str], verb: str, body: dict[str, Any]) -> tuple[dict[str, Any], list[PoolError]]:
    """Ask for `verb` of every host, whatever the others answer: the answers by name, and the errors."""
    from urllib.parse import quote

    from pool.cli.provision import chosen
    from pool.client import Client
    from pool.errors import PoolError

    client = Client()
    done: dict[str, Any] = {}
    errors: list[PoolError] = []
    for name in chosen(client, names):
        try:
            done[name] = client.post(f"/hosts/{quote(name, safe='')}/{verb}", body)
        except PoolError as error:
            errors.append(error)
    return done, errors


def told(args: argparse.Namespace, done: dict[str, Any], errors: list[PoolError]) -> int:
    """Print what was answered, as JSON where that is asked for, and every error; the last one is raised."""
    from pool.cli import render

    if args.json:
        render.write_json([answer["host"] | {"changed": answer["changed"]} for answer in done.values()])
    for error in errors[:-1]:
        render.note(f"pool: {error.message}")
    if errors:
        raise errors[-1]
    return 0


def _await(name: str, limit: int | None, done: dict[str, Any], errors: list[PoolError]) -> None:
    from urllib.parse import quote

    from pool.cli import render
    from pool.client import Client
    from pool.errors import ConflictError

    try:
        for head, _ in Client().stream("POST", f"/hosts/{quote(name, safe='')}/idle", {"wait_s": limit}):
            if "end" in head:
                done[name]["host"] = head["end"]
            else:
                many = {0: "no job", 1: "one job"}.get(head["jobs"], f"{head['jobs']} jobs")
                render.note(f"{name} has {many}{' left' if head['jobs'] else ''}")
    except ConflictError as error:
        errors.append(error)


def _limit(text: str) -> int:
    from pool.errors import InputError
    from pool.task.duration import parse_duration

    try:
        return parse_duration(text)
    except ValueError as error:
        raise InputError(f"--wait: not a length of time: {text!a}", hint="--wait 2h, after the names") from error
