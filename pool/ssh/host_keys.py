"""Which machine is it: host keys are shown, pinned at the first contact, and compared ever after.

The pinned file is in OpenSSH's format, so paramiko, Ansible's ssh and a person's ssh all read the same pins. One key is
pinned for an address; a host that later offers another is refused before anything is sent to it.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import hashlib
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import paramiko
from paramiko.hostkeys import HostKeyEntry, InvalidHostKey
from paramiko.ssh_exception import IncompatiblePeer, SSHException

from pool.errors import HostKeyError, InputError
from pool.ssh.transport import dial, rekey_hint, retrying, translate, transport

#: Key families, preferred first, as the names that the SSH negotiation uses.
FAMILIES: Final[tuple[tuple[str, ...], ...]] = (
    ("ssh-ed25519",),
    ("ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521"),
    ("rsa-sha2-512", "rsa-sha2-256"),
)
#: Where a person's and a machine's own ssh keep what they trust.
USER_FILES: Final = ("~/.ssh/known_hosts", "~/.ssh/known_hosts2", "/etc/ssh/ssh_known_hosts")
_SIZE_MAX: Final = 16 << 20
#: `transport.dial`, or `Way.dial` for what is behind a jump host.
Dial = Callable[[str, int, float, str], Any]


@dataclass(frozen=True, slots=True)
class Contact:
    """The key of a host that was never pinned, and what vouches for it."""

    key: paramiko.PKey
    trusted: str | None  #: fingerprint | known_hosts; None = a person has to say

    @property
    def fingerprint(self) -> str:
        """As ssh-keygen -l prints it."""
        return fingerprint(self.key)


def fingerprint(key: paramiko.PKey) -> str:
    """`SHA256:…` as ssh-keygen -l prints it."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(key.asbytes()).digest()).decode().rstrip("=")


def validate_fingerprint(text: str) -> str:
    """`text` in the form ssh-keygen prints, `SHA256:` and 43 characters; else InputError."""
    text = text.strip().rstrip("=")
    if not re.fullmatch(r"SHA256:[A-Za-z0-9+/]{43}", text):
        raise InputError(
            "not a fingerprint: write SHA256: and the 43 characters after it",
            hint="on the host: ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub",
        )
    return text


def entry_name(address: str, port: int) -> str:
    """How a known_hosts file names an address: `addr` on port 22, else `[addr]:port`."""
    return address.lower() if port == 22 else f"[{address.lower()}]:{port}"


def scan(
    address: str, port: int, timeout: float = 10.0, *, every: bool = False, dial: Dial = dial
) -> list[paramiko.PKey]:
    """The key that the host offers, the best family first; with `every`, one of each family. Nothing is authenticated.

    UnreachableError when it cannot be asked; HostKeyError when it has no key of a family that is understood.
    """
    found: list[paramiko.PKey] = []
    for types in FAMILIES if every else (_order(()),):
        key = _offered(address, port, types, timeout, dial)
        if key is not None:
            found.append(key)
    if not found:
        name = entry_name(address, port)
        raise HostKeyError(
            f"{name}: it offers no ed25519, ecdsa or rsa host key", hint=f"ssh-keyscan -p {port} {address}"
        )
    return found


def first_contact(
    address: str,
    port: int,
    *,
    expected: str | None = None,
    timeout: float = 10.0,
    files: Sequence[str] = USER_FILES,
    dial: Dial = dial,
) -> Contact:
    """The host's key, and what vouches for it: the `expected` fingerprint, or the user's own known_hosts.

    HostKeyError when it has no key of that fingerprint, or when known_hosts holds another key for it, or revokes it.
    """
    name = entry_name(address, port)
    if expected is not None:
        wanted = validate_fingerprint(expected)
        offered = scan(address, port, timeout, every=True, dial=dial)
        for key in offered:
            if wanted == fingerprint(key):
                return Contact(key, "fingerprint")
        raise HostKeyError(
            f"{name}: no host key has the fingerprint {wanted}; it offers "
            + ", ".join(f"{k.get_name()} {fingerprint(k)}" for k in offered),
            hint="on the host: ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub",
        )
    known, revoked = user_keys(address, port, files)
    key = _offered(address, port, _order(known), timeout, dial) or scan(address, port, timeout, dial=dial)[0]
    if key in revoked:
        raise HostKeyError(f"{name}: its key {fingerprint(key)} is marked as revoked in known_hosts")
    if key in known:
        return Contact(key, "known_hosts")
    for other in known:
        if other.get_name() == key.get_name():
            raise HostKeyError(
                f"{name}: your known_hosts has {fingerprint(other)}, but the host offers {fingerprint(key)}",
                hint=f"if the key was changed on purpose: ssh-keygen -R '{name}'",
            )
    return Contact(key, None)


def pin(known_hosts: str, address: str, port: int, key: paramiko.PKey) -> None:
    """Make `key` the only pinned key of the address. The file is made with mode 0600 and replaced in one step."""
    line = f"{entry_name(address, port)} {key.get_name()} {key.get_base64()}"
    with _locked(known_hosts):
        _write(known_hosts, [*_others(known_hosts, address, port), line])


