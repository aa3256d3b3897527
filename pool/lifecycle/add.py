"""Add: from a destination a person typed to a host that takes jobs.

    look     resolve the destination, ask for its host key: nothing is changed, nothing authenticated
    add      pin the key ─▶ log in, look around, plan ─▶ keep the host ─▶ lifecycle/provision ─▶ ready
                 └─ failed, or a dry run: the pin goes, the host is not listed    └─ failed: listed as broken

Hosts of one call go side by side; one that fails or is slow holds up no other.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pool.errors import ConflictError, HostKeyError
from pool.lifecycle.assemble import known_hosts
from pool.lifecycle.keys import KeySeen, approach, forget_unused, pin_jumps, see
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
    """What `look` saw of one destination: the host as it would be added, and the keys on the way and its own."""

    host: Host
    jumps: tuple[KeySeen, ...]  #: the keys of its jump hosts, as far as they were seen
    key: KeySeen | None  #: its own key; None: that of the last of `jumps` has to be agreed to first


@dataclass(frozen=True, slots=True)
class Wanted:
    """One host to add: the key a person has agreed to, and how its runner shall be installed."""

    host: Host
    fingerprint: str
    scope: Scope | None = None  #: None: as a system service where the host allows it, else as the user's own process
    jump_fingerprints: tuple[str | None, ...] = ()  #: the keys agreed to of its jump hosts, in order


def look(ctx: Context, wish: Host, fingerprint: str | None, jump_fingerprints: Sequence[str | None] = ()) -> Sight:
    """Ask the host for its key. HostKeyError when it is not the pinned one, or not `fingerprint`.

    A jump host is asked first, and logged in to when its key is trusted: there is no other way to ask what is behind.
    """
    host = _known_as(ctx, wish)
    with approach(ctx, host, jump_fingerprints) as (way, seen):
        if seen and seen[-1].trusted is None:
            return Sight(host, tuple(seen), None)
        return Sight(host, tuple(seen), see(ctx, host.name, host.address, host.port, fingerprint, way))


def add(
    ctx: Context, wanted: Sequence[Wanted], on_step: Callable[[StepEvent], None], manner: Manner = _PLAIN
) -> list[Added]:
    """Add each host; one outcome a host, in order."""
    results: dict[str, Added] = {}
    before = ctx.store.hosts.all()
    entered: list[Entered] = []
    for each, outcome in zip(wanted, ctx.every(lambda each: _enter(ctx, each, manner, on_step), wanted), strict=True):
        if isinstance(outcome, Exception):
            results[each.host.name] = Added(each.host.name, 0, told(each.host, outcome))
        else:
            entered.append(outcome)
    try:
        if entered:
            results |= converge(ctx, entered, manner, on_step)
    finally:  # the keys of hosts that did not come into the pool, or of a dry run, and of jump hosts of before
        forget_unused(ctx, [*before, *(each.host for each in wanted)])
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
            jumps = host.jumps if wish.jumps is None else wish.jumps
            return replace(wish, id=host.id, name=host.name, status=host.status, facts=host.facts, jumps=jumps)
        if host.name == wish.name:
            raise ConflictError(f"there is a host named {wish.name} already", hint="name this one with --name")
    return replace(wish, id=secrets.token_hex(8))


def _enter(ctx: Context, wanted: Wanted, manner: Manner, on_step: Callable[[StepEvent], None]) -> Entered:
    """Pin, log in, look around, and only then keep the host. What fails here leaves a new host unlisted."""
    host = wanted.host
    _pin(ctx, wanted)
    entered = look_and_plan(ctx, host, wanted.scope, manner, on_step)
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
    """Pin the keys that a person agreed to; HostKeyError when the host shows another, or another is pinned."""
    host, file = wanted.host, known_hosts(ctx)
    pinned = host_keys.lookup(file, host.address, host.port)
    with approach(ctx, host, wanted.jump_fingerprints) as (way, jumps):
        pin_jumps(ctx, host, jumps)
        if pinned is None:
            contact = host_keys.first_contact(host.address, host.port, expected=wanted.fingerprint, dial=way.dial)
            host_keys.pin(file, host.address, host.port, contact.key)
    if pinned is not None and host_keys.fingerprint(pinned) != wanted.fingerprint:
        raise HostKeyError(f"{host.name}: the pinned key is {host_keys.fingerprint(pinned)}")
