"""`pool completion`: a completion script for the shell."""

from __future__ import annotations

import argparse
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_EXAMPLES = """\
examples:
  pool completion bash > ~/.local/share/bash-completion/completions/pool
  pool completion zsh > ~/.zfunc/_pool          with ~/.zfunc in $fpath
"""


def register(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "completion",
        description="Print a completion script for your shell.",
        epilog=_EXAMPLES,
    )
    parser.add_argument("shell", choices=("bash", "zsh", "tcsh"))
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    import shtab

    from pool.cli.main import COMMANDS, parser

    sys.stdout.write(shtab.complete(parser(list(COMMANDS)), args.shell))
    return 0
