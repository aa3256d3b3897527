"""What an Ansible inventory says of a host: honoured, said to be left aside, or refused; never run (S1-S4)."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pool.errors import InputError
from pool.provision.host_variables import describe
from pool.provision.ssh_words import ssh_words


def test_a_host_with_everything() -> None:
    """Each variable is what an option of `pool add-ssh` would be."""
    found = describe(
        "gpu1",
        {
            "ansible_host": "10.0.0.1",
            "ansible_port": 2222,
            "ansible_user": "ubuntu",
            "ansible_ssh_private_key_file": "~/.ssh/id",
            "ansible_python_interpreter": "/usr/bin/python3.11",
            "ansible_connection": "ssh",
            "ansible_become": True,
            "ansible_ssh_common_args": "-J me@bastion:2200",
            "runner_scope": "user",
            "pool_name": "one",
            "pool_pool": "train",
            "pool_region": "lab",
            "pool_network": "10.0.0.0/24",
            "pool_internal_ip": "10.0.0.1",
            "pool_labels": {"rack": "b2", "row": 7},
            "pool_price": 1.5,
            "pool_fingerprint": "SHA256:x",
            "pool_jump_fingerprint": "SHA256:y",
            "pool_target": "all",
            "their_own": "{{ anything }}",
        },
    )
    assert found.notes == []
    assert found.wish == {
        "destination": "10.0.0.1",
        "name": "one",
        "port": "2222",
        "user": "ubuntu",
        "key": "~/.ssh/id",
        "python": "/usr/bin/python3.11",
        "jump": "me@bastion:2200",
        "scope": "user",
        "pool": "train",
        "region": "lab",
        "network": "10.0.0.0/24",
        "internal_ip": "10.0.0.1",
        "labels": ["rack=b2", "row=7"],
        "price": "1.5",
        "fingerprint": "SHA256:x",
        "jump_fingerprints": ["SHA256:y"],
    }


def test_a_host_with_nothing() -> None:
    """Its name is where it is, and what pool calls it."""
    assert describe("gpu1", {}).wish == {"destination": "gpu1", "name": "gpu1"}


@pytest.mark.parametrize("labels", [{"a": "b", "c": "d"}, ["a=b", "c=d"], "a=b,c=d", "a=b, c=d"])
def test_labels(labels: Any) -> None:
    """In each form that INI and YAML allow."""
    assert describe("gpu1", {"pool_labels": labels}).wish["labels"] == ["a=b", "c=d"]


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"ansible_connection": "local"}, "ansible_connection='local' cannot be honoured"),
        ({"ansible_connection": "paramiko"}, "ansible_connection='paramiko' cannot be honoured"),
        ({"ansible_password": "x"}, "ansible_password cannot be honoured"),
        ({"ansible_ssh_pass": "x"}, "ansible_ssh_pass cannot be honoured"),
        ({"ansible_become_password": "x"}, "ansible_become_password cannot be honoured"),
        ({"ansible_become_pass": {"__ansible_vault": "x"}}, "ansible_become_pass cannot be honoured"),
        ({"ansible_become_method": "su"}, "ansible_become_method='su' cannot be honoured"),
        ({"ansible_become_user": "admin"}, "ansible_become_user='admin' cannot be honoured"),
        ({"ansible_shell_type": "powershell"}, "ansible_shell_type='powershell' cannot be honoured"),
        ({"ansible_ssh_executable": "/tmp/x"}, "ansible_ssh_executable cannot be honoured"),
        ({"ansible_ssh_private_key": "-----"}, "ansible_ssh_private_key cannot be honoured"),
        ({"runner_scope": "both"}, "runner_scope='both' cannot be honoured"),
        ({"ansible_user": "{{ lookup('pipe', 'id') }}"}, "ansible_user is a template"),
        ({"ansible_host": "{% if 1 %}"}, "ansible_host is a template"),
        ({"ansible_host": {"__ansible_unsafe": "{{ x }}"}}, "ansible_host is a template"),
        ({"ansible_host": {"__ansible_vault": "x"}}, "ansible_host is encrypted"),
        ({"ansible_host": ["a"]}, "ansible_host is not a single value"),
        ({"ansible_port": None}, "ansible_port is not a single value"),
        ({"pool_labels": {"a": "{{ x }}"}}, "pool_labels is a template"),
        ({"ansible_ssh_common_args": "-o ProxyCommand='nc %h %p'"}, "ansible_ssh_common_args: a ProxyCommand"),
    ],
)
def test_what_cannot_be_honoured(variables: dict[str, Any], said: str) -> None:
    """Is refused in one line with what to do, whatever else the host has."""
    with pytest.raises(InputError) as caught:
        describe("gpu1", {"ansible_host": "10.0.0.1", **variables})
    assert caught.value.message.startswith(said)
    assert caught.value.hint


def test_what_is_left_aside_is_said() -> None:
    """What pool does its own way, and what looks like pool's but is not."""
    found = describe(
        "gpu1",
        {
            "ansible_host_key_checking": False,
            "ansible_become": "false",
            "ansible_python_interpreter": "python3",
            "ansible_ssh_extra_args": "-C -o StrictHostKeyChecking=no",
            "pool_regoin": "lab",
            "docker_state": "absent",
            "pool_server_package": "x",
        },
    )
    said = "\n".join(found.notes)
    for word in ("ansible_host_key_checking", "ansible_become", "interpreter", "-C", "stricthost", "regoin", "docker_"):
        assert word in said
    assert "pool_server" not in said


