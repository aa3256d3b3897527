"""Whether an engine was restarted, as systemd tells: the end of what it held is not the job's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from pool.runner.engine import was_restarted

SINCE_S = 100.0


@pytest.mark.parametrize(
    ("state", "entered_s", "changed_s", "expected"),
    [
        ("active", 50, 50, False),
        ("active", 50, 150, False),  # it was reloaded
        ("reloading", 50, 150, False),
        ("active", 150, 150, True),
        ("deactivating", 50, 150, True),
        ("inactive", 50, 150, True),
        ("activating", 50, 150, True),
        ("failed", 50, 150, True),
        ("inactive", 0, 0, False),  # it is not what serves here
    ],
)
def test_a_restart_is_told_from_a_reload(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: str, entered_s: int, changed_s: int, expected: bool
) -> None:
    """By when the unit became active, or left that."""
    told = f"ActiveState={state}\\nActiveEnterTimestampMonotonic={entered_s}000000\\n"
    told += f"StateChangeTimestampMonotonic={changed_s}000000\\n"
    (tmp_path / "systemctl").write_text(f"#!/bin/sh\nprintf '{told}'\n")
    (tmp_path / "systemctl").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert was_restarted(SINCE_S) is expected


def test_without_systemd_nobody_can_tell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then it is the job's end."""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert was_restarted(SINCE_S) is False
