"""Opens a Fabric connection to a host whose key is pinned, and runs programs through it.

Refuses before it authenticates when the host does not show its pinned key. Reads no ssh_config, forwards no agent,
offers only the key it was given. Every exception of paramiko and of the socket comes out as a HostError that names the
host and says what to type next.
"""

from __future__ import annotations

import base64
import io
import os
import re
import shlex
import threading
import time
from collections.abc import Sequence
from typing import Any, Final

import fabric
import paramiko
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from paramiko.ssh_exception import BadHostKeyException, IncompatiblePeer, SSHException

from pool.errors import AuthenticationError, HostError, HostKeyError, UnreachableError
from pool.host import Jump
from pool.ssh import host_keys
from pool.ssh.destination import Target
from pool.ssh.transport import retrying, translate, transport
from pool.ssh.way import Way

#: What a host may answer to one command; a host is not trusted to stop by itself.
OUTPUT_MAX: Final = 16 << 20
_CHUNK: Final = 1 << 16
_KEY_CLASSES: Final[tuple[tuple[Any, type[paramiko.PKey]], ...]] = (
    (Ed25519PrivateKey, paramiko.Ed25519Key),
    (EllipticCurvePrivateKey, paramiko.ECDSAKey),
    (RSAPrivateKey, paramiko.RSAKey),
)


def connect(target: Target, known_hosts: str, *, timeout: float = 10.0) -> fabric.Connection:
    """An open connection to `target`, whose host key, and each jump host's, must be pinned in the file `known_hosts`.

    `timeout` bounds each step: TCP, banner, key exchange, login. A host that hangs up before its banner is tried again,
    three times at most. Raises UnreachableError, HostKeyError, AuthenticationError; for a jump host its message and
    `details["hop"]` name that. Closing the connection closes those to the jump hosts.
    """
    way = Way()
    try:
        for jump in target.jumps:
            pass_through(way, target.name, jump, host_keys.lookup(known_hosts, jump.address, jump.port), timeout)
        pinned = host_keys.lookup(known_hosts, target.address, target.port)
        connection = _log_in(target, pinned, way, timeout)
        way.end_with(connection)
        return connection
    except HostError as exc:
        gone = way.lost()
        way.close()
        if gone is None or "hop" in exc.details:
            raise
        message = f"{target.name}: jump host {gone.address}: the connection was closed"
        raise UnreachableError(message, hint=f"ssh {gone}", host=target.name, hop=gone.address) from exc
    except BaseException:
        way.close()
        raise


def pass_through(way: Way, name: str, jump: Jump, pinned: paramiko.PKey | None, timeout: float = 10.0) -> None:
    """Extend the way to the host `name` by a jump host, whose key must be `pinned`; raises as `connect` does."""
    hop = Target(f"{name}: jump host {jump.address}", jump.address, jump.port, jump.user, jump.key)
    try:
        way.extend(jump, _log_in(hop, pinned, way, timeout))
    except HostError as exc:
        hint = exc.hint
        if isinstance(exc, HostKeyError):
            hint = f"ask its owner whether the key changed; then: pool rm {name}, and whatever else is behind it"
        raise type(exc)(exc.message, hint=hint, **({"hop": jump.address} | exc.details | {"host": name})) from exc


def _log_in(target: Target, pinned: paramiko.PKey | None, way: Way, timeout: float) -> fabric.Connection:
    if pinned is None:
        where = f"ssh://{target.user}@{target.address}:{target.port}"
        raise HostKeyError(
            f"{target.name}: no host key is pinned for it", hint=f"pool add-ssh {where}", host=target.name
        )
    identity = _identity(target)
    where = f"{target.address} port {target.port}"
    try:
        return retrying(lambda: _open(target, pinned, identity, way, timeout))
    except BadHostKeyException as exc:
        raise host_keys.changed(target.name, pinned, exc.key) from exc
    except IncompatiblePeer as exc:
        if "host key" not in str(exc):
            raise translate(exc, target.name, where) from exc
        offered = host_keys.scan(target.address, target.port, timeout, dial=way.dial)
        raise host_keys.changed(target.name, pinned, offered[0]) from exc
    except (SSHException, OSError, EOFError) as exc:
        login = f"{target.user}@{target.address}"
        raise translate(exc, target.name, where, login=login, port=target.port, key=target.key) from exc


