"""The hosts of a person's own Ansible inventory, as wishes: each checked as if it had been typed, each for itself."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

from pool.errors import InputError, PoolError
from pool.lifecycle.wish import host_wished
from pool.provision.host_variables import describe
from pool.provision.read_inventory import read_inventory

_NAME_MAX = 80


@dataclass(slots=True)
class Found:
    """What an inventory holds: hosts that can be looked at, what is wrong with others, what is left aside of each."""

    wishes: list[dict[str, Any]] = field(default_factory=list)
    errors: list[PoolError] = field(default_factory=list)
    notes: list[tuple[str, str]] = field(default_factory=list)  #: (host, what is left aside)


def wishes_in(path: str, limit: str | None, defaults: dict[str, Any], folder: str) -> Found:
    """The hosts in the inventory `path` that match `limit`; what it does not say of one is as in `defaults`.

    A key's path is meant from `folder`, as Ansible has it. InputError when the inventory as a whole cannot be read.
    """
    found = Found()
    places: dict[Any, str] = {}
    for name, variables in read_inventory(path, limit).items():
        shown = ascii(name).strip("'")[:_NAME_MAX]
        try:
            described = describe(name, variables)
            wish = defaults | described.wish
            for key in ("key", "jump_key"):
                if wish.get(key):
                    wish[key] = os.path.join(folder, os.path.expanduser(wish[key]))
            host, _ = host_wished(wish)
            for place in (host.name, (host.address, host.port)):
                if places.setdefault(place, name) != name:
                    raise InputError(f"it is the same host as {places[place]}", hint="name each host once")
        except InputError as error:
            found.errors.append(InputError(f"{shown}: {error.message}", hint=error.hint))
            continue
        found.wishes.append(wish)
        found.notes += [(name, note) for note in described.notes]
    return found
