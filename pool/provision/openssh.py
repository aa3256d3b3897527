"""The words of OpenSSH's client that lead to a host: for Ansible, for `pool ssh` and for a person's own programs.

Hosts are checked against the pool's own pins, jump hosts as well, and nothing of the person's configuration has a say.
What a word says was checked before; it is checked once more here, because ssh would take some values for options.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Final, Protocol

from pool.errors import InputError
from pool.host import Jump

_CHECKS: Final = {
    "name": re.compile(r"[A-Za-z0-9._][A-Za-z0-9._-]{0,252}"),
    "address": re.compile(r"[A-Za-z0-9._:][A-Za-z0-9._:-]{0,252}"),
    "user": re.compile(r"[A-Za-z0-9._][A-Za-z0-9._-]{0,63}"),
    "key": re.compile(r"/[^\x00-\x1f\x7f\"'%$`\\;{}]*"),
}
#: What would end the file's name, or be expanded in it: by ssh, by the shell of a ProxyCommand, by Ansible.
_FILE_REFUSED: Final = re.compile(r"[\x00-\x1f\x7f\"%$\\]|\{[{%#]")


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


def ssh_command(target: Target, known_hosts: str, *, batch: bool) -> list[str]:
    """`ssh`, its options and the host: more options may follow, then `--` and what to run there.

    With `batch` it never asks anything, and ends soon when the host no longer answers. Without a key of the target's
    own ssh offers those of the agent and the usual files, to jump hosts as well. InputError: see `known_hosts_word`.
    """
    pins = known_hosts_word(known_hosts)
    key = [] if target.key is None else ["-i", checked("key", target.key)]
    options = [*common_options(pins, own_key=target.key is not None, batch=batch), *key]
    way = jump_options(target.jumps, pins, batch=batch)
    where = ["-l", checked("user", target.user), "-p", str(target.port), checked("address", target.address)]
    return ["ssh", *options, *way, *where]


def common_options(pins: str, *, own_key: bool, batch: bool) -> list[str]:
    """Pinned hosts only, nothing of the person's configuration; `own_key` offers no key but the one that is named."""
    return ["-F", "none", *_words(_options(pins, own_key=own_key, batch=batch))]


def known_hosts_word(path: str) -> str:
    """`path` as ssh wants to be told of a file of pins; InputError for a name that would mean another."""
    if _FILE_REFUSED.search(path):
        raise InputError(f"ssh cannot be told of a file of this name: {path!a}", hint="export POOL_STATE_DIR=…")
    return f'"{path}"'


def ssh_arguments(known_hosts: str, *, own_key: bool) -> str:
    """The options of Ansible's ssh: pinned hosts only, nothing of the person's configuration, one warm connection.

    `own_key` restricts it to the key of the inventory; else every key of the agent is offered.
    """
    warm = {"ControlMaster": "auto", "ControlPersist": "60s"}
    return shlex.join([*common_options(known_hosts, own_key=own_key, batch=True), *_words(warm)])


def jump_options(jumps: Sequence[Jump], pins: str, *, batch: bool = True) -> list[str]:
    """The options that make ssh go through `jumps`, each checked against the same pins; [] without any.

    ssh's own ProxyJump would read the person's configuration and known_hosts for a jump host: so each is an ssh of its
    own, as ProxyCommand of the next.
    """
    command: list[str] = []
    for jump in jumps:
        key = ["-i", checked("key", jump.key)] if jump.key else []
        # The next ssh takes this for its own ProxyCommand, expands the percent signs once, and hands it to a shell.
        before = ["-o", "ProxyCommand=" + shlex.join(command).replace("%", "%%")] if command else []
        options = [*common_options(pins, own_key=jump.key is not None, batch=batch), *key, *before]
        options += ["-o", "LogLevel=ERROR"] if batch else []  # its banner is nothing that the host has said
        where = ["-l", checked("user", jump.user), "-p", str(jump.port), checked("address", jump.address)]
        command = ["ssh", *options, "-W", "[%h]:%p", *where]
    return ["-o", f"ProxyCommand={shlex.join(command)}"] if command else []


def _options(pins: str, *, own_key: bool, batch: bool) -> dict[str, str]:
    silent = {"BatchMode": "yes", "ServerAliveInterval": "5", "ServerAliveCountMax": "3"} if batch else {}
    return {
        "UserKnownHostsFile": pins,
        "GlobalKnownHostsFile": "/dev/null",
        "StrictHostKeyChecking": "yes",
        "UpdateHostKeys": "no",
        "ForwardAgent": "no",
        "IdentitiesOnly": "yes" if own_key else "no",
        "KexAlgorithms": "^curve25519-sha256,curve25519-sha256@libssh.org",
        **silent,
    }


def _words(options: Mapping[str, str]) -> list[str]:
    return [word for key, value in options.items() for word in ("-o", f"{key}={value}")]


def checked(kind: str, value: str) -> str:
    """`value`, when it can be a name, address, user or key; else InputError: ssh takes a leading dash for an option."""
    if not _CHECKS[kind].fullmatch(value):
        raise InputError(f"not a {kind} that can be given to ssh or Ansible: {value!a}")
    return value