def forget(known_hosts: str, address: str, port: int) -> bool:
    """Drop the pin of the address; False when there was none."""
    with _locked(known_hosts):
        lines = _lines(known_hosts)
        kept = _others(known_hosts, address, port)
        if len(kept) == len(lines):
            return False
        _write(known_hosts, kept)
        return True


def lookup(known_hosts: str, address: str, port: int) -> paramiko.PKey | None:
    """The pinned key of the address, or None."""
    name = entry_name(address, port)
    for line in _lines(known_hosts):
        if line.split(" ", 1)[0] == name and (entry := _entry(line)) is not None:
            return entry.key
    return None


def pinned_lines(known_hosts: str, addresses: Sequence[tuple[str, int]]) -> list[str]:
    """The lines of the pinned file for these addresses only, to give to another program."""
    names = {entry_name(address, port) for address, port in addresses}
    return [line for line in _lines(known_hosts) if line.split(" ", 1)[0] in names]


def key_types(key: paramiko.PKey) -> tuple[str, ...]:
    """The names under which the negotiation offers a key like this one."""
    name = key.get_name()
    return FAMILIES[2] if name == "ssh-rsa" else (name,)


def changed(name: str, pinned: paramiko.PKey, offered: paramiko.PKey | None) -> HostKeyError:
    """The error for a host that no longer offers its pinned key, naming both fingerprints."""
    now = "no key of that type" if offered is None else f"{offered.get_name()} {fingerprint(offered)}"
    return HostKeyError(
        f"{name}: the host key changed: pinned {pinned.get_name()} {fingerprint(pinned)}, offered {now}",
        hint=rekey_hint(name),
        host=name,
    )


def user_keys(
    address: str, port: int, files: Sequence[str] = USER_FILES
) -> tuple[list[paramiko.PKey], list[paramiko.PKey]]:
    """The keys that OpenSSH's files hold for the address, hashed names included; and the keys they revoke."""
    name = entry_name(address, port)
    known: list[paramiko.PKey] = []
    revoked: list[paramiko.PKey] = []
    for file in files:
        for line in _lines(os.path.expanduser(file)):
            marked = line.startswith("@revoked ")
            if line.startswith("@") and not marked:
                continue
            entry = _entry(line.removeprefix("@revoked ").strip())
            if entry is None:
                continue
            if marked:
                revoked.append(entry.key)
            elif any(_same(name, host) for host in entry.hostnames):
                known.append(entry.key)
    return known, revoked


def _offered(address: str, port: int, types: Sequence[str], timeout: float, dial: Dial) -> paramiko.PKey | None:
    """The key the host offers when asked for one of `types`; None when it has none of them."""
    name = entry_name(address, port)

    def ask() -> paramiko.PKey:
        with contextlib.closing(dial(address, port, timeout, name)) as sock:
            link = transport(sock, key_types=types, timeout=timeout)
            try:
                link.start_client(timeout=3 * timeout)  # past it paramiko forgets why; the banner has its own bound
                return link.get_remote_server_key()
            finally:
                link.close()

    try:
        return retrying(ask)
    except IncompatiblePeer as exc:
        if "host key" in str(exc):
            return None
        raise translate(exc, name) from exc
    except (SSHException, OSError, EOFError) as exc:
        raise translate(exc, name) from exc


def _order(known: Sequence[paramiko.PKey]) -> tuple[str, ...]:
    """Every type, those of the known keys first, so that a host shows the key by which it is known."""
    first = tuple(name for key in known for name in key_types(key))
    return tuple(dict.fromkeys(first + tuple(name for family in FAMILIES for name in family)))


def _same(name: str, written: str) -> bool:
    if written.startswith("|1|"):
        try:
            return paramiko.HostKeys.hash_host(name, written) == written
        except (ValueError, IndexError, AssertionError):
            return False
    return written.lower() == name


def _entry(line: str) -> HostKeyEntry | None:
    try:
        return HostKeyEntry.from_line(line)
    except (InvalidHostKey, SSHException, ValueError, IndexError):
        return None


def _lines(path: str) -> list[str]:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            text = file.read(_SIZE_MAX)
    except FileNotFoundError:
        return []
    except OSError as exc:
        raise InputError(f"cannot read {path}: {exc.strerror}") from exc
    return [line for raw in text.splitlines() if (line := raw.strip()) and not line.startswith("#")]


def _others(path: str, address: str, port: int) -> list[str]:
    name = entry_name(address, port)
    return [line for line in _lines(path) if line.split(" ", 1)[0] != name]


def _write(path: str, lines: Sequence[str]) -> None:
    handle, fresh = tempfile.mkstemp(dir=os.path.dirname(path) or ".", prefix=".known_hosts.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write("".join(f"{line}\n" for line in lines))
            file.flush()
            os.fsync(file.fileno())
        os.replace(fresh, path)
    except OSError:
        os.unlink(fresh)
        raise


@contextlib.contextmanager
def _locked(path: str) -> Iterator[None]:
    """Alone with the file, among threads and processes; the lock is a file beside it."""
    handle = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
