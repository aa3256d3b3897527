"""From what a server asks to what the engine makes a container of."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from pool.runner import container_spec
from pool.runner.jobs import JobFolder
from pool.runner.ledger import RefusedError

IMAGE = {"Id": "sha256:1", "Config": {"User": ""}}


@pytest.fixture
def folder(tmp_path: Path) -> JobFolder:
    """A job's folder that is not made yet."""
    return JobFolder(str(tmp_path), "job-1")


def _spec(
    folder: JobFolder, gpus: list[str] | None = None, info: dict[str, Any] | None = None, **wants: Any
) -> dict[str, Any]:
    asked = {"script": wants.pop("script", "true"), "working_dir": wants.pop("working_dir", "."), "container": wants}
    wants.setdefault("image", "i")
    state = os.path.dirname(os.path.dirname(folder.path))
    most = {"cpus": None, "cpus_max": None, "memory_max": None, "pids": 9, "rdma": False} | wants.pop("limits", {})
    return container_spec.build(folder, state, asked, gpus or [], "p", IMAGE, most, info or {})


def _build(folder: JobFolder, gpus: list[str] | None = None, **wants: Any) -> dict[str, Any]:
    config: dict[str, Any] = _spec(folder, gpus, **wants)["config"]
    return config


def _allow(folder: JobFolder, **policy: Any) -> None:
    with open(os.path.join(os.path.dirname(os.path.dirname(folder.path)), "policy.json"), "w") as file:
        json.dump(policy, file)


def _env(folder: JobFolder, gpus: list[str] | None = None, user: str = "", **asked: Any) -> dict[str, str]:
    return container_spec.environment(folder, {"container": asked.pop("container", {}), **asked}, gpus or [], user)


def test_nothing_is_given_that_was_not_asked_for(folder: JobFolder) -> None:
    """No privilege, no device, no restart, no log of Docker's, no limit."""
    host = _build(folder)["HostConfig"]
    assert (host["Privileged"], host["NetworkMode"]) == (False, "bridge")
    assert host["RestartPolicy"] == {"Name": "no"}
    assert host["LogConfig"]["Type"] == "none"
    assert not {"Binds", "CapAdd", "PidMode", "IpcMode", "Memory", "NanoCpus", "DeviceRequests", "Runtime"} & set(host)


def test_whose_a_container_is_stands_on_it(folder: JobFolder) -> None:
    """Pool, job, attempt, and the runner's folder: by these alone it is found again."""
    assert _build(folder, attempt=2)["Labels"] == {
        "pool.uuid": "p",
        "pool.job": "job-1",
        "pool.attempt": "2",
        "pool.runner": os.path.dirname(os.path.dirname(folder.path)),
    }


@pytest.mark.parametrize(
    ("wants", "name", "value"),
    [
        ({"shm_mib": 64}, "ShmSize", 64 << 20),
        ({"limits": {"memory_max": 100 << 20}}, "Memory", 100 << 20),
        ({"limits": {"memory_max": 100 << 20}}, "MemorySwap", 100 << 20),
        ({"limits": {"cpus": 2.5}}, "CpuShares", 2560),
        ({"limits": {"cpus_max": 0.5}}, "NanoCpus", 500_000_000),
        ({"limits": {"pids": 100}}, "PidsLimit", 100),
        ({"limits": {"rdma": True}}, "Ulimits", [{"Name": "memlock", "Soft": -1, "Hard": -1}]),
        (
            {"limits": {"rdma": True}},
            "Devices",
            [
                {
                    "PathOnHost": "/dev/infiniband",
                    "PathInContainer": "/dev/infiniband",
                    "CgroupPermissions": "rwm",
                }
            ],
        ),
        ({"network": "host"}, "NetworkMode", "host"),
    ],
)
def test_sizes_and_limits_are_exact(folder: JobFolder, wants: dict[str, Any], name: str, value: object) -> None:
    """In the engine's own units."""
    assert _build(folder, **wants)["HostConfig"][name] == value


