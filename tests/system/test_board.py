"""examples/board.dstack.yml as a person has it: TensorBoard runs in the task, and a real browser here opens it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY, Cli, not_run
from tests.e2e.test_ports import Attached, free

#: Debian's Chromium without a window.
BROWSER = "chromium-headless-shell"


@pytest.fixture(scope="session")
def browser() -> str:
    """Its program; installed where it is missing."""
    if not shutil.which(BROWSER):
        if not shutil.which("apt-get"):
            not_run.add(f"a browser that opens a forwarded port: there is no {BROWSER} and no apt-get")
            pytest.skip(f"no {BROWSER}")
        apt = ["apt-get", "-q", "-o", "DPkg::Lock::Timeout=300"]
        env = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        for words in (["update"], ["install", "-y", "--no-install-recommends", BROWSER]):
            done = subprocess.run([*apt, *words], env=env, capture_output=True, text=True, timeout=300, check=False)
            assert done.returncode == 0, done.stdout + done.stderr
    return BROWSER


def test_tensorboard_opens_in_a_browser(ready: Cli, browser: str, tmp_path: Path) -> None:
    """The URL that is printed shows the curves of the run: pages, scripts and data come through the forward."""
    local = free()
    python = os.path.dirname(sys.executable)
    words = ["-n", "board", "-p", f"{local}:6006", "-e", f"PATH={python}:{os.environ['PATH']}", "--max-duration", "5m"]
    folder = REPOSITORY / "examples"
    attached = Attached(ready.start("run", ".", "-f", "board.dstack.yml", "-y", *words, cwd=folder))
    try:
        attached.until(f"http://127.0.0.1:{local}", within_s=90)
        argv = [browser, "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}", "--virtual-time-budget=30000"]
        argv += ["--dump-dom", f"http://127.0.0.1:{local}/"]
        page = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=True).stdout
        assert "<title>TensorBoard</title>" in page
        assert "first" in page, "the run of board.py is not on the page"
    finally:
        ready("stop", "board", "--abort", "-y")
        attached.process.wait(30)
