"""README says what the code does: its generated parts are up to date, its commands and options exist."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

from pool.cli.main import COMMANDS, SPLIT, parser
from pool.task.load import load_task

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()


@pytest.fixture(scope="module")
def readme() -> ModuleType:
    """The program that fills README, `.ci/readme.py`."""
    spec = importlib.util.spec_from_file_location("readme", ROOT / ".ci" / "readme.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_generated_parts_are_up_to_date(readme: ModuleType) -> None:
    """`make docs` would change nothing that is made from the code alone."""
    assert readme.fill(README, readme.parts()) == README, "run: make docs"


def typed_commands() -> list[str]:
    """Every `$ pool …` line of README, without comments and the demo's real output."""
    text = re.sub(r"<!-- demo -->.*?<!-- /demo -->", "", README, flags=re.DOTALL)
    return [line[2:].split("  #")[0].strip() for line in text.splitlines() if line.startswith("$ pool ")]


@pytest.mark.parametrize("line", typed_commands())
def test_every_command_of_readme_parses(line: str) -> None:
    """A person can type what README shows."""
    import shlex

    words = shlex.split(line)[1:]
    if words[0] in SPLIT:
        words = [words[0], *importlib.import_module(f"pool.cli.{words[0]}").split(words[1:])[0]]
    assert parser(list(COMMANDS)).parse_args(words).run


def test_task_examples_of_readme_are_valid() -> None:
    """Every YAML block of README is a task file that `pool validate` accepts."""
    blocks = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
    assert blocks
    for block in blocks:
        load_task(block.encode(), "README.md")


def test_demo_output_is_real() -> None:
    """README shows the demo's output: every command of examples/demo.sh with what it printed."""
    shown = re.search(r"<!-- demo -->(.*?)<!-- /demo -->", README, re.DOTALL)
    assert shown
    for command in ("pool lab up", "pool add-ssh", "pool ps", "pool run", "pool runs", "pool logs", "pool rm"):
        assert f"$ {command}" in shown[1], command