def exec(  # noqa: A001 - the word for what this does to the host
    connection: fabric.Connection,
    argv: Sequence[str],
    *,
    timeout: float,
    input: bytes = b"",  # noqa: A002
) -> tuple[int, bytes, bytes]:
    """Run a program on the host to its end; its exit code (-1 when a signal ended it), stdout and stderr.

    UnreachableError when the connection fails or `timeout` seconds pass; HostError when it answers more than 16 MiB.
    """
    deadline = time.monotonic() + timeout
    name = str(connection.original_host)
    channel = start(connection, argv, timeout=timeout)
    try:
        stderr = bytearray()
        others = [threading.Thread(target=_read_stderr, args=(channel, stderr), daemon=True)]
        if input:
            others.append(threading.Thread(target=_write, args=(channel, input), daemon=True))
        else:
            channel.shutdown_write()
        for other in others:
            other.start()
        stdout = _read(channel, deadline, stderr, name)
        others[0].join(max(0.0, deadline - time.monotonic()))
        if not channel.status_event.wait(max(0.0, deadline - time.monotonic())) or others[0].is_alive():
            raise TimeoutError
        link = channel.get_transport()
        if channel.exit_status == -1 and not (link and link.is_active()):
            raise EOFError
        return channel.exit_status, stdout, bytes(stderr)
    except TimeoutError as exc:
        message = f"{name}: {argv[0]} did not end within {timeout:g} s"
        raise UnreachableError(message, hint="is the host overloaded, or its disk stuck?", host=name) from exc
    except (SSHException, OSError, EOFError) as exc:
        raise translate(exc, name) from exc
    finally:
        channel.close()


def start(connection: fabric.Connection, argv: Sequence[str], *, timeout: float) -> paramiko.Channel:
    """Start a program on the host in a session of its own; its channel, with stdin open.

    The only place where a command line for the remote shell is made. UnreachableError when the host gives no session.
    """
    name = str(connection.original_host)
    try:
        link: paramiko.Transport | None = connection.transport
        if link is None or not link.is_active():
            raise EOFError
        channel = link.open_session(timeout=timeout)
        channel.settimeout(timeout)
        channel.exec_command(shlex.join(argv))
    except (SSHException, OSError, EOFError) as exc:
        raise translate(exc, name) from exc
    return channel


def _open(
    target: Target, pinned: paramiko.PKey, identity: paramiko.PKey | None, way: Way, timeout: float
) -> fabric.Connection:
    address = target.address.lower()
    sock = way.dial(address, target.port, timeout, target.name)
    connection = fabric.Connection(
        address,
        user=target.user,
        port=target.port,
        # Neither a fabric.py nor an ssh_config of the person has a say: both may run programs.
        config=fabric.Config(ssh_config=paramiko.SSHConfig(), lazy=True),
        forward_agent=False,
        connect_timeout=int(3 * timeout) + 1,  # past it paramiko forgets why; each step has its own bound
        connect_kwargs={
            "sock": sock,
            "transport_factory": lambda sock, **options: transport(
                sock, key_types=host_keys.key_types(pinned), timeout=timeout, **options
            ),
            "banner_timeout": timeout,
            "auth_timeout": timeout,
            "channel_timeout": timeout,
            "pkey": identity,
            "allow_agent": target.key is None,
            "look_for_keys": target.key is None,
        },
    )
    # Fabric sets AutoAddPolicy, which takes any key.
    connection.client.set_missing_host_key_policy(paramiko.RejectPolicy())
    name = host_keys.entry_name(address, target.port)
    connection.client.get_host_keys().add(name, pinned.get_name(), pinned)
    try:
        connection.open()
    except BaseException:
        connection.client.close()
        sock.close()
        raise
    return connection


