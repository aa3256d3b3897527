"""Add: from a destination a person typed to a host that takes jobs.

    look     resolve the destination, ask for its host key: nothing is changed, nothing authenticated
    add      pin the key ─▶ log in and look around ─▶ keep the host ─▶ playbooks/host.yml ─▶ link ─▶ ready
                 └─ failed: the pin goes, the host is not listed      └─ failed: listed as broken, with the reason

Hosts of one call go side by side; one that fails or is slow holds up no other.
"""

from __future__ import annotations

import logging
import os
import secrets
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pool.errors import ConflictError, HostError, HostKeyError, PoolError, UnreachableError
from pool.lifecycle.assemble import known_hosts, target_of
from pool.lifecycle.visit import log_path, look_around
from pool.provision.inventory import runner_variables
from pool.provision.playbook import run_playbook
from pool.provision.preflight import Preflight, Scope
from pool.provision.progress import StepEvent
from pool.provision.zipapp import build_runner
from pool.ssh import host_keys
from pool.states import HostStatus

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pool.host import Host
    from pool.lifecycle.context import Context

_log = logging.getLogger(__name__)

#: From the playbook's end until the new link must have told the host's facts.
_LINK_S = 60.0


@dataclass(frozen=True, slots=True)
class Sight:
    """What `look` saw of one destination: the host as it would be added, and its key."""

    host: Host
    fingerprint: str
    trusted: str | None  #: fingerprint | known_hosts | pinned; None: a person has to say
    key_type: str


@dataclass(frozen=True, slots=True)
class Wanted:
    """One host to add: the key a person has agreed to, and how its runner shall be installed."""

    host: Host
    fingerprint: str
    scope: Scope | None = None  #: None: as a system service where the host allows it, else as the user's own process


@dataclass(frozen=True, slots=True)
class Added:
    """How adding one host ended."""

    name: str
    changed: int  #: Ansible tasks that changed something
    error: PoolError | None = None


def look(ctx: Context, wish: Host, fingerprint: str | None) -> Sight:
    """Ask the host for its key. HostKeyError when it is not the pinned one, or not `fingerprint`."""
    host = _known_as(ctx, wish)
    expected = None if fingerprint is None else host_keys.validate_fingerprint(fingerprint)
    try:
        return _look(host, host_keys.lookup(known_hosts(ctx), host.address, host.port), expected)
    except HostError as error:
        raise _under_its_name(host, error) from error


def _look(host: Host, pinned: Any, expected: str | None) -> Sight:
    if pinned is None:
        contact = host_keys.first_contact(host.address, host.port, expected=expected)
        return Sight(host, contact.fingerprint, contact.trusted, contact.key.get_name())
    offered = host_keys.scan(host.address, host.port)
    if pinned not in offered:
        offered += host_keys.scan(host.address, host.port, every=True)
    if pinned not in offered:
        raise host_keys.changed(host.name, pinned, offered[0])
    if expected not in (None, host_keys.fingerprint(pinned)):
        raise HostKeyError(
            f"{host.name}: its pinned key is {host_keys.fingerprint(pinned)}, not {expected}",
            hint="leave --fingerprint out, or ask the host's owner which is right",
            host=host.name,
        )
    return Sight(host, host_keys.fingerprint(pinned), "pinned", pinned.get_name())


def _under_its_name(host: Host, error: HostError) -> HostError:
    """The error with the name that was typed: until a host is pinned, its address is all that it is known by there."""
    entry = host_keys.entry_name(host.address, host.port)
    said = error.message.removeprefix(f"{host.name}: ").removeprefix(f"{entry}: ").removeprefix(f"{entry} ")
    message = f"{host.name} {said}" if said.startswith("(") else f"{host.name}: {said}"
    details = error.details | {"host": host.name, "step": "ask for its host key"}
    return type(error)(message, hint=error.hint, **details)


def add(ctx: Context, wanted: Sequence[Wanted], on_step: Callable[[StepEvent], None]) -> list[Added]:
    """Add each host; one outcome a host, in order."""
    results: dict[str, Added] = {}
    entered: list[tuple[Host, Preflight]] = []
    for each, outcome in zip(wanted, ctx.every(lambda each: _enter(ctx, each, on_step), wanted), strict=True):
        if isinstance(outcome, Exception):
            results[each.host.name] = Added(each.host.name, 0, _told(each.host, outcome))
        else:
            entered.append(outcome)
    if entered:
        results |= _provision(ctx, entered, on_step)
    return [results[each.host.name] for each in wanted]


def _known_as(ctx: Context, wish: Host) -> Host:
    """The wish with the id and status of the host it is about, when that is in the pool.

    ConflictError when the name is another's, or the machine is there under another name or user: its GPUs would be
    counted twice.
    """
    for host in ctx.store.hosts.all():
        if (host.address, host.port) == (wish.address, wish.port):
            name = wish.name if wish.name != wish.address else host.name
            if (name, wish.user) != (host.name, host.user):
                raise ConflictError(
                    f"{wish.address} is in the pool already, as {host.name} with the user {host.user}",
                    hint=f"pool rm {host.name}, then add it again",
                )
            if host.status in (HostStatus.NEW, HostStatus.PROVISIONING):
                raise ConflictError(f"{host.name} is being added right now", hint="pool ps")
            return replace(wish, id=host.id, name=host.name, status=host.status, facts=host.facts)
        if host.name == wish.name:
            raise ConflictError(f"there is a host named {wish.name} already", hint="name this one with --name")
    return replace(wish, id=secrets.token_hex(8))


