"""Commands become a script: run for real, by bash and by a plain POSIX shell."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from pool.task.compile import compile_task
from pool.task.load import load_task
from pool.task.script import build_script

SHELLS = [name for name in ("bash", "dash", "sh") if shutil.which(name)]


def run(shell: str, items: list[str], folder: Path, env: dict[str, str] | None = None) -> tuple[int, str]:
    """Exit code and output of the script that `items` make."""
    script = folder / "script"
    script.write_text(build_script(items) or "", encoding="utf-8", newline="")
    done = subprocess.run(
        [shell, str(script)],
        cwd=folder,
        env={"PATH": "/usr/bin:/bin", "HOME": str(folder), **(env or {})},
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    return done.returncode, done.stdout


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(
    ("items", "code", "output"),
    [
        pytest.param(["echo a", "echo b"], 0, "a\nb\n", id="in order"),
        pytest.param(["echo a", "(exit 3)", "echo b"], 3, "a\n", id="a failing item stops the rest"),
        pytest.param(["echo a", "exit 4", "echo b"], 4, "a\n", id="exit"),
        pytest.param(["false"], 1, "", id="the last status is the script's"),
        pytest.param(["no-such-command-x"], 127, "", id="a missing command"),
        pytest.param(["false || true", "echo b"], 0, "b\n", id="|| in an item"),
        pytest.param(["mkdir d && cd d", "pwd | sed 's:.*/::'"], 0, "d\n", id="cd carries over"),
        pytest.param(["export A=1", "B=2", 'echo "$A$B"'], 0, "12\n", id="export and variables carry over"),
        pytest.param(["f() { echo hi; }", "f"], 0, "hi\n", id="functions carry over"),
        pytest.param(["# a comment", "echo b"], 0, "b\n", id="a comment"),
        pytest.param(["echo a # said", "echo b"], 0, "a\nb\n", id="a comment behind a command"),
        pytest.param(["echo a;", "echo b;"], 0, "a\nb\n", id="a semicolon at the end"),
        pytest.param(["", "  ", "echo b"], 0, "b\n", id="empty items"),
        pytest.param(["cat <<EOF\na $((1+1))\nEOF", "echo b"], 0, "a 2\nb\n", id="a heredoc"),
        pytest.param(["cat <<'EOF'\n$x 'y' \\\nEOF\n", "echo b"], 0, "$x 'y' \\\nb\n", id="a quoted heredoc"),
        pytest.param(["for i in 1 2; do\n  echo $i\ndone"], 0, "1\n2\n", id="several lines"),
        pytest.param(["false\necho a"], 0, "a\n", id="lines of one item do not stop each other"),
        pytest.param(["set -e", "false\necho a"], 1, "", id="unless set -e was an item"),
        pytest.param(["set -e", "f() { false; echo in f; }", "f", "echo b"], 1, "", id="set -e inside a function"),
        pytest.param(["set -e", "(false; echo a)", "echo b"], 1, "", id="set -e inside a subshell"),
        pytest.param(["set -u", 'echo "${A-unset}"', "echo b"], 0, "unset\nb\n", id="set -u"),
        pytest.param(["(sleep 0.2; echo late) &", "echo b", "wait"], 0, "b\nlate\n", id="an item in the background"),
        pytest.param(["false &", "echo b"], 0, "b\n", id="a failing item in the background"),
        pytest.param(["true & wait $!", "echo b"], 0, "b\n", id="& within an item"),
        pytest.param(["echo 'it''s'", 'echo "a\\"b"'], 0, 'its\na"b\n', id="quotes"),
        pytest.param(
            ["printf '%s\\n' '100%' '$x' '`y`' '\\z'"], 0, "100%\n$x\n`y`\n\\z\n", id="nothing is expanded twice"
        ),
        pytest.param(["echo a \\\n  b", "echo c"], 0, "a b\nc\n", id="a continued line"),
        pytest.param(["echo a \\", "echo c"], 0, "a\nc\n", id="a backslash at the end"),
        pytest.param(["trap 'echo bye' EXIT", "false"], 1, "bye\n", id="a trap at exit"),
        pytest.param(["exec 2>&1", "echo a >&2"], 0, "a\n", id="exec carries over"),
        pytest.param(["exec sh -c 'exit 7'", "echo b"], 7, "", id="exec of a program"),
        pytest.param(["if true; then", "echo b"], 2, "", id="a syntax error stops"),
        pytest.param(["echo ä 日本 🙂"], 0, "ä 日本 🙂\n", id="text beyond ASCII"),
        pytest.param(["read x", "echo b"], 1, "", id="standard input is empty"),
    ],
)
def test_items(shell: str, items: list[str], code: int, output: str, tmp_path: Path) -> None:
    """Each kind of item does what a person who wrote it expects, in every shell."""
    found, said = run(shell, items, tmp_path)
    assert said == output
    assert found == code or (code == 2 and found != 0)


@pytest.mark.skipif(not shutil.which("bash"), reason="there is no bash here")
def test_pipefail(tmp_path: Path) -> None:
    """`set -o pipefail` as an item has its effect on the next ones."""
    assert run("bash", ["set -o pipefail", "false | true", "echo b"], tmp_path) == (1, "")


@pytest.mark.parametrize("shell", SHELLS)
def test_run_args(shell: str, tmp_path: Path) -> None:
    """The shell sees the words that were typed: spaces, quotes, dollars, stars, empty ones."""
    args = ["--a=1", "two words", "it's", '"q"', "$HOME", "*", "", "-x", "a\nb", "ä"]
    task = load_task(b"type: task\ncommands:\n  - for a in ${{ run.args }}; do printf '<%s>' \"$a\"; done\n", "t")
    script = compile_task(task, args, {}).script or ""
    done = subprocess.run([shell, "-c", script], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout == "".join(f"<{a}>" for a in args)


@pytest.mark.skipif(not shutil.which("bash"), reason="there is no bash here")
def test_conda_activate(tmp_path: Path) -> None:
    """`conda activate` works without an interactive shell: conda is asked for its function."""
    conda = tmp_path / "conda"
    conda.write_text("#!/bin/sh\necho 'conda() { echo activated \"$2\"; }'\n", encoding="utf-8")
    conda.chmod(0o755)
    found = run("bash", ["conda activate lab", "echo b"], tmp_path, {"PATH": f"{tmp_path}:/usr/bin:/bin"})
    assert found == (0, "activated lab\nb\n")


@pytest.mark.parametrize("shell", SHELLS)
def test_conda_that_is_missing(shell: str, tmp_path: Path) -> None:
    """Without conda the item fails like any missing command, and nothing before it does."""
    assert run(shell, ["echo a", "conda activate lab", "echo b"], tmp_path) == (127, "a\n")


def test_no_commands() -> None:
    """Without commands there is no script: the image runs its own."""
    assert build_script([]) is None