def _identity(target: Target) -> paramiko.PKey | None:
    """The key to log in with: from its file, or from the agent when the file is encrypted; None without a key file."""
    if target.key is None:
        return None
    path = target.key
    try:
        with open(path, "rb") as file:
            data = file.read(1 << 20)
    except OSError as exc:
        message = f"{target.name}: cannot read the key {path}: {exc.strerror}"
        raise AuthenticationError(message, hint=f"ls -l {path}", host=target.name) from exc
    try:
        return _load(data, path)
    except TypeError as exc:  # it is encrypted
        held = _from_agent(path, data)
        if held is None:
            message = f"{target.name}: the key {path} is encrypted and no agent holds it"
            raise AuthenticationError(message, hint=f"ssh-add {path}", host=target.name) from exc
        return held
    except (ValueError, UnsupportedAlgorithm, SSHException) as exc:
        message = f"{target.name}: the key {path} is of no kind that can be used: {exc}"
        raise AuthenticationError(message, hint="ssh-keygen -t ed25519", host=target.name) from exc


def _load(data: bytes, path: str) -> paramiko.PKey:
    """The private key in any of the files that OpenSSH reads; TypeError when it is encrypted."""
    if b"OPENSSH PRIVATE KEY" in data:
        loaded: Any = serialization.load_ssh_private_key(data, None)
    else:
        loaded = serialization.load_pem_private_key(data, None)
    kind = next((ours for theirs, ours in _KEY_CLASSES if isinstance(loaded, theirs)), None)
    if kind is None:
        raise ValueError(type(loaded).__name__)
    # paramiko itself reads only some of the formats: give it one that it reads.
    plain = loaded.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    key = kind.from_private_key(io.StringIO(plain.decode()))
    if os.path.exists(f"{path}-cert.pub"):
        key.load_certificate(f"{path}-cert.pub")
    return key


def _from_agent(path: str, data: bytes) -> paramiko.PKey | None:
    blob = _public_blob(path, data)
    try:
        held = paramiko.Agent().get_keys()
    except (SSHException, OSError):
        return None
    return next((key for key in held if key.asbytes() == blob), None)


def _public_blob(path: str, data: bytes) -> bytes | None:
    """The public half of an encrypted key: from the clear part of the file, else from the .pub file beside it."""
    found = re.search(rb"-----BEGIN OPENSSH PRIVATE KEY-----(.*?)-----END", data, re.DOTALL)
    try:
        if found:
            message = paramiko.Message(base64.b64decode(found[1])[len(b"openssh-key-v1\0") :])
            for _ in ("cipher", "kdf", "kdf options"):
                message.get_string()
            message.get_int()
            return message.get_string()
        with open(f"{path}.pub", encoding="ascii") as file:
            return base64.b64decode(file.read(1 << 16).split()[1])
    except (OSError, ValueError, IndexError, SSHException):
        return None


def _read(channel: paramiko.Channel, deadline: float, stderr: bytearray, name: str) -> bytes:
    stdout = bytearray()
    while True:
        channel.settimeout(max(0.001, deadline - time.monotonic()))
        data = channel.recv(_CHUNK)
        if not data:
            return bytes(stdout)
        stdout += data
        if len(stdout) + len(stderr) > OUTPUT_MAX:
            raise HostError(f"{name}: it answered more than {OUTPUT_MAX >> 20} MiB", host=name)


def _read_stderr(channel: paramiko.Channel, into: bytearray) -> None:
    try:
        while len(into) <= OUTPUT_MAX and (data := channel.recv_stderr(_CHUNK)):
            into += data
    except OSError:
        return  # the main thread, which has the deadline, reports it


def _write(channel: paramiko.Channel, data: bytes) -> None:
    try:
        channel.sendall(data)
        channel.shutdown_write()
    except OSError:
        return  # a program may end without reading its input
