"""What Ansible is told about hosts: an inventory of checked values, and the options of its ssh.

Everything in an inventory is a template to Ansible, and an address that begins with a dash is an option to its ssh. So
each connection value is checked here once more, whoever checked it before, and no string that Ansible would expand is
let through.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Final, Protocol

from pool.errors import InputError
from pool.host import Jump
from pool.provision.preflight import Preflight

JSON = None | bool | int | float | str | Sequence["JSON"] | Mapping[str, "JSON"]

_CHECKS: Final = {
    "name": re.compile(r"[A-Za-z0-9._][A-Za-z0-9._-]{0,252}"),
    "address": re.compile(r"[A-Za-z0-9._:][A-Za-z0-9._:-]{0,252}"),
    "user": re.compile(r"[A-Za-z0-9._][A-Za-z0-9._-]{0,63}"),
    "key": re.compile(r"/[^\x00-\x1f\x7f\"'%$`\\;{}]*"),
}
_VARIABLE: Final = re.compile(r"[a-z_][a-z0-9_]*", re.IGNORECASE)
_TEMPLATE: Final = re.compile(r"\{[{%#]")


class Target(Protocol):
    """Where and as whom to connect: what `pool.ssh.destination.Target` is."""

    @property
    def name(self) -> str:
        """The host's name in the pool."""

    @property
    def address(self) -> str:
        """Host name, IPv4 or IPv6."""

    @property
    def port(self) -> int:
        """The port of its sshd."""

    @property
    def user(self) -> str:
        """The login user."""

    @property
    def key(self) -> str | None:
        """Path of the private key, or None for the agent's keys."""

    @property
    def jumps(self) -> tuple[Jump, ...]:
        """The jump hosts on the way, the nearest first."""


def inventory(
    targets: Sequence[Target], variables: Mapping[str, Mapping[str, JSON]], known_hosts: str = "/dev/null"
) -> dict[str, JSON]:
    """The inventory of `targets`, with each host's own variables; InputError for a value that may not stand in one.

    Jump hosts are checked against the pinned keys of `known_hosts`, as hosts are.
    """
    hosts: dict[str, JSON] = {}
    for target in targets:
        name = _checked("name", target.name)
        if name in hosts:
            raise InputError(f"two hosts have the name {name}")
        if not 0 < target.port < 65536:
            raise InputError(f"{name}: not a port: {target.port}")
        values: dict[str, JSON] = {
            "ansible_connection": "ssh",
            "ansible_host": _checked("address", target.address),
            "ansible_port": target.port,
            "ansible_user": _checked("user", target.user),
        }
        if target.key is not None:
            values["ansible_ssh_private_key_file"] = _checked("key", target.key)
        if target.jumps:
            values["ansible_ssh_common_args"] = shlex.join(jump_options(target.jumps, known_hosts))
        for variable, value in variables.get(name, {}).items():
            if not _VARIABLE.fullmatch(variable) or variable in values:
                raise InputError(f"{name}: not a variable that can be set: {variable!a}")
            values[variable] = _plain(name, variable, value)
        hosts[name] = values
    return {"all": {"hosts": hosts}}


def runner_variables(found: Preflight, zipapp: str, keys: Sequence[str] = (), *, sha256: str = "") -> dict[str, JSON]:
    """What the playbooks need to know of a host that was looked at: its interpreter, scope, home; and the zipapp.

    `keys` are the public keys of servers that shall be let in to the runner. With the zipapp's `sha256` a host that has
    everything is told by one step.
    """
    return {
        "ansible_python_interpreter": found.python,
        "runner_python": found.python,
        "runner_scope": found.scope,
        "runner_become": found.scope == "system" and not found.root,
        "runner_home": found.home,
        "runner_users": [] if found.root else [_checked("user", found.user)],
        "runner_keys": list(keys),
        "runner_zipapp": zipapp,
        "runner_zipapp_sha256": sha256,
    }


def ssh_arguments(known_hosts: str, *, own_key: bool) -> str:
    """The options of Ansible's ssh: pinned hosts only, nothing of the person's configuration, one warm connection.

    `own_key` restricts it to the key of the inventory; else every key of the agent is offered.
    """
    warm = {"ControlMaster": "auto", "ControlPersist": "60s"}
    return shlex.join(["-F", "none", *_words(warm | _options(known_hosts, own_key=own_key))])


def jump_options(jumps: Sequence[Jump], known_hosts: str) -> list[str]:
    """The options that make ssh go through `jumps`, each checked against the same pins; [] without any.

    ssh's own ProxyJump would read the person's configuration and known_hosts for a jump host: so each is an ssh of its
    own, as ProxyCommand of the next.
    """
    command: list[str] = []
    for jump in jumps:
        key = ["-i", _checked("key", jump.key)] if jump.key else []
        # The next ssh takes this for its own ProxyCommand, expands the percent signs once, and hands it to a shell.
        before = ["-o", "ProxyCommand=" + shlex.join(command).replace("%", "%%")] if command else []
        options = ["-F", "none", *_words(_options(known_hosts, own_key=jump.key is not None)), *key, *before]
        where = ["-l", _checked("user", jump.user), "-p", str(jump.port), _checked("address", jump.address)]
        command = ["ssh", *options, "-W", "[%h]:%p", *where]
    return ["-o", f"ProxyCommand={shlex.join(command)}"] if command else []


def _options(known_hosts: str, *, own_key: bool) -> dict[str, str]:
    return {
        "UserKnownHostsFile": known_hosts,
        "GlobalKnownHostsFile": "/dev/null",
        "StrictHostKeyChecking": "yes",
        "UpdateHostKeys": "no",
        "ForwardAgent": "no",
        "BatchMode": "yes",
        "IdentitiesOnly": "yes" if own_key else "no",
        "ServerAliveInterval": "5",
        "ServerAliveCountMax": "3",
        "KexAlgorithms": "^curve25519-sha256,curve25519-sha256@libssh.org",
    }


def _words(options: Mapping[str, str]) -> list[str]:
    return [word for key, value in options.items() for word in ("-o", f"{key}={value}")]


def _checked(kind: str, value: str) -> str:
    if not _CHECKS[kind].fullmatch(value):
        raise InputError(f"not a {kind} that can be given to Ansible: {value!a}")
    return value


def _plain(name: str, variable: str, value: JSON) -> JSON:
    """`value`, when nothing in it is a template."""
    if isinstance(value, str):
        if _TEMPLATE.search(value):
            raise InputError(f"{name}: {variable} holds a template, which is not taken: {ascii(value)[:80]}")
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            _plain(name, variable, key)
            _plain(name, variable, inner)
    elif isinstance(value, Sequence):
        for inner in value:
            _plain(name, variable, inner)
    return value
