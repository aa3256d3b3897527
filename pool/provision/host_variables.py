"""What the variables of an Ansible inventory say about a host: how to reach it, and where it belongs in the pool.

Every variable by which Ansible would connect is honoured, or said to be left aside, or refused with its reason; a
template is never expanded. Values are only gathered here: what may be a host, a user or a path is checked as if it had
been typed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from pool.errors import InputError
from pool.provision.ssh_words import SshWords, ssh_words

#: A host's own variables -> what `pool add-ssh` has as an option; the first that is set counts.
_SAME: Final = {
    "destination": ("ansible_host", "ansible_ssh_host"),
    "port": ("ansible_port", "ansible_ssh_port"),
    "user": ("ansible_user", "ansible_ssh_user"),
    "key": ("ansible_ssh_private_key_file", "ansible_private_key_file"),
    "scope": ("runner_scope",),
    "jump": ("pool_jump",),
    "jump_key": ("pool_jump_key",),
    "name": ("pool_name",),
    "pool": ("pool_pool",),
    "region": ("pool_region",),
    "network": ("pool_network",),
    "internal_ip": ("pool_internal_ip",),
    "price": ("pool_price",),
    "fingerprint": ("pool_fingerprint",),
}
_ARGUMENTS: Final = ("ansible_ssh_args", "ansible_ssh_common_args", "ansible_ssh_extra_args")
#: What options of ssh can say of a host.
_OF_SSH: Final = ("jump", "jump_key", "key", "user", "port")
_KEYS: Final = "pool logs in with keys only: ssh-copy-id, then take the variable out"
_SUDO: Final = "let sudo ask for nothing, or set runner_scope=user, and take the variable out"
_PROGRAM: Final = "take the variable out: the system's own program is used"
#: Variable -> what to do instead.
_REFUSED: Final = {
    "ansible_password": _KEYS,
    "ansible_ssh_pass": _KEYS,
    "ansible_ssh_password": _KEYS,
    "ansible_private_key": "write the key to a file: ansible_ssh_private_key_file",
    "ansible_ssh_private_key": "write the key to a file: ansible_ssh_private_key_file",
    "ansible_private_key_passphrase": "ssh-add KEY, and take the variable out",
    "ansible_ssh_private_key_passphrase": "ssh-add KEY, and take the variable out",
    "ansible_become_password": _SUDO,
    "ansible_become_pass": _SUDO,
    "ansible_sudo_pass": _SUDO,
    "ansible_su_pass": _SUDO,
    "ansible_ssh_executable": _PROGRAM,
    "ansible_scp_executable": _PROGRAM,
    "ansible_sftp_executable": _PROGRAM,
}
#: Variables that can be honoured only with one of these values.
_ONLY: Final = {
    "ansible_connection": ("ssh", "smart", "ansible.builtin.ssh"),
    "ansible_become_method": ("sudo", "ansible.builtin.sudo"),
    "ansible_become_user": ("root",),
    "ansible_shell_type": ("sh",),
    "runner_scope": ("system", "user"),
}
#: Variables of the playbooks that are no host's.
_OF_PLAYBOOKS: Final = ("pool_target", "pool_batches", "pool_server_")
_OF_ROLES: Final = ("runner_", "docker_", "nvidia_driver_", "nvidia_container_toolkit_")


@dataclass(slots=True)
class Described:
    """One host of an inventory: what would have been typed for it, and what of its variables is left aside."""

    wish: dict[str, Any]
    notes: list[str] = field(default_factory=list)


def describe(name: str, variables: Mapping[str, Any]) -> Described:
    """What the inventory says about the host `name`; InputError for what cannot be honoured, without the name."""
    for variable, hint in _REFUSED.items():
        if variable in variables:
            raise InputError(f"{variable} cannot be honoured", hint=hint)
    for variable, allowed in _ONLY.items():
        said = _text(variable, variables.get(variable, allowed[0]))
        if said not in allowed:
            hint = f"what can be: {', '.join(allowed)}"
            raise InputError(f"{variable}={said!a} cannot be honoured", hint=hint)
    words = SshWords()
    for variable in _ARGUMENTS:
        if variable in variables:
            _add(words, _words(variable, variables[variable]))
    same = [(key, name) for key, names in _SAME.items() for name in reversed(names) if name in variables]
    wish = {
        "destination": name,
        "name": name,
        **{key: getattr(words, key) for key in _OF_SSH if getattr(words, key) is not None},
        **{key: _text(variable, variables[variable]) for key, variable in same},
    }
    found = Described(wish, [f"ssh's {word} is left aside: pool has its own" for word in words.left])
    _take_the_rest(found, variables)
    return found


def _take_the_rest(found: Described, variables: Mapping[str, Any]) -> None:
    """What has a form of its own, and what is left aside."""
    if "pool_labels" in variables:
        found.wish["labels"] = _labels(variables["pool_labels"])
    if "pool_jump_fingerprint" in variables:
        found.wish["jump_fingerprints"] = _list("pool_jump_fingerprint", variables["pool_jump_fingerprint"])
    python = _text("ansible_python_interpreter", variables.get("ansible_python_interpreter", "auto"))
    if python.startswith("/"):
        found.wish["python"] = python
    elif not python.startswith("auto"):
        found.notes.append("ansible_python_interpreter is no absolute path: a Python is looked for")
    if _text("ansible_become", variables.get("ansible_become", True)).lower() in ("false", "no"):
        found.notes.append("ansible_become is left aside: runner_scope=user is what keeps pool from root")
    known = {*(name for names in _SAME.values() for name in names), *_ARGUMENTS, *_ONLY}
    known |= {"pool_labels", "pool_jump_fingerprint", "ansible_python_interpreter", "ansible_become"}
    for variable in sorted(set(variables) - known):
        if variable.startswith("ansible_"):
            found.notes.append(f"{variable} is left aside: pool has its own")
        elif variable.startswith("pool_") and not variable.startswith(_OF_PLAYBOOKS):
            found.notes.append(f"{variable} is no variable of pool's")
        elif variable.startswith(_OF_ROLES):
            found.notes.append(f"{variable} is left aside: it is for playbooks/host.yml run by hand")


def _add(words: SshWords, more: SshWords) -> None:
    """Ansible gives ssh all of them one after another, and ssh keeps the first of each."""
    for name in _OF_SSH:
        setattr(words, name, getattr(words, name) or getattr(more, name))
    words.left += [word for word in more.left if word not in words.left]


def _words(variable: str, value: Any) -> SshWords:
    text = _text(variable, value)
    try:
        return ssh_words(text)
    except InputError as error:
        raise InputError(f"{variable}: {error.message}", hint=error.hint) from error


def _text(variable: str, value: Any) -> str:
    """The value of a variable that is one word or line; no template, no list, not encrypted."""
    if isinstance(value, Mapping) and set(value) == {"__ansible_unsafe"}:
        value = value["__ansible_unsafe"]
    if isinstance(value, Mapping) and "__ansible_vault" in value:
        raise InputError(f"{variable} is encrypted", hint="write its value in the clear: it is no secret")
    if not isinstance(value, str | int | float):
        raise InputError(f"{variable} is not a single value", hint="ansible-inventory --list shows it")
    text = str(value)
    if any(mark in text for mark in ("{{", "{%", "{#")):
        raise InputError(f"{variable} is a template, which is not expanded", hint="write the value out")
    return text


def _list(variable: str, value: Any) -> list[str]:
    return [_text(variable, each) for each in (value if isinstance(value, list) else [value])]


def _labels(value: Any) -> list[str]:
    """`{rack: b2}`, `[rack=b2]` or `rack=b2,type=big`."""
    if isinstance(value, Mapping) and not set(value) & {"__ansible_unsafe", "__ansible_vault"}:
        return [f"{name}={_text('pool_labels', each)}" for name, each in value.items()]
    return [word.strip() for text in _list("pool_labels", value) for word in text.split(",")]
