"""How much of its host a job may use, and the same as properties of its systemd unit."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from pool.runner import unit
from pool.runner.ledger import RefusedError
from pool.runner.limits import limits

NONE = {"cpus": None, "cpus_max": None, "memory_max": None, "pids": 100, "rdma": False}


def _properties(limits: dict[str, Any]) -> set[str]:
    argv = unit.argv("job-1", {"gpus": [], "limits": {**NONE, **limits}})
    return {word.removeprefix("--property=") for word in argv if word.startswith("--property=")}


def test_what_no_task_wrote_is_no_limit(tmp_path: Path) -> None:
    """But the number of processes, of which the host keeps half."""
    found = limits(str(tmp_path), {})
    assert (found["cpus"], found["cpus_max"], found["memory_max"]) == (None, None, None)
    for name in ("pid_max", "threads-max"):
        assert found["pids"] <= int(Path("/proc/sys/kernel", name).read_text()) // 2
    assert 1000 < found["pids"] <= 32768


def test_an_upper_end_is_a_limit_and_a_share_weighs(tmp_path: Path) -> None:
    """In bytes, and never more cores than there are."""
    found = limits(str(tmp_path), {"limits": {"cpus": 2, "cpus_max": 0.5, "memory_max_mib": 100}})
    assert (found["cpus"], found["cpus_max"], found["memory_max"]) == (2.0, 0.5, 100 << 20)
    assert limits(str(tmp_path), {"limits": {"cpus_max": 4096}})["cpus_max"] == os.cpu_count()


def test_the_operator_may_set_the_number_of_processes(tmp_path: Path) -> None:
    """A policy that cannot be read limits nothing that it meant to limit, so no job is made."""
    (tmp_path / "policy.json").write_text('{"pids": 70}')
    assert limits(str(tmp_path), {})["pids"] == 70
    for text in ('{"pids": "70"}', '{"pids": 0}', '{"pids": true}', '{"pids": 70', "[70]"):
        (tmp_path / "policy.json").write_text(text)
        with pytest.raises(RefusedError, match=r"policy\.json of this host") as refusal:
            limits(str(tmp_path), {})
        assert refusal.value.cause == "bad_policy"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, set()),
        ({"cpus_max": 1.5}, {"CPUQuota=150%"}),
        ({"cpus_max": 0.001}, {"CPUQuota=1%"}),
        ({"cpus": 2.5}, {"CPUWeight=250"}),
        ({"cpus": 224.0}, {"CPUWeight=10000"}),
        ({"rdma": True}, {"LimitMEMLOCK=infinity"}),
        ({"memory_max": 100 << 20}, {"MemoryMax=104857600", "MemorySwapMax=0"}),
        ({"memory_max": 1 << 20}, {"MemoryMax=33554432", "MemorySwapMax=0"}),
    ],
)
def test_a_unit_is_limited_as_a_container_is(given: dict[str, Any], expected: set[str]) -> None:
    """In systemd's own words."""
    assert _properties(given) - _properties({}) == expected
    assert "TasksMax=100" in _properties(given)


def test_the_unit_of_a_container_has_no_limits_of_the_job() -> None:
    """In it is the supervisor alone; the container is the engine's."""
    argv = unit.argv("job-1", {"limits": {**NONE, "memory_max": 1 << 20, "cpus": 1.0}, "container": {}})
    assert not [word for word in argv if "Max=" in word or "CPU" in word]
