"""What Ansible is told about hosts: an inventory of checked values, and what the playbooks need to know of each.

Everything in an inventory is a template to Ansible, and an address that begins with a dash is an option to its ssh. So
each connection value is checked here once more, whoever checked it before, and no string that Ansible would expand is
let through.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

from pool.errors import InputError
from pool.provision.openssh import checked, jump_options
from pool.provision.preflight import Preflight

if TYPE_CHECKING:
    from pool.provision.openssh import Target

JSON = None | bool | int | float | str | Sequence["JSON"] | Mapping[str, "JSON"]

_VARIABLE: Final = re.compile(r"[a-z_][a-z0-9_]*", re.IGNORECASE)
_TEMPLATE: Final = re.compile(r"\{[{%#]")


def inventory(
    targets: Sequence[Target], variables: Mapping[str, Mapping[str, JSON]], known_hosts: str = "/dev/null"
) -> dict[str, JSON]:
    """The inventory of `targets`, with each host's own variables; InputError for a value that may not stand in one.

    Jump hosts are checked against the pinned keys of `known_hosts`, as hosts are.
    """
    hosts: dict[str, JSON] = {}
    for target in targets:
        name = checked("name", target.name)
        if name in hosts:
            raise InputError(f"two hosts have the name {name}")
        if not 0 < target.port < 65536:
            raise InputError(f"{name}: not a port: {target.port}")
        values: dict[str, JSON] = {
            "ansible_connection": "ssh",
            "ansible_host": checked("address", target.address),
            "ansible_port": target.port,
            "ansible_user": checked("user", target.user),
        }
        if target.key is not None:
            values["ansible_ssh_private_key_file"] = checked("key", target.key)
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
        "runner_users": [] if found.root else [checked("user", found.user)],
        "runner_keys": list(keys),
        "runner_zipapp": zipapp,
        "runner_zipapp_sha256": sha256,
    }


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
