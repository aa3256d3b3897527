"""The pool as an Ansible inventory: what `pool inventory` prints, with every host's way in, its facts and its groups.

Ansible may expand whatever stands in an inventory, and facts are what a host says of itself: so no string leaves here
in which a template could begin.
"""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING, Any

from pool.provision.openssh import common_options, jump_options, known_hosts_word
from pool.server.views import host_json

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pool.host import HostView

#: What of a host's JSON stands in the inventory, as `pool_NAME`; those that add-ssh reads from one have the same names.
_FACTS = (
    *("status", "reason", "pool", "region", "network", "ip", "labels", "jobs", "os", "docker", "driver"),
    *("gpus", "gpus_free", "gpus_total", "gpu_problem", "cpus", "cpus_free"),
    *("memory_mib", "memory_free_mib", "disk_free_mib"),
)
_TEXT_MAX = 500


def ansible_inventory(views: Iterable[HostView], known_hosts: str) -> dict[str, Any]:
    """`{"_meta": {"hostvars": …}, "all": …, "pool_default": …, "status_ready": …, "gpu_h100_80gb_hbm3": …, …}`.

    Host keys are checked against the pins in `known_hosts`, jump hosts' as well; InputError when ssh cannot be told of
    a file of that name.
    """
    pins = known_hosts_word(known_hosts)
    hosts: dict[str, Any] = {}
    groups: dict[str, list[str]] = {}
    for view in views:
        name = view.host.name
        hosts[name] = _variables(view, pins)
        for group in _groups(view):
            groups.setdefault(group, []).append(name)
    tree = {group: {"hosts": sorted(members)} for group, members in sorted(groups.items())}
    return {"_meta": {"hostvars": hosts}, "all": {"children": sorted(tree)}, **tree}


def _variables(view: HostView, pins: str) -> dict[str, Any]:
    host, told = view.host, host_json(view)
    options = common_options(pins, own_key=host.key is not None, batch=False)
    found: dict[str, Any] = {
        "ansible_host": host.address,
        "ansible_port": host.port,
        "ansible_user": host.user,
        "ansible_ssh_common_args": shlex.join([*options, *jump_options(host.jumps or (), pins)]),
    }
    if host.key is not None:
        found["ansible_ssh_private_key_file"] = host.key
    if host.python is not None:
        found["ansible_python_interpreter"] = host.python
    if host.internal_ip is not None:
        found["pool_internal_ip"] = host.internal_ip
    facts = {f"pool_{name}": _inert(told[name]) for name in _FACTS}
    return found | facts | {"pool_price": host.price}


def _groups(view: HostView) -> set[str]:
    """The groups of one host: by pool, status, region, label and model of its cards."""
    host = view.host
    found = {("pool", host.pool), ("status", str(host.status)), ("region", host.region)}
    found |= {(f"label_{name}", value) for name, value in host.labels}
    found |= {("gpu", gpu.name.removeprefix("NVIDIA ")) for gpu in host.gpus}
    return {_group(f"{kind}_{name}") for kind, name in found}


def _group(text: str) -> str:
    """A name that Ansible takes for a group: small letters, digits and underscores."""
    return re.sub(r"[^a-z0-9]+", "_", text[:_TEXT_MAX].lower()).strip("_")


def _inert(value: Any) -> Any:
    """`value` with no string in it that Ansible would expand, or that is longer than a fact may be."""
    if isinstance(value, str):
        return re.sub(r"\{(?=[{%#])", "?", "".join(c if c.isprintable() else "?" for c in value[:_TEXT_MAX]))
    if isinstance(value, dict):
        return {_inert(key): _inert(inner) for key, inner in value.items()}
    return [_inert(inner) for inner in value] if isinstance(value, list) else value
