"""Where and as whom to connect: what a person typed, checked strictly.

A host name, user or path that is let through here later stands in an argv of `ssh` and in an Ansible inventory, where a
leading dash is an option and braces are a template. So only plain characters pass, and everything else is refused
before anything is done with it. `~/.ssh/config` is read for aliases; nothing in it is ever executed.
"""

from __future__ import annotations

import glob
import os
import re
import stat
from dataclasses import dataclass
from ipaddress import IPv6Address
from typing import Final

from pool.errors import InputError
from pool.host import Jump

HOST_MAX: Final = 253
USER_MAX: Final = 64
#: More jump hosts than this are taken for a loop.
JUMPS_MAX: Final = 8

_HOST: Final = re.compile(r"[A-Za-z0-9._][A-Za-z0-9._-]*")
_USER: Final = re.compile(r"[A-Za-z0-9._][A-Za-z0-9._-]*")
_PORT: Final = re.compile(r"[0-9]{1,5}")
#: A port after a name or after brackets; a bare IPv6 address has none.
_WITH_PORT: Final = re.compile(r"^[^:]*:[^:]*$|\]:")
#: What ssh expands or ends an argument at, and what Ansible takes for a template.
_PATH_REFUSED: Final = re.compile(r"[\x00-\x1f\x7f\"'%$`\\;]|\{[{%#]")
#: The only words of an ssh_config that are read; the rest (ProxyCommand, LocalCommand, …) is dropped unread.
_CONFIG_WORDS: Final = frozenset({"host", "hostname", "user", "port", "identityfile", "proxyjump"})
#: What a `Match` may test here; a block that tests anything else (`exec`, first of all) does not apply.
_MATCH_WORDS: Final = frozenset({"all", "host", "originalhost", "user", "localuser"})
_INCLUDE_DEPTH: Final = 8


@dataclass(frozen=True, slots=True)
class Destination:
    """What was typed as DEST: a host, and the user and port where they were given with it."""

    host: str
    user: str | None = None
    port: int | None = None


@dataclass(frozen=True, slots=True)
class Target:
    """Where and as whom to connect, complete."""

    name: str  #: the host's name in the pool, for messages
    address: str  #: host name, IPv4 or IPv6 without brackets
    port: int
    user: str
    key: str | None  #: path of the private key; None = the agent's keys and the usual files in ~/.ssh
    jumps: tuple[Jump, ...] = ()  #: the jump hosts on the way, the nearest first


@dataclass(frozen=True, slots=True)
class Alias:
    """What `~/.ssh/config` says about a host; `host` is the HostName, or the alias itself where it has none."""

    host: str
    user: str | None = None
    port: int | None = None
    keys: tuple[str, ...] = ()  #: existing IdentityFiles, in order
    jump: str | None = None  #: ProxyJump as written, one hop or several


def parse_destination(text: str) -> Destination:
    """`host`, `user@host`, `ssh://[user@]host[:port]`, with IPv6 bare or in brackets; InputError for anything else."""
    url = text[:6].lower() == "ssh://"
    rest = text[6:].removesuffix("/") if url else text
    user, at, address = rest.rpartition("@")
    port: int | None = None
    bracketed = re.fullmatch(r"\[([^\[\]]*)\](?::(.*))?", address, re.DOTALL)
    if bracketed:
        address, port_text = bracketed[1], bracketed[2]
        if ":" not in address:
            raise InputError(f"only an IPv6 address stands in brackets: {_show(text)}")
    elif address.count(":") == 1:
        address, _, port_text = address.partition(":")
    else:
        port_text = None
    if port_text is not None:
        if not url:
            raise InputError(
                f"a port is not written that way: {_show(text)}", hint="give the port with -p PORT, or ssh://HOST:PORT"
            )
        port = validate_port(port_text)
    return Destination(validate_host(address), validate_user(user) if at else None, port)


def parse_jump(text: str) -> tuple[Destination, ...]:
    """The hops of `[user@]host[:port],…`, as for `ssh -J`, the nearest first; () for `none`; else InputError."""
    if text.lower() == "none":
        return ()
    hops = text.split(",")
    if len(hops) > JUMPS_MAX:
        raise InputError(f"more than {JUMPS_MAX} jump hosts: {_show(text)}")
    return tuple(
        parse_destination(hop if "://" in hop or not _WITH_PORT.search(hop) else f"ssh://{hop}") for hop in hops
    )


def validate_host(text: str) -> str:
    """`text` when it is a plain host name, IPv4 or IPv6 address (without a zone); else InputError."""
    if ":" in text:
        try:
            if "%" in text:
                raise ValueError
            return str(IPv6Address(text))
        except ValueError:
            raise InputError(f"not an IPv6 address: {_show(text)}") from None
    if len(text) > HOST_MAX or not _HOST.fullmatch(text) or text.strip(".") == "":
        raise InputError(f"not a host name: {_show(text)}", hint="letters, digits, dots and inner dashes only")
    return text


