"""The `pool` command: finds the command, runs it, prints what went wrong. The only place that prints errors and exits.

Start-up is paid on every call, so a command's module is imported only when it is asked for, and argparse is used
because it is 10 ms where the alternatives are 40.
"""

from __future__ import annotations

import argparse
import os
import sys
from importlib import import_module

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

#: Command -> module in this folder. The order is the order of `pool --help`.
COMMANDS = {
    "add-ssh": "add_ssh",
    "ps": "ps",
    "rm": "rm",
    "run": "run",
    "runs": "runs",
    "logs": "logs",
    "attach": "attach",
    "stop": "stop",
    "offer": "offer",
    "validate": "validate",
    "schema": "schema",
    "server": "server",
    "lab": "lab",
    "completion": "completion",
}

_EXAMPLES = """\
examples:
  pool add-ssh ubuntu@gpu1 -i ~/.ssh/id_ed25519      make gpu1 a host of the pool
  pool ps                                            hosts and their free GPUs
  pool run . -f train.dstack.yml --lr 0.1            run a task; what follows the options goes to the task
  pool logs brave-otter-1 -f                         its output, from anywhere, at any time

try it without a server room: pool lab up
"""


class Parser(argparse.ArgumentParser):
    """argparse with an error of one line and the next command to type."""

    def error(self, message: str) -> NoReturn:
        """Raise InputError instead of printing the usage."""
        from pool.errors import InputError

        raise InputError(message, hint=f"{self.prog} --help")


def parser(names: list[str]) -> Parser:
    """The parser with the commands `names` in it."""
    top = Parser(
        prog="pool",
        description="A few GPU servers in a lab become one pool.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    top.add_argument("--version", action="version", version=_version())
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=Parser)
    for name in names:
        import_module(f"pool.cli.{COMMANDS[name]}").register(commands)
    return top


def main(argv: list[str] | None = None) -> int:
    """Run one command; its exit code. Errors are printed as `pool: what` and `try: next command`."""
    words = sys.argv[1:] if argv is None else argv
    try:
        names = [words[0]] if words and words[0] in COMMANDS else list(COMMANDS)
        rest: list[str] = []
        if names == ["run"]:  # what it does not know belongs to the task
            own, rest = import_module("pool.cli.run").split(words[1:])
            words = ["run", *own]
        args = parser(names).parse_args(words)
        args.run_args = rest
        code: int = args.run(args)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        sys.stderr.write("\n")
        return 130
    except BrokenPipeError:
        # The reader (`| head`) has what it wants; Python must not complain when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as error:
        return _report(error)


def _report(error: Exception) -> int:
    from pool.errors import PoolError

    if not isinstance(error, PoolError):
        raise error
    sys.stdout.flush()
    sys.stderr.write(f"pool: {error.message}\n")
    if error.hint:
        sys.stderr.write(f"try: {error.hint}\n")
    return error.exit_code


def _version() -> str:
    from pool import __version__

    return f"pool {__version__}"


if __name__ == "__main__":
    sys.exit(main())