@pytest.mark.parametrize(
    ("text", "jump", "key"),
    [
        ("-J bastion", "bastion", None),
        ("-Jme@bastion:2200", "me@bastion:2200", None),
        ("-o ProxyJump=a,b", "a,b", None),
        ("-o 'ProxyJump a'", "a", None),
        ("-oproxyjump=a", "a", None),
        ("-o ProxyCommand='ssh -W %h:%p me@bastion'", "me@bastion", None),
        ('-o ProxyCommand="ssh -W %h:%p -q bastion -p 2200 -l me"', "me@bastion:2200", None),
        ("-o 'ProxyCommand /usr/bin/ssh -i ~/k -W [%h]:%p -o StrictHostKeyChecking=no b'", "b", "~/k"),
        ("-o ProxyCommand='ssh -J a -W %h:%p b'", "a,b", None),
        ("-o ProxyCommand='ssh -p 22 -W %h:%p me@fd00::7'", "me@[fd00::7]:22", None),
        ("-o ProxyCommand=none", "none", None),
        ("-o ControlMaster=auto -o ControlPersist=60s", None, None),
        ("", None, None),
    ],
)
def test_jump_hosts_in_options_of_ssh(text: str, jump: str | None, key: str | None) -> None:
    """Every usual way to write one."""
    found = ssh_words(text)
    assert (found.jump, found.jump_key) == (jump, key)


def test_other_options_of_ssh() -> None:
    """Who logs in where, with what."""
    found = ssh_words("-l me -p 22 -i key")
    assert (found.user, found.port, found.key) == ("me", "22", "key")
    found = ssh_words('-o User=me -o Port=22 -o IdentityFile="key"')
    assert (found.user, found.port, found.key) == ("me", "22", "key")


@pytest.mark.parametrize(
    "text",
    [
        "-o ProxyCommand='touch /tmp/x'",
        "-o ProxyCommand='ssh -W %h:%p a; touch /tmp/x'",
        "-o ProxyCommand='ssh -W %h:%p a touch /tmp/x'",
        "-o ProxyCommand='ssh -W %h:22 a'",
        "-o ProxyCommand='ssh a nc %h %p'",
        "-o ProxyCommand='ssh -W %h:%p'",
        "-o ProxyCommand='ssh -W %h:%p -o LocalCommand=id a'",
        "-o ProxyCommand='ssh -F /tmp/x -W %h:%p a'",
        "-o LocalCommand=id",
        "-o PermitLocalCommand=yes",
        "-oKnownHostsCommand=id",
        "-F /tmp/x",
        "-L 1:a:2",
        "-R 1:a:2",
        "-E /tmp/x",
        "-S /tmp/x",
        "-w 1",
        "somewhere",
        "-o",
        "'",
        "-Z",
        "--help",
    ],
)
def test_options_of_ssh_that_are_refused(text: str) -> None:
    """What starts a program, reads a file, opens a port, or is none."""
    with pytest.raises(InputError):
        ssh_words(text)


@given(st.dictionaries(st.sampled_from(["ansible_host", "ansible_ssh_args", "pool_labels", "ansible_user"]), st.text()))
def test_whatever_it_says(variables: dict[str, str]) -> None:
    """A wish or one error on one line."""
    try:
        describe("gpu1", variables)
    except InputError as error:
        assert error.message.isprintable()
