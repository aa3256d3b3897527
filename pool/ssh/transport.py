"""One TCP connection and one SSH handshake: the sockets' settings, the preferred algorithms, the errors' translation.

Measured: without TCP_NODELAY each exchange waits about 40 ms, and without TCP_USER_TIMEOUT a host that is gone is never
noticed, whatever keepalives paramiko sends.
"""

from __future__ import annotations

import errno
import logging
import random
import re
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, TypeVar

import paramiko
from paramiko.ssh_exception import (
    AuthenticationException,
    BadAuthenticationType,
    BadHostKeyException,
    ChannelException,
    IncompatiblePeer,
    PasswordRequiredException,
    SSHException,
)

from pool.errors import AuthenticationError, HostError, HostKeyError, UnreachableError

#: How long sent bytes may go unacknowledged before the kernel gives the connection up.
USER_TIMEOUT_MS: Final = 15_000
#: How often a connection that the host drops before its banner is tried again (MaxStartups drops some at random).
RETRIES: Final = 3

_KEX_FIRST: Final = ("curve25519-sha256@libssh.org", "curve25519-sha256", "ecdh-sha2-nistp256")
_CIPHERS_FIRST: Final = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com", "aes128-ctr")

# paramiko logs each failure with a traceback, which Python prints where nobody set logging up; the errors say it all.
logging.getLogger("paramiko").addHandler(logging.NullHandler())

T = TypeVar("T")


def dial(address: str, port: int, timeout: float, name: str) -> socket.socket:
    """A connected TCP socket without delay and with a bound on unacknowledged bytes; UnreachableError names `name`."""
    try:
        sock = socket.create_connection((address, port), timeout=timeout)
    except OSError as exc:
        raise translate(exc, name, f"{address} port {port}") from exc
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT_MS)
    return sock


def transport(
    sock: socket.socket, *, key_types: Sequence[str] = (), timeout: float = 10.0, **options: Any
) -> paramiko.Transport:
    """An SSH transport over `sock`, not yet started, that accepts host keys of `key_types` only (empty = of any type).

    A quick key exchange and cipher come first where the installed paramiko has them.
    """
    made = paramiko.Transport(sock, **options)
    security = made.get_security_options()
    security.kex = _first(_KEX_FIRST, security.kex)
    security.ciphers = _first(_CIPHERS_FIRST, security.ciphers)
    if key_types:
        security.key_types = tuple(t for t in key_types if t in security.key_types)
    made.banner_timeout = made.handshake_timeout = made.auth_timeout = made.channel_timeout = timeout
    return made


def retrying(attempt: Callable[[], T]) -> T:
    """What `attempt` returns; tried again, after a random pause, when the host hung up before its banner."""
    for tried in range(RETRIES):
        try:
            return attempt()
        except (SSHException, EOFError, ConnectionResetError) as exc:
            if not dropped_early(exc):
                raise
            time.sleep(random.uniform(0.1, 0.5) * 2**tried)  # noqa: S311 - a pause, not a secret
    return attempt()


def dropped_early(exc: BaseException) -> bool:
    """True when the host closed the connection before its banner, as it does over MaxStartups or for a penalty."""
    if isinstance(exc, SSHException):
        cause = exc.__context__ or exc.__cause__
        return "SSH protocol banner" in str(exc) and not isinstance(cause, TimeoutError)
    return isinstance(exc, ConnectionResetError)


def translate(
    exc: BaseException, name: str, where: str = "", *, login: str = "USER@HOST", port: int = 22, key: str | None = None
) -> HostError:
    """The error of ours that says what a foreign exception of paramiko or of a socket means for the host `name`.

    `login`, `port` and `key` are what the hint to a refused login repeats.
    """
    at = f" ({where})" if where and where != name else ""
    if isinstance(exc, HostError):
        return exc
    if isinstance(exc, BadHostKeyException):
        return HostKeyError(f"{name}: the host key is not the pinned one", hint=rekey_hint(name), host=name)
    if isinstance(exc, AuthenticationException) and not re.search("timeout|EOF", str(exc)):
        return _authentication(exc, name, login, port, key)
    if "No authentication methods available" in str(exc):
        return AuthenticationError(f"{name}: there is no key to log in with", hint="-i KEY, or: ssh-add KEY", host=name)
    if isinstance(exc, IncompatiblePeer):
        return UnreachableError(f"{name}{at}: no common SSH algorithm: {exc}", hint=f"ssh -v {name}", host=name)
    if isinstance(exc, ChannelException):
        return UnreachableError(
            f"{name}: the host refused a session ({exc.text})", hint="look at MaxSessions in its sshd_config", host=name
        )
    reason, hint = _reason(exc)
    return UnreachableError(f"{name}{at}: {reason}", hint=hint, host=name)


def rekey_hint(name: str) -> str:
    """What to type after a host's key changed, once it is known why."""
    return f"ask its owner whether the key changed; then: pool rm {name}, and add it again with --fingerprint"


def _authentication(
    exc: AuthenticationException, name: str, login: str, port: int, key: str | None
) -> AuthenticationError:
    if isinstance(exc, PasswordRequiredException):
        message = f"{name}: the key is encrypted and no agent holds it"
        return AuthenticationError(message, hint=f"ssh-add {key or 'KEY'}", host=name)
    if isinstance(exc, BadAuthenticationType) and "publickey" not in exc.allowed_types:
        allowed = ", ".join(map(str, exc.allowed_types)) or "nothing"
        message = f"{name}: the host does not take keys from {login} (it allows {allowed})"
        return AuthenticationError(message, hint="look at PubkeyAuthentication in its sshd_config", host=name)
    message = f"{name}: {login} is refused with {f'the key {key}' if key else 'every key there is'}"
    option = "" if port == 22 else f"-p {port} "
    return AuthenticationError(message, hint=f"ssh-copy-id -i {key or 'KEY'}.pub {option}{login}", host=name)


def _reason(exc: BaseException) -> tuple[str, str | None]:
    cause = exc.__context__ or exc.__cause__
    if isinstance(exc, socket.gaierror):
        return "no such host name", "check the spelling, or give an IP address"
    if "SSH protocol banner" in str(exc):
        if isinstance(cause, TimeoutError):
            return "it answers, but not as an SSH server", "is it frozen, or is this another service's port? -p PORT"
        return "it closes the connection at once", "try again in a minute: sshd limits new connections"
    if isinstance(exc, AuthenticationException):
        return "the host hung up during the login", "are there too many keys in the agent? -i KEY"
    if isinstance(exc, TimeoutError):
        return "no answer", "is it up, and does a firewall let SSH through?"
    if isinstance(exc, OSError):
        number = exc.errno
        if number == errno.ECONNREFUSED:
            return "the connection was refused", "is sshd running there? another port: -p PORT"
        if number in (errno.EHOSTUNREACH, errno.ENETUNREACH):
            return "no route to it", "is it up, and are you in its network?"
        return f"the connection failed ({exc.strerror or exc})", None
    if isinstance(exc, EOFError):
        return "the connection was closed", None
    return str(exc) or type(exc).__name__, None


def _first(wanted: Iterable[str], available: Sequence[str]) -> tuple[str, ...]:
    first = tuple(name for name in wanted if name in available)
    return first + tuple(name for name in available if name not in first)
