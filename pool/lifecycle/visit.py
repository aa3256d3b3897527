"""A visit to a host: log in and look around before a playbook changes it, and where the playbook's log is kept."""

from __future__ import annotations

import os
import secrets
import time
from functools import partial
from typing import TYPE_CHECKING

from pool.lifecycle.assemble import known_hosts, target_of
from pool.provision.preflight import Preflight, Scope, preflight
from pool.provision.survey import Survey, survey
from pool.ssh import connection as ssh

if TYPE_CHECKING:
    from pool.host import Host
    from pool.lifecycle.context import Context


def look_around(ctx: Context, host: Host, scope: Scope | None = None) -> Preflight:
    """Log in to the host, whose key is pinned, and look at it; nothing is changed. HostError as `preflight` says."""
    connection = ssh.connect(target_of(host), known_hosts(ctx))
    try:
        return preflight(host.name, partial(ssh.exec, connection), scope=scope, python=host.python)
    finally:
        connection.close()


def look_closely(ctx: Context, host: Host, scope: Scope | None = None) -> tuple[Preflight, Survey]:
    """The same, and what of the roles' work is there already. HostError as `preflight` and `survey` say."""
    connection = ssh.connect(target_of(host), known_hosts(ctx))
    try:
        execute = partial(ssh.exec, connection)
        found = preflight(host.name, execute, scope=scope)
        return found, survey(host.name, found, execute)
    finally:
        connection.close()


def log_path(ctx: Context, verb: str) -> str:
    """Where the whole log of a playbook run goes: a file of its own, named for `verb` and the time."""
    name = time.strftime(f"{verb}-%Y%m%d-%H%M%S-") + secrets.token_hex(2) + ".log"
    return os.path.join(ctx.folder, "ansible", name)
