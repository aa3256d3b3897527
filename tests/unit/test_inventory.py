"""What Ansible is told: values that can neither be an option of ssh nor a template (S1, S2, S3)."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from typing import Any

import pytest

from pool.errors import InputError
from pool.host import Jump
from pool.provision.inventory import inventory, runner_variables
from pool.provision.openssh import jump_options, ssh_arguments, ssh_command
from pool.provision.preflight import Preflight
from pool.ssh.destination import Target

TARGET = Target("gpu1", "10.0.0.7", 2222, "ubuntu", "/home/me/.ssh/id_ed25519")
FOUND = Preflight(
    python="/usr/bin/python3",
    python_version=(3, 11, 2),
    uid=1000,
    user="ubuntu",
    home="/home/ubuntu",
    sudo="passwordless",
    systemd=True,
    free_mib=5000,
    scope="system",
)


def test_an_inventory() -> None:
    """A host's connection and its own variables; plain JSON."""
    found: Any = inventory([TARGET], {"gpu1": {"runner_scope": "user", "deep": {"list": [1, None, "x"]}}})
    assert found == json.loads(json.dumps(found))
    assert found["all"]["hosts"]["gpu1"] == {
        "ansible_connection": "ssh",
        "ansible_host": "10.0.0.7",
        "ansible_port": 2222,
        "ansible_user": "ubuntu",
        "ansible_ssh_private_key_file": "/home/me/.ssh/id_ed25519",
        "runner_scope": "user",
        "deep": {"list": [1, None, "x"]},
    }


def test_without_a_key() -> None:
    """No key file is named where the agent's keys are meant."""
    found: Any = inventory([replace(TARGET, key=None)], {})
    assert "ansible_ssh_private_key_file" not in found["all"]["hosts"]["gpu1"]


@pytest.mark.parametrize("address", ["10.0.0.7", "gpu1.example.org", "fe80::1", "::1"])
def test_addresses(address: str) -> None:
    """Names, IPv4 and IPv6 pass."""
    assert inventory([replace(TARGET, address=address)], {})


EVIL = [
    "-oProxyCommand=id",
    "{{ lookup('pipe','id') }}",
    "{% raw %}",
    "a b",
    "a;b",
    "a\nb",
    "$(id)",
    "`id`",
    "%h",
    "a'b",
    'a"b',
    "",
]


@pytest.mark.parametrize("value", EVIL)
@pytest.mark.parametrize("field", ["name", "address", "user", "key"])
def test_connection_values_are_checked_again(field: str, value: str) -> None:
    """Whatever let a treacherous value through before, it does not get into an inventory."""
    with pytest.raises(InputError):
        inventory([replace(TARGET, **{field: value})], {})


@pytest.mark.parametrize("value", [evil for evil in EVIL if evil not in ("", "a b", "-oProxyCommand=id")])
def test_key_paths_are_checked(value: str) -> None:
    """A path is absolute, so it is no option; nothing that ssh or Ansible expands is in it."""
    with pytest.raises(InputError):
        inventory([replace(TARGET, key=f"/{value}")], {})


@pytest.mark.parametrize("port", [0, -1, 65536])
def test_ports_are_checked(port: int) -> None:
    """A port that is none is refused."""
    with pytest.raises(InputError):
        inventory([replace(TARGET, port=port)], {})


@pytest.mark.parametrize(
    "variables",
    [
        {"x": "{{ 1 }}"},
        {"x": ["a", {"b": "{% if %}"}]},
        {"x": {"{{ y }}": 1}},
        {"x": "{# #}"},
        {"a b": 1},
        {"ansible_host": "elsewhere"},
        {"{{ x }}": 1},
    ],
)
def test_variables_are_no_templates(variables: dict[str, Any]) -> None:
    """A value that Ansible would expand, at any depth, and a name that is none, are refused and not escaped."""
    with pytest.raises(InputError):
        inventory([TARGET], {"gpu1": variables})


def test_two_hosts_of_one_name() -> None:
    """Names are what outcomes are told apart by."""
    with pytest.raises(InputError, match="two hosts"):
        inventory([TARGET, TARGET], {})


def test_ssh_arguments() -> None:
    """Pinned hosts only, no agent forwarded, nothing of the person's configuration, never a question."""
    words = shlex.split(ssh_arguments("/run/x/known_hosts", own_key=True))
    assert words[:2] == ["-F", "none"]
    options = dict(word.split("=", 1) for word in words[3::2])
    assert options["UserKnownHostsFile"] == "/run/x/known_hosts"
    assert options["GlobalKnownHostsFile"] == "/dev/null"
    assert options["StrictHostKeyChecking"] == "yes"
    assert options["ForwardAgent"] == "no"
    assert options["BatchMode"] == "yes"
    assert options["IdentitiesOnly"] == "yes"
    assert "IdentitiesOnly=no" in ssh_arguments("/x", own_key=False)


