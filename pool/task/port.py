"""Ports to forward: `6000`, `80:8080`, `*:8080`, {local_port, container_port}; local first, as in ssh and docker."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from pool.run import Port
from pool.task.mistake import mistake
from pool.task.scalar import plain, show, within

_FORMS = 'write 8080, 80:8080 (local:container) or "*:8080" (any free local port)'


def _number(value: Any) -> int:
    text = str(value).strip()
    if isinstance(plain(value), bool) or not (text.isascii() and text.isdigit()) or len(text) > 9:
        raise mistake(f"{show(value)} is not a port", _FORMS)
    if not 1 <= int(text) <= 65535:
        raise mistake(f"port {int(text)} is not between 1 and 65535", _FORMS)
    return int(text)


def parse_port(value: Any) -> Port:
    """One port in any form; `local` is None where any free one will do."""
    if isinstance(value, Port):
        return value
    if isinstance(value, dict):
        for key in value:
            if key not in ("local_port", "container_port"):
                raise mistake(
                    f"unknown key {show(key)}", "a port has local_port and container_port", (key,), at_key=True
                )
        if value.get("container_port") is None:
            raise mistake("container_port is missing", "write {local_port: 80, container_port: 8080}")
        local = value.get("local_port")
        return Port(
            container=within("container_port", _number, value["container_port"]),
            local=None if local is None else within("local_port", _number, local),
        )
    if not isinstance(value, (str, int)):
        raise mistake(f"{show(value)} is not a port", _FORMS)
    if str(value).count(":") > 1:
        raise mistake(f"{show(value)} names an address", "write local:container; it is always at 127.0.0.1")
    left, colon, right = str(value).strip().partition(":")
    if not colon:
        return Port(container=_number(value), local=_number(value))
    return Port(container=_number(right), local=None if left.strip() == "*" else _number(left))


def parse_ports(value: Any) -> tuple[Port, ...]:
    """A list of ports; two equal ports are refused."""
    if not isinstance(value, (list, tuple)):
        raise mistake(f"expected a list of ports, not {show(value)}", "write each port on its own line with `- `")
    found = tuple(within(i, parse_port, item) for i, item in enumerate(value))
    clash = equal_port(found)
    if clash:
        raise mistake(clash[1], "remove one of the two", (clash[0],))
    return found


def equal_port(ports: Sequence[Port]) -> tuple[int, str] | None:
    """The first of `ports` that shares a container port or a local port with one before it, and what is wrong."""
    containers: set[int] = set()
    taken: set[int] = set()
    for i, port in enumerate(ports):
        if port.container in containers:
            return i, f"container port {port.container} is forwarded twice"
        if port.local in taken:
            return i, f"local port {port.local} is used twice"
        containers.add(port.container)
        if port.local is not None:
            taken.add(port.local)
    return None


def override_ports(ports: Iterable[Port], overrides: Iterable[Port]) -> tuple[Port, ...]:
    """`ports` with `overrides` added; an override of the same container port takes its place."""
    found = {port.container: port for port in ports}
    found.update({port.container: port for port in overrides})
    return tuple(found.values())


def format_port(port: Port) -> str:
    """The canonical spelling."""
    if port.local is None:
        return f"*:{port.container}"
    return str(port.container) if port.local == port.container else f"{port.local}:{port.container}"
