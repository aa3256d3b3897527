"""`pool validate`: check task files without running them."""

from __future__ import annotations

import argparse
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_EXAMPLES = """\
examples:
  pool validate train.dstack.yml
  pool validate tasks/*.dstack.yml         one line a file; exit code 2 when one is wrong
  pool validate train.dstack.yml --json    the task with every form spelled out
"""
_MAX = 16 << 20


def register(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "validate",
        description="Check task files: one line a file, or the error with its place and the fix.",
        epilog=_EXAMPLES,
    )
    parser.add_argument("files", nargs="+", metavar="FILE", help="task files")
    parser.add_argument("--json", action="store_true", help="print a JSON list")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    from pool.cli import render

    found = _check([_read(path) for path in args.files])
    if args.json:
        render.write_json(found)
    else:
        for each in found:
            sys.stdout.write(f"{each['file']}: ok\n" if each["ok"] else _wrong(each["error"]))
    return 0 if all(each["ok"] for each in found) else 2


def _read(path: str) -> dict[str, str]:
    from pool.errors import InputError

    try:
        with open(path, "rb") as file:
            return {"source": path, "text": file.read(_MAX).decode(errors="surrogateescape")}
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error


def _check(files: list[dict[str, str]]) -> list[dict[str, Any]]:
    """By the server where one runs, which has everything loaded; else here: no server is started for this."""
    from pool.client import Client
    from pool.errors import ServerError

    try:
        checked: list[dict[str, Any]] = Client(start=False).post("/validate", {"files": files})
    except ServerError:
        from pool.task.check import check_file

        checked = [check_file(each["text"].encode(errors="surrogateescape"), each["source"]) for each in files]
    return checked


def _wrong(error: dict[str, Any]) -> str:
    return f"{error['message']}\n" + (f"try: {error['hint']}\n" if error["hint"] else "")
