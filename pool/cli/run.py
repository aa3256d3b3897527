"""`pool run`: shows the plan, asks, sends the folder, starts the run and shows its output to the end."""

from __future__ import annotations

import argparse
import os
import sys

from pool.cli.options import REQUEST, RUN, add_options, flags, given

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pool.cli import upload
    from pool.inside.ports import Forwards

_EXAMPLES = """\
examples:
  pool run . -f train.dstack.yml                 plan, question, output; ends with the run's exit code
  pool run -f dev.dstack.yml                     a dev-environment, of the folder that you are in
  pool run . -f train.dstack.yml -y -d           no question, do not stay for the output
  pool run . -f train.dstack.yml --lr 0.1        what follows is ${{ run.args }} in the task
  pool run . -f train.dstack.yml -- -n 3         the same, for arguments that pool has too
  pool run . -f train.dstack.yml -p 6006         its port 6006 at http://127.0.0.1:6006 meanwhile

Ctrl-C asks whether to stop the run or to leave it running.
"""


def register(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "run",
        usage="pool run [WORKING_DIR] [-f FILE] [options] [run args ...]",
        description="Run a task or a dev-environment: show the plan, ask, send the folder, start it, show its output.",
        epilog=_EXAMPLES,
    )
    parser.add_argument(
        "working_dir", nargs="?", default=".", metavar="WORKING_DIR", help="the folder to send (default: this one)"
    )
    parser.add_argument("-f", "--file", metavar="FILE", help="the task file (default: WORKING_DIR/.dstack.yml)")
    add_options(parser, RUN)
    add_options(parser, REQUEST)
    parser.add_argument("--git", action="store_true", help="send `.git` too")
    parser.add_argument("--size-limit", metavar="SIZE", help="send so much without a question (default: 1GB)")
    parser.add_argument("-d", "--detach", action="store_true", help="do not stay for the output")
    parser.add_argument("-y", "--yes", action="store_true", help="do not ask")
    parser.add_argument("-q", "--quiet", action="store_true", help="only the task's own output")
    parser.add_argument("--dry-run", action="store_true", help="show the plan and end; exit code 6 when no host fits")
    parser.add_argument("--json", action="store_true", help="with --dry-run: the plan as JSON on stdout")
    parser.set_defaults(run=_run)


_ALONE = ("--git", "-d", "--detach", "-y", "--yes", "-q", "--quiet", "--dry-run", "--json", "-h", "--help")


def split(words: list[str]) -> tuple[list[str], list[str]]:
    """`pool`'s own words and the task's: everything after `--`, or from the first word that pool has no use for.

    argparse cannot do it: its REMAINDER begins right after WORKING_DIR and would take `-f FILE` with it.
    """
    with_value = flags(RUN + REQUEST, with_value=True) | {"-f", "--file", "--size-limit"}
    alone = flags(RUN + REQUEST, with_value=False) | set(_ALONE)
    at, folder_seen = 0, False
    while at < len(words):
        word = words[at]
        if word == "--":
            return words[:at], words[at + 1 :]
        if word in with_value:
            at += 2
        elif word in alone or word.partition("=")[0] in with_value or _short(word, with_value, alone):
            at += 1
        elif not word.startswith("-") and not folder_seen:
            folder_seen, at = True, at + 1
        else:
            return words[:at], words[at:]
    return words, []


def _short(word: str, with_value: set[str], alone: set[str]) -> bool:
    """`-dy` or `-fFILE`: short options written together, or with their value."""
    if not word.startswith("-") or word.startswith("--"):
        return False
    return word[:2] in with_value or all(f"-{letter}" in alone for letter in word[1:])


def _run(args: argparse.Namespace) -> int:
    from pool.cli import render, upload
    from pool.cli.plan import show_plan
    from pool.client import again
    from pool.errors import BlockedError, InputError

    if args.json and not args.dry_run:
        raise InputError("--json goes with --dry-run", hint="pool runs NAME --json")
    asked = _asked(args)
    needed = again(lambda client: client.post("/needed", asked))
    asked["env"] = {name: os.environ[name] for name in needed if name in os.environ}
    plan = again(lambda client: client.post("/plan", asked))
    if args.json:
        render.write_json(plan)
    elif not args.quiet or args.dry_run:
        show_plan(plan, args.file)
    if not plan["offers"] and not plan["waits"]:
        raise BlockedError(plan["reason"], hint=plan["suggestion"] or "pool ps")
    if args.dry_run:
        return 0
    forwards = None if args.detach else _bound(plan["ports"])
    render.confirm("Run it?" if plan["offers"] else "Run it once hosts are free?", yes=args.yes)
    from pool.cli import way_in

    if plan["type"] == "dev-environment":
        way_in.offer_include(ask=not (args.yes or args.quiet))
    run = _submit(asked, upload.Wish(args, plan["files"]))
    way_in.enter()
    if args.detach:
        sys.stdout.write(run["name"] + "\n")
        return 0
    from pool.cli.attached import stay  # here: the server is at work meanwhile

    return stay(run, forwards, quiet=args.quiet)


def _bound(ports: list[dict[str, Any]]) -> Forwards | None:
    """The local ports, before anything is sent."""
    if not ports:
        return None
    from pool.cli.attached import bound

    return bound(ports)


def _asked(args: argparse.Namespace) -> dict[str, Any]:
    """The request: the file's text, the options, and everything after them for the task."""
    from pool.errors import InputError

    if not os.path.isdir(args.working_dir):
        raise InputError(f"there is no folder {args.working_dir}", hint="pool run . -f train.dstack.yml")
    path = args.file = args.file or os.path.join(args.working_dir, ".dstack.yml")
    try:
        with open(path, "rb") as file:
            text = file.read(16 << 20)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}", hint="name the task file with -f FILE") from error
    return {
        "text": text.decode(errors="surrogateescape"),
        "source": path,
        "folder": os.path.abspath(args.working_dir),
        "options": given(args),
        "args": args.run_args,
    }


def _submit(asked: dict[str, Any], wish: upload.Wish) -> dict[str, Any]:
    """Send the folder, then the run. Its id is made here: sent twice it is one run."""
    from pool.client import again
    from pool.folder.snapshot import repo_id

    code = wish.upload(asked["folder"])
    body = asked | {"id": os.urandom(8).hex(), "code": code, "repo_id": repo_id(asked["folder"])}
    run: dict[str, Any] = again(lambda client: client.post("/runs", body))
    return run
