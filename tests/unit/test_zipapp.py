"""The zipapp: one file, the same bytes for the same sources, and it runs with nothing but a Python."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import zipfile
from pathlib import Path

from pool import __version__
from pool.provision import zipapp


def test_it_runs_alone(tmp_path: Path) -> None:
    """`python3 -I -S runner.pyz` works, with no package of this machine in reach."""
    path = str(tmp_path / "runner.pyz")
    zipapp.build_runner(path)
    argv = [sys.executable, "-I", "-S", path, "--state", str(tmp_path / "state"), "version"]
    done = subprocess.run(argv, cwd="/", env={}, capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.strip() == __version__


def test_the_same_bytes_every_time(tmp_path: Path) -> None:
    """Bytes depend on the sources alone: not on the time, the folder, the umask, or how it is called."""
    one, two = str(tmp_path / "one"), str(tmp_path / "two")
    first = zipapp.build_runner(one)
    before = os.umask(0o077)
    try:
        argv = [sys.executable, "-I", zipapp.__file__, two]
        done = subprocess.run(argv, cwd="/", capture_output=True, text=True, timeout=30, check=True)
    finally:
        os.umask(before)
    assert first == done.stdout.strip() == hashlib.sha256(Path(two).read_bytes()).hexdigest()
    assert Path(one).read_bytes() == Path(two).read_bytes()
    assert os.stat(two).st_mode & 0o777 == 0o644


def test_it_holds_the_runner_and_nothing_else(tmp_path: Path) -> None:
    """No other part of pool is shipped, and pool's own `__init__` is empty there."""
    zipapp.build_runner(str(tmp_path / "x"))
    with zipfile.ZipFile(tmp_path / "x") as archive:
        names = archive.namelist()
        assert archive.read("pool/__init__.py") == b""
    assert names == sorted(names)
    assert {name for name in names if not name.startswith("pool/runner/")} == {"__main__.py", "pool/__init__.py"}
    assert "pool/runner/__main__.py" in names
