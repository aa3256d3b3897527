"""The preflight: what a host's answer means, whatever the host says."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pool.errors import DiskFullError, HostError, ProvisionError, PythonMissingError, SudoError
from pool.provision.preflight import preflight, read

GOOD = {
    "python": "3.11.2 /usr/bin/python3 ",
    "uid": "1000",
    "user": "ubuntu",
    "home": "/home/ubuntu",
    "hostname": "gpu1",
    "machine": "x86_64",
    "asked": "",
    "sudo": "passwordless",
    "systemd": "yes",
    "free:/home/ubuntu": "5000",
    "free:/usr/local": "6000",
    "free:/var/lib": "7000",
    "writable": "yes",
    "end": "yes",
}


def answer(**changes: Any) -> bytes:
    """What a host would print; None drops a line."""
    values = GOOD | {key.replace("free_", "free:/").replace("__", "/"): value for key, value in changes.items()}
    lines = [f"pool-preflight:{key}={value}" for key, value in values.items() if value is not None]
    return "\n".join(["Welcome to gpu1!", *lines, ""]).encode()


def test_an_ordinary_host() -> None:
    """A host with sudo and systemd gets a system service; a greeting in between does no harm."""
    found = read("gpu1", answer())
    assert (found.python, found.python_version) == ("/usr/bin/python3", (3, 11, 2))
    assert (found.uid, found.user, found.home, found.root) == (1000, "ubuntu", "/home/ubuntu", False)
    assert (found.sudo, found.systemd, found.scope, found.free_mib) == ("passwordless", True, "system", 6000)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"sudo": "root", "uid": "0"}, "system"),
        ({"asked": "user"}, "user"),
        ({"systemd": None}, "user"),
        ({"sudo": "none"}, "user"),
        ({"sudo": "password"}, "user"),
    ],
)
def test_scope(changes: dict[str, Any], expected: str) -> None:
    """A system service where root and systemd are there and nobody asked for less."""
    assert expected == read("gpu1", answer(**changes)).scope


@pytest.mark.parametrize("sudo", ["password", "none"])
def test_root_is_insisted_on(sudo: str) -> None:
    """Only a caller that needs root is refused for lack of it, with what to type."""
    with pytest.raises(SudoError) as caught:
        read("gpu1", answer(sudo=sudo), scope="system")
    assert "ubuntu ALL=(ALL) NOPASSWD" in str(caught.value.hint)
    assert read("gpu1", answer(sudo=sudo), scope="user").scope == "user"
    with pytest.raises(ProvisionError, match="systemd"):
        read("gpu1", answer(systemd=None), scope="system")


@pytest.mark.parametrize(
    "python",
    [
        None,
        "3.7.16 /usr/bin/python3 ",
        "2.7.18 /usr/bin/python ",
        "3.11.2 /usr/bin/python3 No module named 'selectors'",
        "3.11.2 relative/python3 ",
        "3.11.2 /opt/{{ x }}/python3 ",
        "nonsense",
        "9999.1.1 /usr/bin/python3 ",
    ],
)
def test_no_python(python: str | None) -> None:
    """An old, cut-down or absent Python is told, with the command that brings one."""
    with pytest.raises(PythonMissingError) as caught:
        read("gpu1", answer(python=python))
    assert "install python3" in str(caught.value.hint)


def test_the_python_that_is_asked_for() -> None:
    """It and no other: the very program that hosts run is asked here."""

    def execute(argv: list[str], *, timeout: float, input: bytes) -> tuple[int, bytes, bytes]:  # noqa: A002
        done = subprocess.run(argv, input=input, capture_output=True, timeout=timeout, check=False)
        return done.returncode, done.stdout, done.stderr

    assert preflight("gpu1", execute, scope="user", python=sys.executable).python == sys.executable
    with pytest.raises(PythonMissingError, match="gpu1: /no/such/python is no whole Python") as caught:
        preflight("gpu1", execute, python="/no/such/python")
    assert "/no/such/python --version" in str(caught.value.hint)


def test_room() -> None:
    """The room that counts is where the runner will live."""
    assert read("gpu1", answer(free_home__ubuntu="100")).free_mib == 6000
    with pytest.raises(DiskFullError, match="100 MiB"):
        read("gpu1", answer(free_home__ubuntu="100", asked="user"))
    with pytest.raises(DiskFullError, match="/var/lib has 199 MiB"):
        read("gpu1", answer(free_var__lib="199"))
    with pytest.raises(ProvisionError, match="cannot be written"):
        read("gpu1", answer(writable=None, asked="user"))


def test_a_host_without_a_shell() -> None:
    """A nologin account or a forced command is told with what it said."""
    with pytest.raises(ProvisionError, match="This account is currently not available"):
        read("gpu1", b"This account is currently not available.\n", b"", 1)
    with pytest.raises(ProvisionError, match="exit code 127"):
        read("gpu1", b"", b"", 127)


@pytest.mark.parametrize("home", ["", "home", "/home/{{ x }}", "/home/$USER", "/home/a'b", "/home/`id`"])
def test_a_home_that_cannot_be_used(home: str) -> None:
    """A home folder ends up in commands and templates: only a plain path passes."""
    with pytest.raises(ProvisionError, match="HOME"):
        read("gpu1", answer(home=home))


@given(st.binary(max_size=400), st.lists(st.tuples(st.sampled_from(sorted(GOOD)), st.text(max_size=30)), max_size=4))
def test_a_hostile_host(noise: bytes, changes: list[tuple[str, str]]) -> None:
    """Whatever a host answers, the result is a value or one of our errors, on one line."""
    said = noise + b"\n" + answer(**{k.replace("free:/", "free_").replace("/", "__"): v for k, v in changes})
    try:
        read("gpu1", said)
    except HostError as error:
        assert "\n" not in error.message
        assert error.message.isprintable()
