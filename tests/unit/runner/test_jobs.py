"""A job's folder on disk."""

from __future__ import annotations

import os
from pathlib import Path

from pool.runner.jobs import remove
from tests.shells import deep


def test_a_folder_as_deep_as_a_job_likes_is_removed(tmp_path: Path) -> None:
    """Deeper than Python can call itself, and read-only on the way."""
    top = tmp_path / "top"
    with deep(top, 3000):
        os.chmod(top / "d" / "d", 0o500)
        remove(str(top))
        assert not top.exists()
        remove(str(top))
