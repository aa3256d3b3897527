"""Whether the kernel has killed for want of memory, as it says itself."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest

from pool.runner import oom

_V1 = "9:name=systemd:/a/job\n4:cpu,cpuacct:/a\n3:memory:/a/job\n0::/a/job\n"
_V2 = "0::/a/job\n"
_CONTROL = "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n"
_EVENTS = "low 0\nhigh 0\nmax 12\noom 3\noom_kill 1\noom_group_kill 0\n"


@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        (_V1, {"/sys/fs/cgroup/memory/a/job/memory.oom_control": _CONTROL}, 2),
        (_V2, {"/sys/fs/cgroup/a/job/memory.events": _EVENTS}, 1),
        (_V2, {"/sys/fs/cgroup/a/job/memory.events": _EVENTS.replace("oom_kill 1", "oom_kill 0")}, 0),
        (_V2, {}, 0),
        (_V1, {"/sys/fs/cgroup/memory/a/job/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\n"}, 0),
    ],
    ids=["v1", "v2", "none killed", "no controller", "a kernel that does not count"],
)
def test_kills_are_counted_in_either_version(
    monkeypatch: pytest.MonkeyPatch, groups: str, files: dict[str, str], expected: int
) -> None:
    """Of the group that this process is in."""
    known = {"/proc/self/cgroup": groups, **files}

    def read(path: str, *_: Any) -> io.StringIO:
        if path not in known:
            raise FileNotFoundError(path)
        return io.StringIO(known[path])

    monkeypatch.setattr("builtins.open", read)
    assert oom.kills() == expected


def test_the_kernels_log_names_the_group_of_a_kill(tmp_path: Path) -> None:
    """By its path, in either version; what a process is called is no group, and other lines are no kill."""
    log = tmp_path / "kmsg"
    record = "4,7,8,-;{}constraint=CONSTRAINT_MEMCG,oom_memcg=/x,task_memcg={},task={},pid=7,uid=0\n"
    for kind, group, task, expected in (
        ("oom-kill:", "/docker/abc123", "python3", True),
        ("oom-kill:", "/system.slice/docker-abc123.scope", "python3", True),
        ("oom-kill:", "/docker/def456", "abc123", False),
        ("oom-kill:", "/docker/def456", "python3", False),
        ("told:", "/docker/abc123", "python3", False),
    ):
        log.write_text(record.format(kind, group, task))
        assert oom.logged("abc123", str(log)) is expected
    assert not oom.logged("abc123", str(tmp_path / "none"))
