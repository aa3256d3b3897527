"""What every role promises to people who run it from their own playbooks, held by reading its files."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import REPOSITORY

ROLES = REPOSITORY / "roles"
NAMES = sorted(folder.name for folder in ROLES.iterdir() if (folder / "tasks").is_dir())
#: What the other roles include; their variables are given by those.
INNER = {"look", "journal"}
URL = re.compile(r"(https?|ftp)://[^\s\"']+")


def read(path: Path) -> Any:
    """A YAML file; nothing where there is none."""
    return yaml.safe_load(path.read_text()) if path.exists() else None


def specs(role: str) -> dict[str, Any]:
    """The options that a role says it takes."""
    return dict(read(ROLES / role / "meta/argument_specs.yml")["argument_specs"]["main"]["options"])


def tasks(role: str) -> list[tuple[Path, dict[str, Any]]]:
    """Every task and handler of a role with its file, those in blocks included."""
    found: list[tuple[Path, dict[str, Any]]] = []

    def walk(path: Path, many: list[dict[str, Any]]) -> None:
        for task in many:
            found.append((path, task))
            for part in ("block", "rescue", "always"):
                walk(path, task.get(part) or [])

    for path in sorted([*(ROLES / role).glob("tasks/*.yml"), *(ROLES / role).glob("handlers/*.yml")]):
        walk(path, read(path) or [])
    return found


@pytest.mark.parametrize("role", NAMES)
def test_defaults_are_the_options_that_are_documented(role: str) -> None:
    """Each default is an option, of the role's prefix, with a type and a word on it; both say the same value."""
    defaults, options = read(ROLES / role / "defaults/main.yml"), specs(role)
    assert sorted(defaults) == sorted(options)
    for name, option in options.items():
        assert name.startswith(f"{role}_")
        assert option["description"] and option["type"]
        if "default" in option:
            assert option["default"] == defaults[name], name


@pytest.mark.parametrize("role", NAMES)
def test_readme_names_every_variable(role: str) -> None:
    """What can be set is in README."""
    text = (ROLES / role / "README.md").read_text()
    assert [name for name in specs(role) if f"| `{name}` |" not in text] == []


@pytest.mark.parametrize("role", NAMES)
def test_every_url_can_be_changed(role: str) -> None:
    """No task, template, handler or inner variable has a URL in it: they are defaults, for mirrors and closed sites."""
    files = [
        path
        for part in ("tasks", "handlers", "templates", "vars", "files")
        for path in (ROLES / role).glob(f"{part}/*")
    ]
    found = {path.name: match.group() for path in files if (match := URL.search(path.read_text()))}
    assert found == {}


@pytest.mark.parametrize("role", NAMES)
def test_no_key_and_no_version_is_written_into_a_task(role: str) -> None:
    """What is installed, and by which key it is trusted, is said by variables."""
    for path, task in tasks(role):
        for module in ("ansible.builtin.apt", "ansible.builtin.dnf"):
            name = str((task.get(module) or {}).get("name", "{{"))
            assert name.startswith("{{"), f"{path}: {task['name']}: {name}"
        fetched = task.get("ansible.builtin.get_url") or {}
        assert str(fetched.get("url", "{{")).startswith("{{"), f"{path}: {task['name']}"
        assert str(fetched.get("validate_certs", True)).lower() in ("true", "yes")


@pytest.mark.parametrize("role", NAMES)
def test_no_task_name_twice(role: str) -> None:
    """A name in a log says which task it was, within its file."""
    names = [(path.name, task.get("name")) for path, task in tasks(role)]
    assert all(name for _, name in names)
    assert sorted({name for name in names if names.count(name) > 1}) == []


@pytest.mark.parametrize("role", NAMES)
def test_only_what_ansible_core_brings(role: str) -> None:
    """No collection has to be mirrored: every action is of ansible.builtin, in full."""
    words = set(
        "name when vars register become tags loop notify listen block rescue always async poll environment changed_when"
        " failed_when check_mode delegate_to no_log until retries delay timeout with_first_found loop_control".split()
    )
    for path, task in tasks(role):
        actions = [key for key in task if key not in words]
        assert all(key.startswith("ansible.builtin.") for key in actions), f"{path}: {task['name']}: {actions}"
        assert len(actions) == (0 if "block" in task else 1), f"{path}: {task['name']}: {actions}"


@pytest.mark.parametrize("role", [name for name in NAMES if name not in {*INNER, "runner"}])
def test_it_refuses_variables_that_it_does_not_know(role: str) -> None:
    """The first task asserts that every variable with the role's prefix is one of its options."""
    first = read(ROLES / role / "tasks/main.yml")[0]
    assert "ansible.builtin.assert" in first and first["tags"] == ["always"]
    assert f"'^{role}_'" in str(first["vars"])
    inner = read(ROLES / role / "vars/main.yml")
    assert all(name.startswith("__") for name in inner), "a variable of its own would be refused as unknown"


@pytest.mark.parametrize("role", NAMES)
def test_nothing_relies_on_facts_of_ansible(role: str) -> None:
    """The playbooks gather none, which saves seconds a host; what a role needs to know it looks up itself."""
    for path, task in tasks(role):
        assert "ansible_facts" not in str(task) and "ansible_distribution" not in str(task), f"{path}: {task['name']}"


@pytest.mark.parametrize("role", [name for name in NAMES if name not in {*INNER, "pool_server"}])
def test_what_is_verified_is_what_pool_doctor_checks(role: str) -> None:
    """A role's end, its scenarios and playbooks/check.yml, which `pool doctor` runs, share tasks/verify.yml."""
    included = {path.name for path, task in tasks(role) if "'verify.yml'" in str(task)}
    assert {"check.yml", "present.yml"} <= included
    checks = read(REPOSITORY / "playbooks/check.yml")[0]["tasks"][0]
    assert checks["ansible.builtin.include_tasks"] == "tasks/check_part.yml"
    assert role in checks["vars"]["pool_parts"]
    assert "'tasks_from': 'check'" in str(read(REPOSITORY / "playbooks/tasks/check_part.yml"))
    for path in sorted((ROLES / role).glob("molecule/*/verify.yml")):
        assert f"'name': '{role}', 'tasks_from': 'verify'" in str(read(path)), path
