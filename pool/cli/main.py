"""The `pool` command: finds the command, runs it, prints what went wrong. The only place that prints errors and exits.

Start-up is paid on every call, so a command's module is imported only when it is asked for, and argparse is used
because it is 10 ms where the alternatives are 40.
"""

from __future__ import annotations

import argparse
import errno
import os
import sys
from functools import cache
from importlib import import_module

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

#: Command -> what it does, for `pool --help` and in its order. The module of `add-ssh` here is add_ssh.py, and so on.
COMMANDS = {
    "add-ssh": "make machines that you can ssh into hosts of the pool",
    "provision": "see to driver, Docker, toolkit and runner on hosts again",
    "doctor": "check the hosts and say what is wrong",
    "ps": "list the hosts and what of them is free",
    "drain": "give a host no new jobs",
    "undrain": "give a host jobs again",
    "rm": "take a host out of the pool",
    "ssh": "open a shell inside of a running job, or on a host",
    "exec": "run a command on many hosts and group what they say",
    "inventory": "print the hosts as a dynamic inventory for Ansible",
    "images": "list the container images on the hosts",
    "pull": "have hosts pull an image before a task needs it",
    "run": "run a task on the pool",
    "runs": "list the runs",
    "logs": "show what a run wrote",
    "attach": "go on with a run's output and ports, to its end",
    "cp": "copy files out of a job's folder, or into it",
    "stop": "end a run",
    "ssh-config": "have your own ssh find the live runs by name",
    "proxy": "carry a connection of ssh to a running job",
    "offer": "show which hosts could take a request",
    "validate": "check task files",
    "schema": "print the JSON Schema of task files",
    "server": "start, stop or look at the pool server",
    "lab": "try pool on this machine: real SSH hosts on loopback addresses",
    "completion": "print a completion script for your shell",
}

#: What a full disk or a broken device answers.
_NO_OUTPUT = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG)
#: Those that pass words on, to a task or to a host; their `split` says which.
SPLIT = ("ssh", "exec", "run")

_EXAMPLES = """\
examples:
  pool add-ssh ubuntu@gpu1 -i ~/.ssh/id_ed25519      make gpu1 a host of the pool
  pool ps                                            hosts and their free GPUs
  pool run . -f train.dstack.yml --lr 0.1            run a task; what follows the options goes to the task
  pool logs brave-otter-1 -f                         its output, from anywhere, at any time

try it without a server room: pool lab up
"""


class Layout(argparse.RawDescriptionHelpFormatter):
    """argparse makes one of these for every option it is told of, and each would import shutil for the width."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=_width())


class Parser(argparse.ArgumentParser):
    """argparse with an error of one line and the next command to type; options are not guessed from their start."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{"formatter_class": Layout, "allow_abbrev": False, **settings})

    def error(self, message: str) -> NoReturn:
        """Raise InputError instead of printing the usage."""
        from pool.errors import InputError

        raise InputError(message, hint=f"{self.prog} --help")


class _Commands(argparse._SubParsersAction):  # type: ignore[type-arg]
    """The place for the commands; each is described by the table."""

    def add_parser(self, name: str, **settings: Any) -> Any:
        return super().add_parser(name, help=COMMANDS[name], **settings)


def parser(names: list[str]) -> Parser:
    """The parser with the commands `names` in it."""
    top, commands = _top()
    for name in names:
        _module(name).register(commands)
    return top


def outline() -> Parser:
    """The parser that knows all commands by name only: enough for `pool --help`, and for a word that is none."""
    top, commands = _top()
    for name in COMMANDS:
        commands.add_parser(name, add_help=False)
    return top


def _top() -> tuple[Parser, Any]:
    top = Parser(prog="pool", description="A few GPU servers in a lab become one pool.", epilog=_EXAMPLES)
    top.add_argument("--version", action="version", version=_version())
    commands = top.add_subparsers(
        prog="pool", dest="command", metavar="COMMAND", required=True, parser_class=Parser, action=_Commands
    )
    return top, commands


def main(argv: list[str] | None = None) -> int:
    """Run one command; its exit code. Errors are printed as `pool: what` and `try: next command`."""
    words = sys.argv[1:] if argv is None else argv
    try:
        name = words[0] if words and words[0] in COMMANDS else None
        rest: list[str] = []
        if name in SPLIT:
            own, rest = _module(name).split(words[1:])
            words = [name, *own]
        if name is None:
            _refuse_unknown(words)
            outline().parse_known_args(words)
        args, unknown = parser([name] if name else list(COMMANDS)).parse_known_args(words)
        if unknown:
            Parser(prog=f"pool {name or ''}".strip()).error(f"unrecognized arguments: {' '.join(unknown)}")
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


def _module(name: str) -> Any:
    return import_module("pool.cli." + name.replace("-", "_"))


def _refuse_unknown(words: list[str]) -> None:
    """InputError for a command that there is not, with the one that was most likely meant."""
    if words and not words[0].startswith("-"):
        from difflib import get_close_matches

        from pool.errors import InputError

        close = get_close_matches(words[0], COMMANDS, n=1)
        raise InputError(f"there is no command {words[0]!a}", hint=f"pool {close[0]}" if close else "pool --help")


def _report(error: Exception) -> int:
    from pool.errors import PoolError

    if isinstance(error, OSError) and error.errno in _NO_OUTPUT and error.filename is None:
        error = PoolError(f"the output cannot be written: {error.strerror}")
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left of it is not tried again
    if not isinstance(error, PoolError):
        raise error
    from pool.cli import render

    render.note(f"pool: {error.message}")
    if error.hint:
        render.note(f"try: {error.hint}")
    return error.exit_code


@cache
def _width() -> int:
    """Of the help: as many columns as the terminal has, less two."""
    try:
        columns = int(os.environ.get("COLUMNS") or 0) or os.get_terminal_size(1).columns
    except (OSError, ValueError):
        columns = 80
    return columns - 2


def _version() -> str:
    from pool import __version__

    return f"pool {__version__}"


if __name__ == "__main__":
    sys.exit(main())
