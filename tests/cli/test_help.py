"""Help is where a person looks first: every command has one, with examples that are themselves right."""

from __future__ import annotations

import re
import shlex
from importlib import import_module

import pytest

from pool.cli.main import COMMANDS, SPLIT, parser
from tests.conftest import Cli


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_examples(cli: Cli, command: str) -> None:
    """Usage, a sentence, options, and examples that begin with the command's own name."""
    done = cli(command, "--help")
    assert done.rc == 0, done
    assert done.stdout.startswith(f"usage: pool {command}"), done
    examples = re.findall(
        rf"^  (?:\S+=\S+ )?(pool {command}\b.*)$", done.stdout.partition("examples:")[2], re.MULTILINE
    )
    assert examples, done
    assert max(map(len, done.stdout.splitlines())) <= 120


@pytest.mark.parametrize("command", sorted(set(COMMANDS) - {"run"}))
def test_examples_can_be_typed(cli: Cli, command: str) -> None:
    """Every word of every example is one that the command knows."""
    text = cli(command, "--help").stdout.partition("examples:")[2]
    for line in re.findall(rf"^  (?:\S+=\S+ )?pool ({command}\b.*)$", text, re.MULTILINE):
        words = shlex.split(re.split(r"\s{3,}| [|>;&] ", line)[0])
        if command in SPLIT:
            words = [command, *import_module(f"pool.cli.{command}").split(words[1:])[0]]
        parser([command]).parse_args(words)


def test_help_names_every_command(cli: Cli) -> None:
    """`pool`, `pool --help` and a wrong word all lead on."""
    done = cli("--help")
    assert done.rc == 0
    assert re.findall(r"^    ([a-z-]+)(?: |$)", done.stdout, re.MULTILINE) == list(COMMANDS)
    assert re.fullmatch(r"pool \d+\.\d+\.\d+\n", cli("--version").stdout)
    for words, hint in (
        ([], "pool --help"),
        (["lgos"], "pool logs"),
        (["xyzzy"], "pool --help"),
        (["--no"], "pool --help"),
    ):
        wrong = cli(*words)
        assert (wrong.rc, wrong.stdout) == (2, ""), wrong
        assert wrong.stderr.endswith(f"\ntry: {hint}\n"), wrong
    assert cli("\x1b[2J").stderr.startswith("pool: there is no command '\\x1b[2J'")


def test_no_state_is_made_by_help(cli: Cli) -> None:
    """Asking for help starts no server."""
    cli("ps", "--help")
    assert cli("server", "status").rc == 5


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_completion(cli: Cli, shell: str) -> None:
    """A script that names every command; an unknown shell is refused."""
    done = cli("completion", shell)
    assert done.rc == 0, done
    for command in COMMANDS:
        assert command in done.stdout
    assert cli("completion", "cmd").rc == 2