def _enter(ctx: Context, wanted: Wanted, on_step: Callable[[StepEvent], None]) -> tuple[Host, Preflight]:
    """Pin, log in, look around, and only then keep the host. What fails here leaves a new host unlisted."""
    host, fingerprint = wanted.host, wanted.fingerprint
    new = host.status == HostStatus.NEW
    file = known_hosts(ctx)
    was_pinned = host_keys.lookup(file, host.address, host.port)
    began = time.monotonic()
    on_step(StepEvent(host.name, "log in and look around", "started", 0.0))
    try:
        if was_pinned is None:
            contact = host_keys.first_contact(host.address, host.port, expected=fingerprint)
            host_keys.pin(file, host.address, host.port, contact.key)
        elif host_keys.fingerprint(was_pinned) != fingerprint:
            raise HostKeyError(f"{host.name}: the pinned key is {host_keys.fingerprint(was_pinned)}")
        seen = look_around(ctx, host, wanted.scope)
    except HostError as error:
        if was_pinned is None:
            host_keys.forget(file, host.address, host.port)
        on_step(StepEvent(host.name, "log in and look around", "failed", time.monotonic() - began, str(error)))
        raise
    on_step(StepEvent(host.name, "log in and look around", "ok", time.monotonic() - began, _no_root(seen)))
    if new:
        ctx.store.hosts.add(host)
    else:
        ctx.store.hosts.edit(host)
    ctx.store.hosts.move(host.id, HostStatus.PROVISIONING)
    ctx.bell.ring()
    return host, seen


def _no_root(seen: Preflight) -> str:
    """What a person should know who expected a system service and gets none."""
    why = {"password": "sudo asks for a password", "none": "there is no sudo"}.get(seen.sudo)
    return f"{why}, so the runner will be a process of {seen.user}" if why and seen.scope == "user" else ""


def _provision(
    ctx: Context, entered: Sequence[tuple[Host, Preflight]], on_step: Callable[[StepEvent], None]
) -> dict[str, Added]:
    zipapp = os.path.join(ctx.folder, "ansible", "runner.pyz")
    try:
        os.makedirs(os.path.dirname(zipapp), mode=0o700, exist_ok=True)
        build_runner(zipapp)
        outcomes = run_playbook(
            "host.yml",
            [target_of(host) for host, _ in entered],
            known_hosts=known_hosts(ctx),
            log=log_path(ctx, "add"),
            variables={host.name: runner_variables(seen, zipapp) for host, seen in entered},
            on_event=on_step,
        )
    except Exception as error:  # whatever it is, no host may stay as if it were still being added
        for host, _ in entered:
            ctx.store.hosts.move(host.id, HostStatus.BROKEN, str(error))
        return {host.name: Added(host.name, 0, _told(host, error)) for host, _ in entered}
    results = {}
    for host, _ in entered:
        outcome = outcomes[host.name]
        if outcome.error is None:
            ctx.keeper.keep(host)
        else:
            ctx.store.hosts.move(host.id, HostStatus.BROKEN, reason_of(host, outcome.error))
        results[host.name] = Added(host.name, outcome.changed, outcome.error)
    for host, _ in entered:
        if results[host.name].error is None:
            results[host.name] = _await_ready(ctx, host, results[host.name], on_step)
    ctx.bell.ring()
    return results


def _await_ready(ctx: Context, host: Host, added: Added, on_step: Callable[[StepEvent], None]) -> Added:
    """The link's keeper makes the host ready once its runner has told its facts."""
    began = time.monotonic()
    on_step(StepEvent(host.name, "link to the runner", "started", 0.0))
    while True:
        seen = ctx.bell.count
        if ctx.store.hosts.get(host.id).status != HostStatus.PROVISIONING:
            break
        if time.monotonic() - began > _LINK_S:
            error = UnreachableError(f"{host.name}: its runner did not answer within {_LINK_S:.0f} s", hint="pool ps")
            ctx.keeper.drop(host.id)
            ctx.store.hosts.move(host.id, HostStatus.BROKEN, reason_of(host, error))
            on_step(StepEvent(host.name, "link to the runner", "failed", time.monotonic() - began, str(error)))
            return replace(added, error=error)
        ctx.bell.wait(seen, 1.0)
    on_step(StepEvent(host.name, "link to the runner", "ok", time.monotonic() - began))
    return added


def _told(host: Host, error: Exception) -> PoolError:
    if isinstance(error, PoolError):
        return error
    _log.error("adding %s", host.name, exc_info=error)
    return PoolError(f"{host.name}: the server stumbled: {error!r}", hint="see server.log in the state folder")


def reason_of(host: Host, error: PoolError) -> str:
    """What an error says about the host, without the name that a list of hosts shows anyway."""
    return str(error).removeprefix(f"{host.name}: ")
