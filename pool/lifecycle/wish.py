"""The host a person asked for: what was typed after `pool add-ssh`, checked and completed, before anything is asked
of the network."""

from __future__ import annotations

import getpass
import os
import re
from ipaddress import ip_address, ip_network
from typing import Any

from pool.errors import InputError
from pool.host import Host
from pool.ssh.destination import (
    parse_destination,
    resolve_alias,
    validate_host,
    validate_key_path,
    validate_port,
    validate_user,
)

_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


def host_wished(asked: dict[str, Any]) -> tuple[Host, list[str]]:
    """The host of `{"destination", "user", "port", "key", "name", "pool", …}`, and warnings; its id is not set.

    As with ssh, what stands in the destination wins over -l and -p, and those over ~/.ssh/config. InputError for what
    is not valid.
    """
    destination = parse_destination(str(asked["destination"]))
    alias = resolve_alias(destination.host)
    if alias.jump:
        raise InputError(f"{destination.host}: jump hosts are not supported yet (ProxyJump {alias.jump})")
    user = destination.user or asked.get("user") or alias.user or getpass.getuser()
    port = destination.port or asked.get("port") or alias.port or 22
    written = asked.get("key") or next(iter(alias.keys), None)
    key, warning = _key(str(written)) if written else (None, None)
    host = Host(
        id="",
        name=validate_host(asked.get("name") or destination.host),
        address=alias.host,
        port=validate_port(port),
        user=validate_user(user),
        key=key,
        pool=_word("--pool", asked.get("pool") or "default"),
        region=_word("--region", asked.get("region") or "remote"),
        network=_network(asked.get("network")),
        internal_ip=_ip(asked.get("internal_ip")),
        labels=tuple(sorted(_label(text) for text in asked.get("labels") or ())),
        price=_price(asked.get("price")),
    )
    return host, [warning] if warning else []


def _key(text: str) -> tuple[str, str | None]:
    """The path of the key, and a warning. InputError for one that OpenSSH, and so Ansible, would leave unused."""
    path, warning = validate_key_path(text)
    if warning and os.stat(path).st_uid == os.getuid():
        raise InputError(f"others may read the key {path}: ssh does not use such a key", hint=f"chmod 600 {path}")
    return path, warning


def _word(option: str, text: str) -> str:
    if not _WORD.fullmatch(text):
        raise InputError(f"{option}: not a plain word: {text!r}", hint="letters, digits, dots and dashes")
    return text


def _network(text: str | None) -> str | None:
    try:
        return str(ip_network(text)) if text else None
    except ValueError as error:
        raise InputError(f"--network: {error}", hint="--network 10.0.0.0/24") from None


def _ip(text: str | None) -> str | None:
    try:
        return str(ip_address(text)) if text else None
    except ValueError as error:
        raise InputError(f"--internal-ip: {error}", hint="--internal-ip 10.0.0.5") from None


def _label(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise InputError(f"--label: not NAME=VALUE: {text!r}", hint="--label rack=b2")
    return _word("--label", name), _word("--label", value)


def _price(value: float | None) -> float:
    price = float(value or 0)
    if not 0 <= price < 1e6:
        raise InputError(f"--price: not a price an hour: {value}")
    return price
