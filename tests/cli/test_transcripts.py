"""What a person sees, word for word: each file of transcripts/ is commands and what they print on a pool of two hosts.

What differs between machines and days is masked. `UPDATE_TRANSCRIPTS=1 pytest tests/cli` writes them anew; read the
difference before you commit it.
"""

from __future__ import annotations

import getpass
import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from tests.conftest import Cli

FOLDER = Path(__file__).parent / "transcripts"
TASKS = {
    "hello": "type: task\ncommands:\n  - echo hello from rank $DSTACK_NODE_RANK\nresources:\n  gpu: 1\n",
    "fail": "type: task\ncommands:\n  - echo to stderr >&2\n  - exit 3\n",
    "typo": "type: task\ncomands:\n  - echo hello\n",
}
MASKS = (
    (r"\x1b\[[0-9;]*m", ""),
    (r"(?m)^pool: \S+( rank \d+)? (submitted|placed|starting|running)\b.*\n", ""),
    (r"(?m)(?<=\S) {2,}", "  "),
    (rf"(?<=  ){re.escape(getpass.getuser())}(?=  |@)", "USER"),
    (r"(?<=\d:)\d{4,5}\b", "PORT"),
    (r"pid \d+", "pid PID"),
    (r"version \S+, state in \S+", "version V, state in FOLDER"),
    (r"(?<=  )[\d.]+  \d[\d.]*[GTM]B\b", "N  SIZE"),
    (r"(?<=SIZE  )\d[\d.]*[GTM]B\b", "SIZE"),
    (r"  (\d+[smhd])(?=\n)", "  AGE"),
)


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.txt")), ids=lambda path: path.stem)
def test_transcript(ready: Cli, tmp_path: Path, path: Path) -> None:
    """Every command of the file prints what stands below it."""
    for name, text in TASKS.items():
        (tmp_path / f"{name}.dstack.yml").write_text(text, encoding="utf-8")
    expected = path.read_text(encoding="utf-8")
    seen = ""
    for command in re.findall(r"^\$ pool (.*)$", expected, re.MULTILINE):
        done = subprocess.run(
            ready.argv(*shlex.split(command)), cwd=tmp_path, env=ready.env, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8", timeout=60, check=False,
        )  # fmt: skip
        code = f"[exit code {done.returncode}]\n" if done.returncode else ""
        seen += f"$ pool {command}\n{_masked(done.stdout)}{code}\n"
    if os.environ.get("UPDATE_TRANSCRIPTS"):
        path.write_text(seen, encoding="utf-8")
    assert seen == expected


def _masked(text: str) -> str:
    for pattern, mask in MASKS:
        text = re.sub(pattern, mask, text)
    return "".join(f"{line.rstrip()}\n" for line in text.splitlines())
