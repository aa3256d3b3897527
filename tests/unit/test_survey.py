"""The plan: what a host's answer means, what will be done about it, and that nothing it says is believed blindly."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest

from pool.errors import ProvisionError
from pool.provision.playbook import content
from pool.provision.preflight import Preflight
from pool.provision.survey import Survey, left_out, plan, read, survey

FOUND = Preflight("/usr/bin/python3", (3, 11, 2), 1000, "ubuntu", "/home/ubuntu", "passwordless", True, 6000, "system")
SEEN = Survey(
    system="Debian GNU/Linux 12 (bookworm)",
    kernel="6.1.0-18-amd64",
    skew_s=0.4,
    free_mib=80 * 1024,
    cards=("0000:3b:00.0 hopper",),
    driver=None,
    driver_says="",
    docker=None,
    containers=0,
    toolkit=None,
    package_manager="",
    secure_boot=False,
    jobs=0,
)


def planned(seen: Survey = SEEN, found: Preflight = FOUND, skip: tuple[str, ...] = ()) -> dict[str, tuple[str, str]]:
    """The plan: what it is -> (what is there, what will be done)."""
    return {step.what: (step.there, step.todo) for step in plan(found, seen, skip)}


def test_a_bare_machine_with_a_card() -> None:
    """All of it is installed, and the clock, being right, is not spoken of."""
    assert planned() == {
        "system": ("Debian GNU/Linux 12 (bookworm), kernel 6.1.0-18-amd64, 80 GB free", ""),
        "login": ("ubuntu, sudo; Python 3.11.2", ""),
        "driver": ("1 card on the bus", "install"),
        "docker": ("none", "install"),
        "toolkit": ("none", "install"),
        "runner": ("none", "install, as a service"),
    }


def test_what_works_is_kept() -> None:
    """A driver, an engine, a toolkit and a runner that are there."""
    seen = replace(SEEN, driver="550.54.15", docker="24.0.7", toolkit="1.17.4")
    done = planned(seen, replace(FOUND, runner="/usr/local/bin/pool-runner"))
    assert [done[what][1] for what in ("driver", "docker", "toolkit")] == ["keep it"] * 3
    assert done["runner"] == ("/usr/local/bin/pool-runner", "see to it, as a service")


@pytest.mark.parametrize(
    ("seen", "what", "expected"),
    [
        (replace(SEEN, cards=()), "driver", ("no card on the bus", "nothing: no card")),
        (replace(SEEN, cards=()), "toolkit", ("none", "nothing: no card")),
        (replace(SEEN, skew_s=-90), "clock", ("90 s behind of this machine's", "set it right")),
        (replace(SEEN, package_manager="apt-get (812)"), "system", (None, "waits for apt-get (812)")),
        (replace(SEEN, driver_says="nvidia-smi hangs"), "driver", ("1 card on the bus; nvidia-smi hangs", "install")),
        (replace(SEEN, secure_boot=True), "driver", (None, "install, if the firmware trusts its key (Secure Boot)")),
    ],
)
def test_what_a_person_should_see(seen: Survey, what: str, expected: tuple[str | None, str]) -> None:
    """What stands in the way, or makes a step needless, is in the plan before anything is changed."""
    there, todo = planned(seen)[what]
    assert (there if expected[0] else None, todo) == expected


def test_what_is_left_out() -> None:
    """A role that was skipped says so; without root only the runner is installed."""
    assert planned(skip=("docker",))["docker"][1] == "left out (--skip)"
    assert left_out(FOUND, ("docker",)) == {"docker"}
    rootless = replace(FOUND, scope="user", sudo="none")
    assert left_out(rootless) == {"nvidia_driver", "docker", "nvidia_container_toolkit"}
    user = planned(found=rootless)
    assert {user[what][1] for what in ("driver", "docker", "toolkit")} == {"left out: it needs systemd and root"}
    assert user["runner"][1] == "install, as a process of ubuntu"
    assert user["login"][0] == "ubuntu, there is no sudo; Python 3.11.2"


def _real() -> dict[str, Any]:
    program = os.path.join(content(), "roles", "look", "files", "look.py")
    argv = [sys.executable, "-I", program, "/", "2", "nvidia,docker,toolkit"]
    found: dict[str, Any] = json.loads(subprocess.run(argv, capture_output=True, check=True, timeout=120).stdout)
    return found


def test_the_program_of_the_roles_is_understood() -> None:
    """The answer of the real program on this machine; terminal codes and bulk in it are made harmless."""
    facts = _real()
    assert read(_answer(facts), 1000.0).skew_s == 7
    facts["system"]["name"] = "Evil\x1b[2J\n" + "x" * 5000
    seen = read(_answer(facts), 1000.0)
    assert "\x1b" not in seen.system
    assert len(seen.system) <= 120


def _answer(facts: dict[str, Any]) -> bytes:
    return f"Welcome!\npool-survey:clock=1007\npool-survey:facts={json.dumps(facts)}\n".encode()


@pytest.mark.parametrize("stdout", [b"", b"pool-survey:clock=1\n", b"pool-survey:facts=[]\n", b"pool-survey:facts={\n"])
def test_an_answer_without_sense(stdout: bytes) -> None:
    """It is an error about the host, with what the host said, never a traceback."""
    with pytest.raises(ProvisionError, match="gpu1: it cannot be looked at: no such thing"):
        survey("gpu1", FOUND, lambda *_, **__: (1, stdout, b"no such thing\n"))
