"""A job's folder on disk."""

from __future__ import annotations

import os
from pathlib import Path

from pool.runner.jobs import remove


def test_a_folder_as_deep_as_a_job_likes_is_removed(tmp_path: Path) -> None:
    """Deeper than Python can call itself, and read-only on the way."""
    top, here = tmp_path / "top", os.getcwd()
    top.mkdir()
    os.chdir(top)
    try:
        for _ in range(3000):
            os.mkdir("d")
            os.chdir("d")
        os.chmod(".", 0o500)
    finally:
        os.chdir(here)
    remove(str(top))
    assert not top.exists()
    remove(str(top))
