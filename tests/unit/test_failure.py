"""Ansible's failures: each known cause is an error of its own.

recorded_failures.json has what Ansible answered on a real machine, see tests/system/record_failures.py.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pool.errors import (
    AuthenticationError,
    DiskFullError,
    HostError,
    HostKeyError,
    ProvisionError,
    PythonMissingError,
    SudoError,
    UnreachableError,
)
from pool.provision.failure import classify, first_line

OVER_SSH = (
    'Task failed: Data could not be sent to remote host "10.0.0.7". Make sure this host can be reached over ssh: '
)

UNREACHABLE = [
    ("ssh: connect to host 10.0.0.7 port 22: Connection refused", UnreachableError, "Connection refused"),
    ("ssh: connect to host 10.0.0.7 port 22: Connection timed out", UnreachableError, "timed out"),
    ("ssh: Could not resolve hostname gpu1: Name or service not known", UnreachableError, "Could not resolve"),
    ("kex_exchange_identification: Connection closed by remote host", UnreachableError, "closed by"),
    ("ubuntu@10.0.0.7: Permission denied (publickey).", AuthenticationError, "refused the key"),
    ("Host key verification failed.", HostKeyError, "not the pinned one"),
    (
        "No ED25519 host key is known for 10.0.0.7 and you have requested strict checking.\n"
        "Host key verification failed.",
        HostKeyError,
        "not the pinned one",
    ),
    ("mkdir: cannot create directory: No space left on device", DiskFullError, "no room"),
]


@pytest.mark.parametrize(("text", "expected", "said"), UNREACHABLE)
def test_unreachable(text: str, expected: type[HostError], said: str) -> None:
    """What ssh says of a host that cannot be reached tells why."""
    error = classify("gpu1", "Copy", {"msg": OVER_SSH + text, "unreachable": True}, unreachable=True, log="/l")
    assert type(error) is expected
    assert said in error.message
    assert error.message.startswith("gpu1: Copy: ")
    assert (error.details["host"], error.details["step"], error.details["log"]) == ("gpu1", "Copy", "/l")
    assert error.hint


FAILED: list[tuple[dict[str, Any], type[HostError]]] = [
    ({"msg": "Missing sudo password"}, SudoError),
    ({"msg": "MODULE FAILURE", "module_stderr": "sudo: a password is required\n"}, SudoError),
    ({"msg": "Module result deserialization failed", "module_stderr": "/bin/sh: 1: sudo: not found\n"}, SudoError),
    ({"msg": "non-zero return code", "stderr": "dd: writing: No space left on device", "rc": 1}, DiskFullError),
    ({"msg": "Failed: [Errno 28] No space left on device: b'/x'"}, DiskFullError),
    ({"msg": "The module interpreter '/usr/bin/python3' was not found."}, PythonMissingError),
    (
        {"msg": "x", "module_stderr": "SyntaxError: future feature annotations is not defined"},
        PythonMissingError,
    ),
    ({"msg": "Destination directory /x does not exist"}, ProvisionError),
    ({"results": [{"failed": False}, {"failed": True, "msg": "No space left on device"}], "msg": "x"}, DiskFullError),
    ({}, ProvisionError),
]


@pytest.mark.parametrize(("result", "expected"), FAILED)
def test_failed(result: dict[str, Any], expected: type[HostError]) -> None:
    """A step that ran and failed is classed by its cause, with what to type."""
    error = classify("gpu1", "Copy", result, unreachable=False, log="/var/log/x", user="ubuntu")
    assert type(error) is expected
    assert error.hint
    assert "\n" not in error.message
    if expected is ProvisionError:
        assert error.hint == "less /var/log/x"


CAUSES = [
    ("Could not get lock /var/lib/dpkg/lock-frontend. It is held by process 812 (apt-get)", "package manager is at"),
    ("Secure Boot is on, and the firmware does not trust the key of DKMS", "Secure Boot is on"),
    ("E: Unable to locate package linux-headers-6.1.0-18-amd64", "no module could be built"),
    ("E: Held packages were changed and -y was used without --allow-change-held-packages.", "on hold"),
    ("E: dpkg was interrupted, you must manually run 'dpkg --configure -a'", "in disorder"),
    ("407 Proxy Authentication Required", "the proxy refuses"),
    ("E: Failed to fetch http://deb.example/x.deb  404  Not Found", "source cannot be reached"),
    ("No package matching 'docker.io' is available", "do not have what is needed"),
    ("async task did not complete within the requested time - 1200s", "it took too long"),
]


@pytest.mark.parametrize(("words", "cause"), CAUSES)
def test_what_goes_wrong_with_packages(words: str, cause: str) -> None:
    """Each known cause is named, with what the tool said and what to type."""
    error = classify("gpu1", "Install it", {"msg": words}, unreachable=False, log="/l")
    assert type(error) is ProvisionError
    assert cause in error.message
    assert words.split(",", maxsplit=1)[0] in error.message
    assert error.hint not in (None, "less /l")


RECORDED = json.loads(Path(__file__).with_name("recorded_failures.json").read_text())
REAL: dict[str, tuple[type[HostError], str, str]] = {
    "a package manager is at work": (
        ProvisionError,
        "another package manager is at work on the host: E: Unable to acquire the dpkg frontend lock "
        "(/var/lib/dpkg/lock-frontend), is another process using it?",
        "ps -ef",
    ),
    "another one reads the lists": (ProvisionError, "another package manager is at work on the host: ", "ps -ef"),
    "no room for packages": (DiskFullError, "no room on the host: E: You don't have enough free space in", "df -h"),
    "no room for a file": (DiskFullError, "no room on the host: Failed to replace '/run/etc/y'", "df -h"),
    "a package is on hold": (ProvisionError, "a package is on hold: E: Held packages were", "apt-mark unhold"),
    "dpkg was interrupted": (ProvisionError, "its packages are in disorder: E: dpkg was interrupted", "--configure -a"),
    "a proxy refuses": (ProvisionError, "the proxy refuses: E: Failed to fetch", "docker_environment"),
    "a proxy does not answer": (ProvisionError, "a package source cannot be reached from the host: E: Fa", "mirror"),
    "a source's name is not known": (ProvisionError, "a package source cannot be reached from the host: ", "mirror"),
    "there is no such package": (ProvisionError, "no module could be built for the running kernel: ", "linux-headers"),
    "sudo wants a password": (SudoError, "root is needed, and sudo does not give it without a", "NOPASSWD"),
    "it takes too long": (ProvisionError, "it took too long: Timeout exceeded", "the same command again"),
    "it hangs": (ProvisionError, "it took too long: Timed out after 3", "the same command again"),
}


def test_every_recorded_failure_is_told() -> None:
    """None is left out below."""
    assert RECORDED.keys() == REAL.keys()


@pytest.mark.parametrize("name", REAL)
def test_what_a_real_machine_answered(name: str) -> None:
    """The cause is named first, with the tool's own words, and what to type."""
    error, cause, typed = REAL[name]
    told = classify("gpu1", "Install it", RECORDED[name]["result"], unreachable=RECORDED[name]["unreachable"], log="/l")
    assert type(told) is error
    assert told.message.startswith(f"gpu1: Install it: {cause}")
    assert typed in (told.hint or "")


