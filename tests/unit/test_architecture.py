"""The shape of the code, held: who imports whom, how big things are, where states may change."""

from __future__ import annotations

import ast
import re
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pool import errors
from pool.states import FINISHED, HOST_MOVES, JOB_MOVES, HostStatus, JobStatus
from tests.conftest import REPOSITORY

PACKAGE = REPOSITORY / "pool"
MODULES = sorted(PACKAGE.rglob("*.py"))
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in MODULES}

NOUNS = {"errors", "states", "config", "host", "offer", "run", "cards"}
#: Part of pool -> the parts it may import. `runner` is shipped to hosts, and shares its wire format and version.
ALLOWED = {
    "errors": set(),
    "states": set(),
    "config": {"errors"},
    "host": {"errors", "states"},
    "cards": {"errors"},
    "offer": {"errors", "states", "host", "cards"},
    "run": {"errors", "states", "host", "offer"},
    "task": NOUNS,
    "scheduler": NOUNS,
    "store": NOUNS,
    "ssh": NOUNS | {"runner"},
    "provision": NOUNS | {"runner"},
    "lifecycle": NOUNS | {"task", "scheduler", "store", "ssh", "provision", "runner"},
    "server": NOUNS | {"task", "scheduler", "store", "ssh", "provision", "lifecycle", "runner"},
    "client": NOUNS | {"task", "server", "runner"},
    "inside": NOUNS | {"client", "runner"},
    "folder": {"config", "errors", "client", "runner"},
    "lab": {"config", "errors"},
    "cli": NOUNS | {"task", "client", "inside", "folder", "server", "lab"},
    "runner": set(),
}
WITHOUT_A_NAME = {"utils", "util", "common", "helpers", "helper", "base", "core", "manager", "misc", "shared"}


def _part(path: Path) -> str:
    """`errors` for pool/errors.py, `store` for anything below pool/store/."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def _imports(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """(line, absolute module name) of every import, also those inside functions and under TYPE_CHECKING."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: imports are absolute"
            module = node.module or ""
            if module == "pool":
                for alias in node.names:
                    yield node.lineno, f"pool.{alias.name}"
            else:
                yield node.lineno, module


def _functions() -> Iterator[tuple[str, int]]:
    for path, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                yield f"{path.relative_to(REPOSITORY)}:{node.lineno} {node.name}", lines


def _found(problems: list[str]) -> str:
    return "\n  ".join(["", *problems])


def test_imports_go_down() -> None:
    """cli → client | server → lifecycle → {scheduler, store, ssh, provision} → nouns → states, errors; never up."""
    problems = []
    for path, tree in TREES.items():
        part = _part(path)
        if part == "__init__":
            continue
        assert part in ALLOWED, f"{part} is not in the import table of {__file__}"
        for line, module in _imports(tree):
            names = module.split(".")
            if names[0] != "pool" or len(names) == 1 or names[1] in {part, "__version__"}:
                continue
            if names[1] not in ALLOWED[part]:
                problems.append(f"{path.relative_to(REPOSITORY)}:{line} imports {module}")
    assert not problems, _found(problems)


def test_the_runner_needs_only_the_standard_library() -> None:
    """It is shipped to hosts as it is: nothing to install there, and nothing else of pool."""
    problems = [
        f"{path.relative_to(REPOSITORY)}:{line} imports {module}"
        for path, tree in TREES.items()
        if _part(path) == "runner"
        for line, module in _imports(tree)
        if module.split(".")[0] not in sys.stdlib_module_names and not module.startswith("pool.runner")
    ]
    assert not problems, _found(problems)


def test_the_runner_is_python_3_8() -> None:
    """Its grammar is that of the oldest Python that a host may have."""
    for path in MODULES:
        if _part(path) == "runner" or path.name == "nvidia_smi.py":
            ast.parse(path.read_text(encoding="utf-8"), filename=str(path), feature_version=(3, 8))


def test_modules_fit_in_the_head() -> None:
    """No module is over 400 lines; a larger one is split by noun."""
    sizes = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in MODULES}
    problems = [f"{path.relative_to(REPOSITORY)}: {lines} lines" for path, lines in sizes.items() if lines > 400]
    assert not problems, _found(problems)


def test_functions_fit_on_a_screen() -> None:
    """No function is over 80 lines, and 19 of 20 are at most 45; a migration is one list of steps."""
    functions = {name: lines for name, lines in _functions() if "/migrations/versions/" not in name}
    problems = [f"{name}: {lines} lines" for name, lines in functions.items() if lines > 80]
    assert not problems, _found(problems)
    assert statistics.quantiles(functions.values(), n=20)[-1] <= 45


def test_every_module_has_a_name() -> None:
    """A module is called for the noun it holds or the verb it does."""
    problems = [
        str(path.relative_to(REPOSITORY))
        for path in MODULES
        if {part.removesuffix(".py").strip("_") for part in path.relative_to(PACKAGE).parts} & WITHOUT_A_NAME
    ]
    assert not problems, _found(problems)