def validate_user(text: str) -> str:
    """`text` when it is a plain login name; else InputError."""
    if len(text) > USER_MAX or not _USER.fullmatch(text):
        raise InputError(f"not a user name: {_show(text)}", hint="letters, digits, dots, dashes and underscores only")
    return text


def validate_port(value: str | int) -> int:
    """`value` as a port, 1 to 65535; else InputError."""
    text = str(value)
    if not _PORT.fullmatch(text) or not 0 < int(text) < 65536:
        raise InputError(f"not a port (1 to 65535): {_show(text)}")
    return int(text)


def validate_key_path(text: str) -> tuple[str, str | None]:
    """The absolute path of a private key file, and a warning when others may read it.

    InputError when it is missing, unreadable, a public key, or has a path that ssh or Ansible would not take literally.
    """
    path = os.path.abspath(os.path.expanduser(text))
    if not text or _PATH_REFUSED.search(path):
        raise InputError(f"not a path to use a key from: {_show(text)}", hint="copy the key to a plainer path")
    try:
        mode = os.stat(path)
        if not stat.S_ISREG(mode.st_mode):
            raise InputError(f"not a file: {path}")
        with open(path, "rb") as file:
            head = file.read(64)
    except OSError as exc:
        raise InputError(f"cannot read the key {path}: {exc.strerror}", hint=f"ls -l {path}") from exc
    if not head.startswith(b"-----BEGIN "):
        if path.endswith(".pub") or head.startswith((b"ssh-", b"ecdsa-", b"sk-")):
            raise InputError(f"this is the public key: {path}", hint=f"-i {path.removesuffix('.pub')}")
        raise InputError(f"not a private key: {path}", hint="ssh-keygen -t ed25519")
    if mode.st_mode & 0o077:
        return path, f"others may read {path} (mode {stat.S_IMODE(mode.st_mode):04o}): chmod 600 {path}"
    return path, None


def resolve_alias(host: str, config: str = "~/.ssh/config") -> Alias:
    """What the ssh_config file `config` says about `host`; everything it says is checked as if it had been typed.

    Only HostName, User, Port, IdentityFile and ProxyJump count. `Match exec` and ProxyCommand are never executed.
    """
    import paramiko

    path = os.path.expanduser(config)
    parsed = paramiko.SSHConfig()
    try:
        parsed.parse(_plain_lines(path, 0))
        found = parsed.lookup(host)
    except (paramiko.SSHException, ValueError, KeyError) as exc:
        raise InputError(f"cannot read {path}: {exc}", hint=f"ssh -G {host}") from exc
    keys = tuple(k for k in map(os.path.expanduser, found.get("identityfile", ())) if os.path.isfile(k))
    jump = found.get("proxyjump")
    return Alias(
        host=validate_host(str(found["hostname"])),
        user=validate_user(str(found["user"])) if "user" in found else None,
        port=validate_port(str(found["port"])) if "port" in found else None,
        keys=keys,
        jump=str(jump) if jump is not None and parse_jump(str(jump)) else None,
    )


def _plain_lines(path: str, depth: int) -> list[str]:
    """The lines of an ssh_config that are safe to hand to a parser which would run `Match exec`."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            lines = file.read(1 << 20).splitlines()
    except OSError:
        return []
    kept: list[str] = []
    applies = True
    for line in lines:
        words = re.split(r"[\s=]+", line.strip(), maxsplit=1)
        word, rest = words[0].lower(), words[1] if len(words) > 1 else ""
        if word == "match":
            applies = _may_match(rest)
        elif word == "host":
            applies = True
        elif word == "include" and applies and depth < _INCLUDE_DEPTH:
            kept += _included(rest, os.path.dirname(path), depth + 1)
            continue
        if applies and rest and (word in _CONFIG_WORDS or word == "match"):
            kept.append(line)
    return kept


def _included(patterns: str, folder: str, depth: int) -> list[str]:
    found: list[str] = []
    for pattern in patterns.replace('"', "").split():
        for path in sorted(glob.glob(os.path.join(folder, os.path.expanduser(pattern)))):
            found += _plain_lines(path, depth)
    return found


def _may_match(criteria: str) -> bool:
    words = criteria.replace("=", " ").split()
    if [w.lower() for w in words] == ["all"]:
        return True
    keywords = [w.lstrip("!").lower() for w in words[::2]]
    return len(words) % 2 == 0 and all(k in _MATCH_WORDS - {"all"} for k in keywords)


def _show(text: str) -> str:
    """`text` for a message: on one line, nothing in it that a terminal would obey, not too long."""
    shown = ascii(text)
    return shown if len(shown) <= 80 else shown[:76] + "…'"