def test_a_trouble_that_passed_is_not_the_cause() -> None:
    """apt says that it waits for a lock, gets it, and fails at something else."""
    waited = RECORDED["a package manager is at work"]["result"]["stdout"]
    failed = {"msg": "non-zero return code", "rc": 100, "stdout": waited, "stderr": "E: Failed to fetch http://x/y.deb"}
    told = classify("gpu1", "Install it", failed, unreachable=False, log="/l")
    assert "a package source cannot be reached" in told.message


def test_a_job_that_talks_of_sockets_is_not_unreachable() -> None:
    """Words of the network in a module's own output do not make a reachable host unreachable."""
    error = classify("gpu1", "s", {"msg": "apt: Connection timed out"}, unreachable=False, log="/l")
    assert type(error) is ProvisionError
    assert error.message == "gpu1: s: apt: Connection timed out"


def test_the_plainest_line_is_shown() -> None:
    """Of a traceback the exception, of a command its stderr, without Ansible's prefixes, bounded and printable."""
    trace = {"msg": "MODULE FAILURE: see stdout", "module_stderr": "Traceback (most recent):\n  File x\nValueError: no"}
    assert classify("h", "s", trace, unreachable=False, log="l").message == "h: s: ValueError: no"
    command = {"msg": "non-zero return code", "stderr": "mkfs: busy\nmore"}
    assert classify("h", "s", command, unreachable=False, log="l").message == "h: s: mkfs: busy"
    assert first_line("Task failed: Module failed: \x1b[31mred") == "?[31mred"
    assert len(first_line("x" * 5000)) == 300
    assert first_line("\n \n") == "it failed without a word"


def test_what_must_not_be_logged_stays_unsaid() -> None:
    """A censored result is said to be censored."""
    assert (
        "hidden" in classify("h", "s", {"censored": "the output has been hidden"}, unreachable=False, log="l").message
    )