def test_the_command_to_a_host() -> None:
    """For a person it may ask and wait; a program's never asks. Without a key of its own, ssh's usual ones."""
    words = ssh_command(replace(TARGET, jumps=(Jump("bastion", 22, "me"),)), "/state/known hosts", batch=False)
    assert words[:3] == ["ssh", "-F", "none"]
    assert words[-5:] == ["-l", "ubuntu", "-p", "2222", "10.0.0.7"]
    assert words[words.index("-i") + 1] == TARGET.key
    assert 'UserKnownHostsFile="/state/known hosts"' in words
    assert "BatchMode" not in " ".join(words)
    batch = ssh_command(replace(TARGET, key=None), "/k", batch=True)
    assert {"BatchMode=yes", "IdentitiesOnly=no", "StrictHostKeyChecking=yes"} <= set(batch)
    assert "-i" not in batch


@pytest.mark.parametrize("path", ["/a\nb", "/a{{ b }}/known_hosts", "/100%/known_hosts", '/a"b'])
def test_a_file_of_pins_that_ssh_cannot_be_told_of(path: str) -> None:
    """One error; no command that would mean another file."""
    with pytest.raises(InputError, match="ssh cannot be told"):
        ssh_command(TARGET, path, batch=True)


def test_jump_options() -> None:
    """An ssh for each jump host, inside one another: pins and keys of its own, nothing of the person's."""
    assert jump_options((), "/k") == []
    first, second = Jump("bastion", 22, "me", "/home/me/my key"), Jump("fd00::7", 2222, "you")
    option, command = jump_options((first, second), "/run/x/known_hosts")
    assert option == "-o"
    outer = shlex.split(command.removeprefix("ProxyCommand="))
    assert outer[:3] == ["ssh", "-F", "none"]
    assert outer[-7:] == ["-W", "[%h]:%p", "-l", "you", "-p", "2222", "fd00::7"]
    inner = next(word for word in outer if word.startswith("ProxyCommand=")).removeprefix("ProxyCommand=")
    assert "[%%h]:%%p" in inner, "the outer ssh expands it once"
    inner = shlex.split(inner.replace("%%", "%"))
    assert inner[-7:] == ["-W", "[%h]:%p", "-l", "me", "-p", "22", "bastion"]
    assert inner[inner.index("-i") + 1] == "/home/me/my key"
    for words in (outer, inner):
        for option in ("UserKnownHostsFile=/run/x/known_hosts", "StrictHostKeyChecking=yes", "ForwardAgent=no"):
            assert option in words
    found: Any = inventory([replace(TARGET, jumps=(first,))], {}, "/run/x/known_hosts")
    words = shlex.split(found["all"]["hosts"]["gpu1"]["ansible_ssh_common_args"])
    assert words == jump_options((first,), "/run/x/known_hosts")


@pytest.mark.parametrize("value", EVIL)
@pytest.mark.parametrize("field", ["address", "user", "key"])
def test_jump_hosts_are_checked_again(field: str, value: str) -> None:
    """As hosts are."""
    jump = replace(Jump("bastion", 22, "me", "/k"), **{field: f"/{value}" if field == "key" and value else value})
    if field == "key" and value in ("", "a b", "-oProxyCommand=id"):
        assert inventory([replace(TARGET, jumps=(jump,))], {}), "an absolute path is no option"
        return
    with pytest.raises(InputError):
        inventory([replace(TARGET, jumps=(jump,))], {})


def test_runner_variables() -> None:
    """What was found on the host decides how the runner is put there."""
    found = runner_variables(FOUND, "/tmp/runner.pyz")
    assert found["ansible_python_interpreter"] == found["runner_python"] == "/usr/bin/python3"
    assert (found["runner_scope"], found["runner_become"], found["runner_users"]) == ("system", True, ["ubuntu"])
    root = runner_variables(replace(FOUND, uid=0, user="root", sudo="root"), "/x")
    assert (root["runner_become"], root["runner_users"], root["runner_keys"]) == (False, [], [])
    assert runner_variables(FOUND, "/x", ["ssh-ed25519 AAAA pool@head"])["runner_keys"] == [
        "ssh-ed25519 AAAA pool@head"
    ]
    assert runner_variables(replace(FOUND, scope="user"), "/x")["runner_become"] is False
    with pytest.raises(InputError):
        runner_variables(replace(FOUND, user="{{ x }}"), "/x")
