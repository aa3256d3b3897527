"""The keys of the machines on the way to a host: each is looked at before anything is sent to it, agreed to, pinned."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pool.errors import HostError, HostKeyError
from pool.lifecycle.assemble import known_hosts
from pool.ssh import host_keys
from pool.ssh.connection import pass_through
from pool.ssh.way import Way

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import paramiko

    from pool.host import Host, Jump
    from pool.lifecycle.context import Context


@dataclass(frozen=True, slots=True)
class KeySeen:
    """The key that a machine showed, and what vouches for it."""

    address: str
    port: int
    key: paramiko.PKey
    trusted: str | None  #: fingerprint | known_hosts | pinned; None: a person has to say

    @property
    def fingerprint(self) -> str:
        """As ssh-keygen -l prints it."""
        return host_keys.fingerprint(self.key)


def see(ctx: Context, name: str, address: str, port: int, expected: str | None, way: Way) -> KeySeen:
    """Ask a machine for its key, along `way`. HostKeyError when it is not the pinned one, or not `expected`."""
    if expected is not None:
        expected = host_keys.validate_fingerprint(expected)
    pinned = host_keys.lookup(known_hosts(ctx), address, port)
    try:
        if pinned is None:
            contact = host_keys.first_contact(address, port, expected=expected, dial=way.dial)
            return KeySeen(address, port, contact.key, contact.trusted)
        offered = host_keys.scan(address, port, dial=way.dial)
        if pinned not in offered:
            offered += host_keys.scan(address, port, every=True, dial=way.dial)
    except HostError as error:
        raise _under(name, host_keys.entry_name(address, port), error) from error
    if pinned not in offered:
        raise host_keys.changed(name, pinned, offered[0])
    if expected not in (None, host_keys.fingerprint(pinned)):
        raise HostKeyError(
            f"{name}: its pinned key is {host_keys.fingerprint(pinned)}, not {expected}",
            hint="leave the fingerprint out, or ask the host's owner which is right",
        )
    return KeySeen(address, port, pinned, "pinned")


@contextmanager
def approach(ctx: Context, host: Host, agreed: Sequence[str | None]) -> Iterator[tuple[Way, list[KeySeen]]]:
    """The way to `host`, open as far as the keys are trusted, and what was seen on it; closed again at the end.

    `agreed` are the fingerprints that a person expects of the jump hosts, in order. At one that nothing vouches for it
    ends, and nothing was sent to that. HostError names the jump host that fails.
    """
    way, seen = Way(), list[KeySeen]()
    try:
        for number, jump in enumerate(host.jumps or ()):
            seen.append(_see_jump(ctx, host, jump, agreed[number] if number < len(agreed) else None, way))
            if seen[-1].trusted is None:
                break
            pass_through(way, host.name, jump, seen[-1].key)
        yield way, seen
    finally:
        way.close()


def pin_jumps(ctx: Context, host: Host, seen: Sequence[KeySeen]) -> None:
    """Pin the keys of the jump hosts of `host`; HostKeyError when one is not trusted."""
    for each in seen:
        if each.trusted is None:
            message = f"{host.name}: jump host {each.address}: its host key is not known: {each.fingerprint}"
            raise HostKeyError(message, hint="add --jump-fingerprint", host=host.name, hop=each.address)
    for each in seen:
        host_keys.pin(known_hosts(ctx), each.address, each.port, each.key)


def forget_unused(ctx: Context, hosts: Sequence[Host]) -> None:
    """Drop the pins of these hosts, and of their jump hosts, that no host of the pool needs any more."""
    needed = {place for host in ctx.store.hosts.all() for place in _places(host)}
    for address, port in {place for host in hosts for place in _places(host)} - needed:
        host_keys.forget(known_hosts(ctx), address, port)


def _places(host: Host) -> list[tuple[str, int]]:
    return [(host.address, host.port), *((jump.address, jump.port) for jump in host.jumps or ())]


def _see_jump(ctx: Context, host: Host, jump: Jump, expected: str | None, way: Way) -> KeySeen:
    try:
        return see(ctx, f"{host.name}: jump host {jump.address}", jump.address, jump.port, expected, way)
    except HostKeyError as error:
        hint = f"ask its owner whether the key changed; then: pool rm {host.name}, and whatever else is behind it"
        hint = hint if "changed: pinned" in error.message else error.hint or hint
        raise HostKeyError(error.message, hint=hint, host=host.name, hop=jump.address) from error
    except HostError as error:
        details = {"hop": jump.address} | error.details | {"host": host.name}
        raise type(error)(error.message, hint=error.hint, **details) from error


def _under(name: str, entry: str, error: HostError) -> HostError:
    """The error with the name that was typed: until a host is pinned, its address is all that it is known by there."""
    said = error.message.removeprefix(f"{name}: ").removeprefix(f"{entry}: ").removeprefix(f"{entry} ")
    message = f"{name} {said}" if said.startswith("(") else f"{name}: {said}"
    return type(error)(message, hint=error.hint, **(error.details | {"host": name, "step": "ask for its host key"}))
