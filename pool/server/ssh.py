"""What a person's own ssh has to be told to get to hosts: the words, and the pinned keys that it must see there.

Nothing of the server's is lent: whoever asks logs in with keys of their own, and sshd decides.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pool.lifecycle.assemble import target_of
from pool.provision.openssh import ssh_command
from pool.ssh.host_keys import pinned_lines

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pool.host import Host
    from pool.ssh.destination import Target


def ssh_words(hosts: Sequence[Host], pins: str, known_hosts: str, *, keys: bool, batch: bool) -> dict[str, Any]:
    """`{"commands": {name: [word, …]}, "known_hosts": [line, …]}`: to be written to the asker's file `known_hosts`.

    `pins` is the file of pinned keys. With `keys` the key is named that the host was added with; else the asker's usual
    ones are meant, on the whole way.
    """
    targets = [target_of(host) if keys else _without_keys(target_of(host)) for host in hosts]
    places = [(target.address, target.port) for target in targets]
    places += [(jump.address, jump.port) for target in targets for jump in target.jumps]
    return {
        "commands": {target.name: ssh_command(target, known_hosts, batch=batch) for target in targets},
        "known_hosts": pinned_lines(pins, places),
    }


def _without_keys(target: Target) -> Target:
    return replace(target, key=None, jumps=tuple(replace(jump, key=None) for jump in target.jumps))
