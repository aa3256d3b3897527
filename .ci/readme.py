"""Fills the parts of README.md that are made from the code: `make docs`. A test holds that they are up to date.

Each part stands between `<!-- name -->` and `<!-- /name -->`. `demo` takes the output of a real `make demo`.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from pathlib import Path

from pool.cli.main import COMMANDS, parser
from pool.errors import PoolError, tree
from pool.task.reference import reference_markdown

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"


def commands() -> str:
    """Every command with its own one-line help and its options."""
    rows = []
    for name, command in _parsers().items():
        flags = [max(a.option_strings, key=len) for a in command._actions if a.option_strings and a.dest != "help"]
        usage = f"`pool {name}`" + (" " + " ".join(f"`{flag}`" for flag in flags) if flags else "")
        rows.append(f"| {usage} | {_help(name)} |")
    return "\n".join(["| command and options | what it does |", "|---|---|", *rows])


def exit_codes() -> str:
    """Every exit code with what it says."""
    by_code: dict[int, str] = {}
    for error in tree().values():
        if error is not PoolError:
            by_code.setdefault(error.exit_code, (error.__doc__ or "").strip())
    by_code[1] = "anything else"
    return "\n".join(["| code | meaning |", "|---|---|", *(f"| {c} | {by_code[c]} |" for c in sorted(by_code))])


def parts() -> dict[str, str]:
    """Every part that is made from the code alone."""
    return {"commands": commands(), "exit-codes": exit_codes(), "reference": reference_markdown().strip()}


def fill(text: str, made: dict[str, str]) -> str:
    """`text` with these parts in it."""
    for name, body in made.items():
        part = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        text = part.sub(lambda match, body=body: f"{match[1]}{body}\n{match[2]}", text)
    return text


def demo() -> str:
    """What `make demo` prints now, from its first command on."""
    done = subprocess.run(
        ["make", "--no-print-directory", "demo"], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if done.returncode != 0:
        sys.exit(f"make demo failed:\n{done.stdout}")
    return f"```console\n{done.stdout[done.stdout.index('$ pool') :].strip()}\n```"


def _parsers() -> dict[str, argparse.ArgumentParser]:
    action = next(a for a in parser(list(COMMANDS))._actions if isinstance(a, argparse._SubParsersAction))
    found = {}
    for name, command in action.choices.items():
        verbs = [a for a in command._actions if isinstance(a, argparse._SubParsersAction)]
        found |= {f"{name} {verb}": sub for verb, sub in verbs[0].choices.items()} if verbs else {name: command}
    return found


def _help(name: str) -> str:
    words = name.split()
    command = parser(list(COMMANDS))
    for word in words:
        action = next(a for a in command._actions if isinstance(a, argparse._SubParsersAction))
        text = next(str(choice.help) for choice in action._choices_actions if choice.dest == word)
        command = action.choices[word]
    return text


if __name__ == "__main__":
    made = parts() | ({"demo": demo()} if "--demo" in sys.argv else {})
    README.write_text(fill(README.read_text(), made))
