"""The host a person asked for: what was typed after `pool add-ssh`, checked and completed, before anything is asked
of the network."""

from __future__ import annotations

import getpass
import os
import re
from ipaddress import ip_address, ip_network
from typing import Any

from pool.errors import InputError
from pool.host import Host, Jump
from pool.ssh.destination import (
    JUMPS_MAX,
    parse_destination,
    parse_jump,
    resolve_alias,
    validate_host,
    validate_key_path,
    validate_port,
    validate_user,
)

#: An interpreter's path: nothing in it that a shell or Ansible would take for more.
_PYTHON = re.compile(r"/[A-Za-z0-9._/+-]{1,250}")
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


def host_wished(asked: dict[str, Any]) -> tuple[Host, list[str]]:
    """The host of `{"destination", "user", "port", "key", "jump", "name", "pool", …}`, and warnings; its id is not set.

    As with ssh, what stands in the destination wins over -l and -p, and those over ~/.ssh/config. InputError for what
    is not valid.
    """
    destination = parse_destination(str(asked["destination"]))
    alias = resolve_alias(destination.host)
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
        jumps=_jumps(asked.get("jump") or _not_itself(alias.jump, destination.host), key, asked.get("jump_key")),
        python=_python(asked.get("python")),
    )
    return host, [warning] if warning else []


def _jumps(text: str | None, key: str | None, jump_key: str | None = None, depth: int = 0) -> tuple[Jump, ...] | None:
    """The jump hosts of `-J text`, each completed from ~/.ssh/config; None where nothing was said.

    As with ssh, the first may itself be behind another, and the user is one's own. The key is `jump_key`, else what
    ~/.ssh/config names, else `key`, the host's.
    """
    if text is None:
        return None
    found: tuple[Jump, ...] = ()
    for hop in parse_jump(text):
        alias = resolve_alias(hop.host)
        beyond = _not_itself(alias.jump, hop.host)
        if not found and beyond and depth < JUMPS_MAX:
            found = _jumps(beyond, key, None, depth + 1) or ()
        written = jump_key or next(iter(alias.keys), None)
        own = _key(written)[0] if written else key
        user = hop.user or alias.user or getpass.getuser()
        found += (Jump(alias.host, hop.port or alias.port or 22, validate_user(user), own),)
    if len(found) > JUMPS_MAX:
        raise InputError(
            f"more than {JUMPS_MAX} jump hosts: is there a loop?", hint="look at ProxyJump in ~/.ssh/config"
        )
    return found


def _not_itself(jump: str | None, host: str) -> str | None:
    """What ~/.ssh/config has as ProxyJump of `host`, unless that is the jump host itself, as below `Host *`."""
    return None if jump is None or any(hop.host == host for hop in parse_jump(jump)) else jump


def _python(text: str | None) -> str | None:
    if text is not None and not _PYTHON.fullmatch(text):
        raise InputError(f"--python: not a plain absolute path: {text!a}", hint="--python /usr/bin/python3.11")
    return text


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


def _price(value: float | str | None) -> float:
    try:
        price = float(value or 0)
    except ValueError:
        price = -1
    if not 0 <= price < 1e6:
        raise InputError(f"--price: not a price an hour: {value!a}", hint="--price 1.50")
    return price
