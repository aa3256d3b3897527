"""What the role docker decides: a table of hosts, what is asked for, and what is done about it."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import yaml

ROLE = Path(__file__).resolve().parents[2] / "roles/docker"
KNOWN = yaml.safe_load((ROLE / "vars/debian.yml").read_text())["__docker_known"]
DEFAULTS = {
    name.removeprefix("docker_"): value
    for name, value in yaml.safe_load((ROLE / "defaults/main.yml").read_text()).items()
}
SETTLED = DEFAULTS["daemon_defaults"]

spec = importlib.util.spec_from_file_location("decide", ROLE / "files/decide.py")
assert spec and spec.loader
decide = importlib.util.module_from_spec(spec)
spec.loader.exec_module(decide)


def engine(**values: Any) -> dict[str, Any]:
    """An engine as `look.py` finds it: running, idle, without settings."""
    usual = {"command": "/usr/bin/docker", "daemon": "/usr/sbin/dockerd", "running": True, "version": "20.10.24"}
    usual |= {"data_root": "/var/lib/docker", "containers": 0, "flags": "", "settings": {}}
    off = ("live_restore", "swarm", "snap", "podman", "settings_exist", "apparmor", "validates", "restart_pending")
    return usual | dict.fromkeys(off, False) | values


NONE = engine(command=None, daemon=None, running=False, version=None, data_root=None)


def plan(
    docker: dict[str, Any],
    *,
    extra: dict[str, Any] | None = None,
    packages: tuple[str, ...] = (),
    jobs: tuple[str, ...] = (),
    raises_limits: bool = True,
    **wish: Any,
) -> dict[str, Any]:
    """The plan for a Debian 12 host."""
    system = {"id": "debian", "family": "debian", "version": "12", "name": "Debian 12", "apt_problems": ""}
    facts = {
        "docker": docker,
        "system": system | {"raises_limits": raises_limits},
        "packages": {"installed": dict.fromkeys(packages, "1"), "held": []},
        "jobs": list(jobs),
        "journals": [],
        "installed": [],
    }
    return dict(decide.plan(facts, DEFAULTS | wish, KNOWN, extra or {}))


def codes(made: dict[str, Any]) -> list[str]:
    """The words for what speaks against it."""
    return [reason["code"] for reason in made["refused"]]


def test_a_bare_host_gets_an_engine() -> None:
    """From the distribution, where it has one; with the program that loads AppArmor's profile where the kernel asks."""
    assert plan(NONE)["packages"] == ["docker.io", "ca-certificates"]
    assert plan(NONE, source="docker-ce", version="5:28.5.1-1~debian.12~bookworm")["packages"][0].startswith(
        "docker-ce=5:28"
    )
    assert "apparmor" in plan(NONE | {"apparmor": True})["packages"]


def test_an_engine_that_is_there_is_taken_over() -> None:
    """Whoever installed it, nothing is installed beside it."""
    made = plan(engine(), packages=("docker-ce", "containerd.io"))
    assert (made["action"], made["packages"], made["refused"]) == ("adopt", [], [])


def test_what_is_set_stays() -> None:
    """Defaults fill gaps only; options win; objects are merged, key by key."""
    there = {"log-opts": {"max-size": "1g"}, "live-restore": False, "features": {"buildkit": True}}
    settings = plan(engine(settings=there), daemon_options={"features": {"cdi": True}})["settings"]
    assert settings["log-opts"] == {"max-file": "3", "max-size": "1g"}
    assert settings["live-restore"] is False
    assert settings["features"] == {"buildkit": True, "cdi": True}


def test_another_log_driver_gets_no_options_of_ours() -> None:
    """journald knows no max-size, and an engine with it would start no container."""
    settings = plan(engine(settings={"log-driver": "journald"}))["settings"]
    assert settings["log-driver"] == "journald" and "log-opts" not in settings