def test_packages_hold_no_code() -> None:
    """`__init__.py` is empty, but for the root's map and version."""
    for path in PACKAGE.rglob("__init__.py"):
        if path.parent != PACKAGE:
            assert path.read_text(encoding="utf-8") == "", path
    names = [ast.unparse(node).split(" ")[0] for node in TREES[PACKAGE / "__init__.py"].body[1:]]
    assert names == ["__version__"]


def test_every_error_is_in_the_tree_with_its_exit_code() -> None:
    """errors.py's docstring names every error with the code that it ends the command with, and nothing else."""
    lines = re.findall(r"^ +(\w+) +(\d+)(?: .*)?$", errors.__doc__ or "", re.MULTILINE)
    documented = {name: int(code) for name, code in lines}
    # Where no number stands, the class has that of its parent, which the docstring repeats.
    public = {name: cls.exit_code for name, cls in errors.tree().items() if not name.startswith("_")}
    assert documented == public


def test_every_error_is_defined_in_one_place() -> None:
    """An error that a user can meet is made in errors.py, so that it travels over the socket under its name.

    One whose name starts with `_` is caught where it is made.
    """
    known = set(errors.tree())
    problems = [
        f"{path.relative_to(REPOSITORY)}:{node.lineno} {node.name}"
        for path, tree in TREES.items()
        if path != PACKAGE / "errors.py"
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
        if {ast.unparse(base).split(".")[-1] for base in node.bases} & known
    ]
    assert not problems, _found(problems)


@pytest.mark.parametrize(
    ("statuses", "moves", "first"),
    [(HostStatus, HOST_MOVES, HostStatus.NEW), (JobStatus, JOB_MOVES, JobStatus.SUBMITTED)],
)
def test_move_tables_are_complete(
    statuses: type[HostStatus] | type[JobStatus], moves: dict[str, frozenset[str]], first: str
) -> None:
    """Every state stands in its table, can be reached, leads to an end, and never to itself."""
    assert set(moves) == set(statuses)
    ends = {state for state, following in moves.items() if not following}
    assert ends
    for state in moves:
        assert state not in moves[state]
        assert state in _reachable(first, moves)
        assert _reachable(state, moves) & ends


def _reachable(first: str, moves: dict[str, frozenset[str]]) -> set[str]:
    found: set[str] = set()
    todo = [first]
    while todo:
        state = todo.pop()
        if state not in found:
            found.add(state)
            todo += moves[state]
    return found


def test_finished_jobs_are_those_without_moves() -> None:
    """What needs nothing more is what cannot move."""
    assert frozenset({"done", "failed", "stopped", "interrupted"}) == FINISHED


def test_states_change_in_the_store_alone() -> None:
    """No `.status =`, no `UPDATE … SET status`, no `.values(status=…)` elsewhere: `Store.move` is the one writer."""
    problems = []
    for path, tree in TREES.items():
        if _part(path) == "store":
            continue
        for node in ast.walk(tree):
            where = f"{path.relative_to(REPOSITORY)}:{getattr(node, 'lineno', 0)}"
            targets = node.targets if isinstance(node, ast.Assign) else []
            if any(isinstance(target, ast.Attribute) and target.attr == "status" for target in targets):
                problems.append(f"{where} assigns to .status")
            text = node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""
            if re.search(r"\bUPDATE\s+\w+\s+SET\b[^;]*\bstatus\b", text, re.IGNORECASE):
                problems.append(f"{where} updates a status by SQL")
            values = isinstance(node, ast.Call) and ast.unparse(node.func).endswith(".values")
            if values and any(keyword.arg == "status" for keyword in node.keywords):  # type: ignore[attr-defined]
                problems.append(f"{where} updates a status by SQL")
    assert not problems, _found(problems)


def test_no_shell_is_started_here() -> None:
    """Programs are started by argument lists: nothing that a person wrote meets a shell on this machine."""
    problems = []
    for path, tree in TREES.items():
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call):
                continue
            name = ast.unparse(node.func)
            shell = any(
                keyword.arg == "shell"
                and not (isinstance(keyword.value, ast.Constant) and keyword.value.value is False)
                for keyword in node.keywords
                if name.startswith("subprocess.")
            )
            if shell or name in {"os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput"}:
                problems.append(f"{path.relative_to(REPOSITORY)}:{node.lineno} {name}")
    assert not problems, _found(problems)


def test_unit_tests_do_not_sleep() -> None:
    """A unit test waits for nothing but its own work."""
    problems = [
        f"{path.relative_to(REPOSITORY)}:{node.lineno}"
        for path in sorted((REPOSITORY / "tests" / "unit").rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in {"time.sleep", "sleep"}
    ]
    assert not problems, _found(problems)


def test_the_command_line_starts_light() -> None:
    """What `pool` imports before it knows the command is cheap: the rest is imported by the command that needs it."""
    heavy = {
        "ansible_runner",
        "asyncio",
        "dataclasses",
        "fabric",
        "paramiko",
        "pathlib",
        "pydantic",
        "rich",
        "sqlalchemy",
    }
    code = "import sys; import pool.cli.main; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], cwd=REPOSITORY, capture_output=True, text=True, timeout=30, check=True
    )
    assert not heavy & set(done.stdout.split())
