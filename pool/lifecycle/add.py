"""Add: from a destination a person typed to a host that takes jobs.

    look     resolve the destination, ask for its host key: nothing is changed, nothing authenticated
    add      pin the key ─▶ log in, look around, plan ─▶ keep the host ─▶ lifecycle/provision ─▶ ready
                 └─ failed, or a dry run: the pin goes, the host is not listed    └─ failed: listed as broken

Hosts of one call go side by side; one that fails or is slow holds up no other.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pool.errors import ConflictError, HostError, HostKeyError
from pool.lifecycle.assemble import known_hosts
from pool.lifecycle.provision import Added, Entered, Manner, converge, look_and_plan, told
from pool.ssh import host_keys
from pool.states import HostStatus

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pool.host import Host
    from pool.lifecycle.context import Context
    from pool.provision.preflight import Scope
    from pool.provision.progress import StepEvent

_PLAIN = Manner()


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


def add(
    ctx: Context, wanted: Sequence[Wanted], on_step: Callable[[StepEvent], None], manner: Manner = _PLAIN
) -> list[Added]:
    """Add each host; one outcome a host, in order."""
    results: dict[str, Added] = {}
    entered: list[Entered] = []
    pinned = {each.host.id for each in wanted if _is_pinned(ctx, each.host)}
    for each, outcome in zip(wanted, ctx.every(lambda each: _enter(ctx, each, manner, on_step), wanted), strict=True):
        if isinstance(outcome, Exception):
            results[each.host.name] = Added(each.host.name, 0, told(each.host, outcome))
        else:
            entered.append(outcome)
    try:
        if entered:
            results |= converge(ctx, entered, manner, on_step)
    finally:
        for host in (entry.host for entry in entered if manner.dry_run and entry.host.id not in pinned):
            host_keys.forget(known_hosts(ctx), host.address, host.port)
    return [results[each.host.name] for each in wanted]


def _is_pinned(ctx: Context, host: Host) -> bool:
    return host_keys.lookup(known_hosts(ctx), host.address, host.port) is not None


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


def _enter(ctx: Context, wanted: Wanted, manner: Manner, on_step: Callable[[StepEvent], None]) -> Entered:
    """Pin, log in, look around, and only then keep the host. What fails here leaves a new host unlisted."""
    host = wanted.host
    was_pinned = _is_pinned(ctx, host)
    try:
        _pin(ctx, wanted)
        entered = look_and_plan(ctx, host, wanted.scope, manner, on_step)
    except HostError:
        if not was_pinned:
            host_keys.forget(known_hosts(ctx), host.address, host.port)
        raise
    if manner.dry_run:
        return entered
    if host.status == HostStatus.NEW:
        ctx.store.hosts.add(host)
    else:
        ctx.store.hosts.edit(host)
    ctx.store.hosts.move(host.id, HostStatus.PROVISIONING)
    ctx.bell.ring()
    return entered


def _pin(ctx: Context, wanted: Wanted) -> None:
    """Pin the key that a person agreed to; HostKeyError when the host shows another, or another is pinned."""
    host, file = wanted.host, known_hosts(ctx)
    pinned = host_keys.lookup(file, host.address, host.port)
    if pinned is None:
        contact = host_keys.first_contact(host.address, host.port, expected=wanted.fingerprint)
        host_keys.pin(file, host.address, host.port, contact.key)
    elif host_keys.fingerprint(pinned) != wanted.fingerprint:
        raise HostKeyError(f"{host.name}: the pinned key is {host_keys.fingerprint(pinned)}")
