"""The roles' promises: what can be set is documented and typed, and nothing is fetched from anywhere."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import REPOSITORY

ROLES = sorted(path for path in (REPOSITORY / "roles").iterdir() if path.is_dir())


def load(path: Path) -> Any:
    """A YAML file."""
    return yaml.safe_load(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_every_variable_is_documented(role: Path) -> None:
    """defaults, argument_specs and README name the same variables, each with the role's prefix."""
    defaults = set(load(role / "defaults" / "main.yml"))
    options = load(role / "meta" / "argument_specs.yml")["argument_specs"]["main"]["options"]
    assert defaults == set(options)
    assert all(name.startswith(f"{role.name}_") for name in defaults)
    readme = (role / "README.md").read_text(encoding="utf-8")
    assert [name for name in defaults if f"| `{name}` |" not in readme] == []
    assert all(option.get("description") and option.get("type") for option in options.values())


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_only_builtin_modules(role: Path) -> None:
    """A site needs ansible-core and nothing else: every action is one of ansible.builtin, by its full name."""
    words = {
        "name",
        "when",
        "tags",
        "register",
        "loop",
        "notify",
        "listen",
        "become",
        "vars",
        "until",
        "retries",
        "delay",
    }
    words |= {"changed_when", "failed_when", "check_mode", "delegate_to", "block", "rescue", "environment", "no_log"}
    for path in [*role.glob("tasks/*.yml"), *role.glob("handlers/*.yml")]:
        for task in load(path):
            actions = set(task) - words
            assert len(actions) == 1, f"{path}: {actions}"
            assert actions.pop().startswith("ansible.builtin."), path


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_every_task_has_a_name(role: Path) -> None:
    """A step that fails is told by its name, so each has one, and no two of a file share it."""
    for path in role.glob("tasks/*.yml"):
        names = [task.get("name") for task in load(path)]
        assert all(names), path
        assert len(names) == len(set(names)), path


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_no_address_is_written_in_a_task(role: Path) -> None:
    """A mirror or a site without internet can set every URL: none stands outside the defaults."""
    for path in role.rglob("*"):
        if path.is_file() and "defaults" not in path.parts and path.name != "README.md":
            assert not re.search(r"https?://", path.read_text(encoding="utf-8")), path