def test_commands_run_in_a_shell_and_an_image_alone_as_it_was_made(folder: JobFolder) -> None:
    """Commands: our init, a terminal, the folder. An entrypoint: the folder. The image's own program: neither."""
    commands = _build(folder, working_dir="sub")
    assert (commands["Entrypoint"][:2], commands["WorkingDir"]) == (
        ["sh", "-c"],
        "/workflow/sub",
    )
    words = _build(folder, script="", argv=["a", "b c"])
    assert (words["Entrypoint"], words["Cmd"], words["WorkingDir"]) == (["a"], ["b c"], "/workflow")
    own = _build(folder, script="")
    assert not {"Entrypoint", "Cmd", "WorkingDir"} & set(own)
    assert [each["HostConfig"]["Init"] for each in (commands, words, own)] == [True, True, False]


def test_host_folders_are_the_operators_to_allow(folder: JobFolder, tmp_path: Path) -> None:
    """By where they really are: a link to another folder is that folder, what is below an allowed one is not it."""
    for name in ("data", "data/below", "secret"):
        (tmp_path / name).mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "secret")
    (tmp_path / "alias").symlink_to(tmp_path / "data")
    with pytest.raises(RefusedError, match="it allows none") as refusal:
        _build(folder, volumes=[f"{tmp_path}/data:/data"])
    assert refusal.value.cause == "not_allowed"
    _allow(folder, volumes=[f"{tmp_path}/data", f"{tmp_path}/gone"])
    mounts = _build(folder, volumes=[f"{tmp_path}/alias:/data:ro"])["HostConfig"]["Mounts"]
    assert {"Type": "bind", "Source": str(tmp_path / "data"), "Target": "/data", "ReadOnly": True} in mounts
    for name in ("link", "secret", "data/below", "data/../secret", "gone"):
        with pytest.raises(RefusedError):
            _build(folder, volumes=[f"{tmp_path}/{name}:/data"])


def test_privileges_are_the_operators_to_allow(folder: JobFolder, tmp_path: Path) -> None:
    """Only a plain `true` allows them, each by its own name; what would is said."""
    for name, other, what in (
        ("privileged", "docker", "privileged containers"),
        ("docker", "privileged", "Docker inside of a job"),
    ):
        for policy in ({}, {name: "yes"}, {other: True}):
            _allow(folder, **policy)
            says = f'allows no {what}; to allow it, write {{"{name}": true}} into {tmp_path}/policy.json there'
            with pytest.raises(RefusedError, match=re.escape(says)) as refusal:
                _build(folder, **{name: True})
            assert refusal.value.cause == "not_allowed"
        _allow(folder, **{name: True})
        assert _build(folder, **{name: True})["HostConfig"]["Privileged"] is True


def test_a_docker_inside_has_room_of_its_own(folder: JobFolder) -> None:
    """A volume without a name, which the engine removes with the container; nobody else gets one."""
    _allow(folder, docker=True)
    built, plain = _build(folder, docker=True), _build(folder)
    room = {"Type": "volume", "Target": "/var/lib/docker", "VolumeOptions": {"Labels": built["Labels"]}}
    assert [mount for mount in built["HostConfig"]["Mounts"] if mount["Type"] == "volume"] == [room]
    assert [mount for mount in plain["HostConfig"]["Mounts"] if mount["Type"] == "volume"] == []