def test_a_host_that_may_not_raise_limits_is_given_none_to_raise() -> None:
    """In a container of few rights an engine with memlock unlimited starts no container; who asks for it has it."""
    assert plan(engine())["settings"]["default-ulimits"]["memlock"]["Hard"] == -1
    assert "default-ulimits" not in plan(engine(), raises_limits=False)["settings"]
    core = {"default-ulimits": {"core": {"Name": "core", "Hard": 0, "Soft": 0}}}
    assert plan(engine(settings=core), raises_limits=False)["settings"]["default-ulimits"] == core["default-ulimits"]
    asked = {"default-ulimits": {"memlock": {"Name": "memlock", "Hard": 64, "Soft": 64}}}
    made = plan(engine(), raises_limits=False, daemon_options=asked)
    assert made["settings"]["default-ulimits"] == asked["default-ulimits"]


def test_a_swarm_gets_no_live_restore() -> None:
    """The engine does not start with both; asking for it is refused."""
    assert "live-restore" not in plan(engine(swarm=True))["settings"]
    assert codes(plan(engine(swarm=True), daemon_options={"live-restore": True})) == ["swarm"]


@pytest.mark.parametrize(
    ("docker", "wish", "apply"),
    [
        (engine(settings=SETTLED), {}, "none"),
        (engine(), {}, "restart"),
        (engine(settings=SETTLED), {"daemon_options": {"registry-mirrors": ["x"]}}, "reload"),
        (engine(containers=2), {}, "pending"),
        (engine(containers=2, live_restore=True), {}, "restart"),
        (engine(live_restore=True), {"jobs": ("train-1-0",)}, "pending"),
        (engine(settings=SETTLED, restart_pending=True), {}, "restart"),
        (engine(settings=SETTLED, restart_pending=True, containers=1), {}, "pending"),
        (engine(running=False), {}, "none"),
    ],
)
def test_how_settings_are_applied(docker: dict[str, Any], wish: dict[str, Any], apply: str) -> None:
    """A restart only where nothing is lost by it: no job, and no container that is not kept alive already."""
    assert plan(docker, **wish)["apply"] == apply


@pytest.mark.parametrize(
    ("docker", "wish", "code"),
    [
        (engine(snap=True), {}, "snap"),
        (engine(podman=True), {}, "podman"),
        (engine(settings=None), {}, "settings"),
        (engine(flags="dockerd -H fd:// --log-driver=journald"), {"daemon_options": {"log-driver": "local"}}, "flags"),
        (engine(flags="dockerd -H fd://"), {"daemon_options": {"hosts": ["fd://"]}}, "flags"),
        (engine(), {"data_root": "/data/docker"}, "data_root"),
        (engine(), {"adopt": False, "source": "docker-ce", "packages_here": ("docker.io",)}, "conflict"),
    ],
)
def test_what_is_refused(docker: dict[str, Any], wish: dict[str, Any], code: str) -> None:
    """Each reason has a word, before anything is changed."""
    here = wish.pop("packages_here", ())
    made = plan(docker, **wish) if not here else plan(docker, packages=here, **wish)
    assert code in codes(made), made["refused"]


def test_a_flag_takes_the_place_of_a_default() -> None:
    """What the unit sets by a flag is left out of the defaults, for both together stop the engine."""
    settings = plan(engine(flags="/usr/bin/dockerd -H fd:// --live-restore --log-opt max-size=1g"))["settings"]
    assert "live-restore" not in settings and "log-opts" not in settings


def test_another_role_adds_its_own_and_nothing_else() -> None:
    """The toolkit's runtime is laid over what is there; the defaults of this role are not."""
    runtime = {"runtimes": {"nvidia": {"args": [], "path": "nvidia-container-runtime"}}}
    made = plan(engine(settings={"runtimes": {"kata": {"path": "kata"}}}), extra=runtime)
    assert made["settings"] == {"runtimes": {"kata": {"path": "kata"}, **runtime["runtimes"]}}
    assert (made["changed"], made["apply"]) == (["runtimes"], "reload")
