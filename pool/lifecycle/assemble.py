"""Puts a server's parts together: store, links, loop. What an earlier server left half done is taken up here."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pool.errors import AuthenticationError
from pool.lifecycle import watch
from pool.lifecycle.context import Context
from pool.lifecycle.keeper import Keeper
from pool.lifecycle.tick import Loop
from pool.ssh.destination import Target
from pool.ssh.identity import own_key
from pool.ssh.link import Link
from pool.states import HostStatus
from pool.store.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable

    from pool.host import Host

_LINKED = (HostStatus.READY, HostStatus.UNREACHABLE, HostStatus.DRAINING)


def assemble(folder: str, on_fenced: Callable[[], None]) -> tuple[Context, Loop]:
    """A context on the state folder `folder` with its links opening, and its loop, not yet started."""
    store = Store(folder)
    ctx = Context(folder, store, store.next_epoch())
    ctx.keeper = Keeper(
        lambda host, on_event, on_down: _open_link(ctx, host, on_event, on_down),
        on_up=lambda host, link: watch.host_up(ctx, host, link),
        on_down=lambda host, reason: watch.host_down(ctx, host, reason),
        on_event=lambda host, head: watch.host_event(ctx, host, head),
        on_fenced=on_fenced,
    )
    store.secrets.sweep({run.id for run in store.runs.live()})
    for host in store.hosts.all():
        if host.status == HostStatus.DRAINING and host.reason is None:  # its removal was cut off
            store.hosts.move(host.id, HostStatus.READY)
        if host.status in _LINKED:
            ctx.keeper.keep(host)
        elif host.status in (HostStatus.NEW, HostStatus.PROVISIONING):
            store.hosts.move(host.id, HostStatus.BROKEN, "adding it was interrupted; run pool add-ssh again")
    return ctx, Loop(ctx)


def target_of(host: Host) -> Target:
    """Where and as whom to connect to `host` to provision it."""
    return Target(host.name, host.address, host.port, host.user, host.key, host.jumps or ())


def link_target(ctx: Context, host: Host) -> Target:
    """Where and as whom to connect to its runner."""
    if host.login is None:
        return target_of(host)
    return replace(target_of(host), user=host.login, key=own_key(ctx.folder))


def known_hosts(ctx: Context) -> str:
    """The file of pinned host keys."""
    return os.path.join(ctx.folder, "known_hosts")


def _open_link(
    ctx: Context, host: Host, on_event: Callable[[dict[str, Any]], None], on_down: Callable[[], None]
) -> Link:
    try:
        return Link(
            link_target(ctx, host),
            known_hosts(ctx),
            pool_id=ctx.store.pool_id,
            epoch=ctx.epoch,
            on_event=on_event,
            on_down=on_down,
        )
    except AuthenticationError as error:
        if host.login is None or "hop" in error.details:
            raise
        message = f"{host.name}: it lets {host.login} in no longer with this server's own key"
        raise AuthenticationError(message, hint=f"pool provision {host.name}", host=host.name) from error