@pytest.mark.parametrize(
    ("has", "listed", "expected"),
    [
        ({}, "", {"DeviceRequests": [{"Driver": "nvidia", "DeviceIDs": ["GPU-1"], "Capabilities": [["gpu"]]}]}),
        ({"Runtimes": {"runc": {}, "nvidia": {}}}, "", {"Runtime": "nvidia"}),
        (
            {"Runtimes": {"nvidia": {}}},
            "kind: nvidia.com/gpu\nname: GPU-1",
            {"Runtime": "runc", "DeviceRequests": [{"Driver": "cdi", "DeviceIDs": ["nvidia.com/gpu=GPU-1"]}]},
        ),
        ({"Runtimes": {"nvidia": {}}}, "kind: nvidia.com/gpu\nname: GPU-2", {"Runtime": "nvidia"}),
    ],
    ids=["docker alone", "runtime", "listed", "listed without this one"],
)
def test_gpus_are_given_by_uuid(
    folder: JobFolder,
    tmp_path: Path,
    has: dict[str, Any],
    listed: str,
    expected: dict[str, Any],
) -> None:
    """As the engine can: a list of devices that has every card, else NVIDIA's runtime, else Docker's own way."""
    (tmp_path / "cdi").mkdir()
    (tmp_path / "cdi/nvidia.yaml").write_text(listed)
    info = {**has, "CDISpecDirs": [str(tmp_path / "cdi"), str(tmp_path / "none")]}
    host = _build(folder, ["GPU-1"], info=info)["HostConfig"]
    assert {name: host[name] for name in ("Runtime", "DeviceRequests") if name in host} == expected


@pytest.mark.parametrize(
    ("user", "info", "expected"),
    [
        ("", {}, [0, 0o600]),
        ("1000:100", {}, [1000, 0o600]),
        ("somebody", {}, [None, 0o622]),
        ("", {"SecurityOptions": ["name=seccomp,profile=default", "name=userns"]}, [None, 0o622]),
    ],
)
def test_nobody_else_writes_to_the_terminal(
    folder: JobFolder, monkeypatch: pytest.MonkeyPatch, user: str, info: dict[str, Any], expected: list[Any]
) -> None:
    """But where only the image or the engine knows who the container's user is on this host."""
    monkeypatch.setattr(os, "getuid", lambda: 0)
    assert _spec(folder, user=user, info=info)["terminal"] == expected
    assert _spec(folder, user=user, info=info, script="")["terminal"] is None


def test_the_gpus_are_the_runners_alone(folder: JobFolder) -> None:
    """Whatever the user or the image say; without GPUs none is visible."""
    env = _env(folder, ["GPU-1", "GPU-2"], env={"NVIDIA_VISIBLE_DEVICES": "all", "POOL_JOB_ID": "x", "A": "1"})
    assert env["CUDA_VISIBLE_DEVICES"] == env["NVIDIA_VISIBLE_DEVICES"] == "GPU-1,GPU-2"
    assert (env["POOL_JOB_ID"], env["A"]) == ("job-1", "1")
    none = _env(folder, env={"NVIDIA_VISIBLE_DEVICES": "all", "CUDA_VISIBLE_DEVICES": "0"})
    assert (none["CUDA_VISIBLE_DEVICES"], none["NVIDIA_VISIBLE_DEVICES"]) == ("", "void")


@pytest.mark.parametrize(
    ("user", "home", "expected"),
    [("", None, "/root"), ("0:0", None, "/root"), ("1000", None, None), ("ann", "/home/ann", "/home/ann")],
)
def test_home_is_what_was_written_and_roots_for_root_alone(
    folder: JobFolder, user: str, home: str | None, expected: str | None
) -> None:
    """Another user has the image's own unless one was written; the task's `env` wins over both."""
    assert _env(folder, user=user, container={"home": home}).get("HOME") == expected
    assert _env(folder, user=user, container={"home": home}, env={"HOME": "/mine"})["HOME"] == "/mine"


def test_a_value_that_is_no_text_is_refused(folder: JobFolder) -> None:
    """The engine takes UTF-8; nothing is replaced in silence."""
    with pytest.raises(RefusedError, match="env BAD: "):
        _env(folder, env={"BAD": "\udcff"})


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
@pytest.mark.parametrize(
    ("user", "expected"), [("", (0, 0)), ("ann", (0, 0)), ("1000", (1000, 1000)), ("1000:50", (1000, 50))]
)
def test_the_folder_is_the_containers_users(user: str, expected: tuple[int, int]) -> None:
    """Where that is a number; names are known in the image alone."""
    assert container_spec.owner(user) == expected
