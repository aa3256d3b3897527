"""Looks at a host before anything is changed on it: one small program, answers as bounded `key=value` lines.

What a host says is not trusted: unknown keys are dropped, values are cut, and nothing of it is executed or templated.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal, Protocol

from pool.errors import DiskFullError, ProvisionError, PythonMissingError, SudoError

Scope = Literal["system", "user"]

#: Room the runner needs where it lives.
ROOM_MIB: Final = 200
PYTHON_MIN: Final = (3, 8)
_VALUE_MAX: Final = 512
_MARK: Final = "pool-preflight:"

# Python is asked for its own path, because a name in PATH may be a shim that works only in its owner's shell. The
# modules are those that Ansible and the runner need and that a cut-down python3-minimal lacks.
_SCRIPT: Final = r"""
say() { printf 'pool-preflight:%s=%s\n' "$1" "$2"; }
ask='import sys
v = "%d.%d.%d" % sys.version_info[:3]
why = ""
try:
    import ctypes, hashlib, json, selectors, socket, subprocess, tempfile, zipfile, zlib
except ImportError as e:
    why = str(e)
print("%s %s %s" % (v, sys.executable, why))
sys.exit(1 if why or sys.version_info < (3, 8) else 0)'
[ $# -gt 0 ] || set -- /usr/bin/python3 python3 /usr/local/bin/python3 \
    python3.14 python3.13 python3.12 python3.11 python3.10 python3.9 python3.8 /usr/libexec/platform-python
for python in "$@"; do
    found=$("$python" -I -S -c "$ask" 2>/dev/null) && whole=yes || whole=
    [ -n "$found" ] && say python "$found"
    [ -n "$whole" ] && break
done
say uid "$(id -u)"
say user "$(id -un)"
say home "$HOME"
say hostname "$(uname -n)"
say machine "$(uname -m)"
say asked "$POOL_RUNNER_SCOPE"
if [ "$(id -u)" = 0 ]; then say sudo root
elif ! command -v sudo >/dev/null 2>&1; then say sudo none
elif why=$(LC_ALL=C sudo -n true 2>&1 </dev/null); then say sudo passwordless
else case "$why" in *password*) say sudo password ;; *) say sudo none ;; esac
fi
[ -d /run/systemd/system ] && say systemd yes
for runner in /usr/local/bin/pool-runner "$HOME/.local/bin/pool-runner"; do
    [ -x "$runner" ] && say runner "$runner"
done
for place in "$HOME" /usr/local /var/lib; do
    say "free:$place" "$(df -Pk "$place" 2>/dev/null | awk 'END { print int($4 / 1024) }')"
done
[ -w "$HOME" ] && say writable yes
say end yes
"""


@dataclass(frozen=True, slots=True)
class Preflight:
    """What matters of a host before it is provisioned."""

    python: str  #: path of the interpreter to use
    python_version: tuple[int, int, int]
    uid: int
    user: str
    home: str
    sudo: Literal["root", "passwordless", "password", "none"]
    systemd: bool
    free_mib: int  #: where the runner will live
    scope: Scope  #: how the runner is installed: a system service, or the user's own process
    hostname: str = ""
    machine: str = ""
    runner: str = ""  #: where a runner is installed already; nothing when none is

    @property
    def root(self) -> bool:
        """True when the login user is root."""
        return self.uid == 0


class Execute(Protocol):
    """Runs a program on the host: `functools.partial(pool.ssh.connection.exec, connection)`."""

    def __call__(self, argv: list[str], *, timeout: float, input: bytes) -> tuple[int, bytes, bytes]:  # noqa: A002
        """Exit code, stdout and stderr."""


def preflight(
    name: str, execute: Execute, *, scope: Scope | None = None, python: str | None = None, timeout: float = 30.0
) -> Preflight:
    """Look at the host `name`; `scope` insists on how the runner is installed, None takes what the host allows.

    `python` insists on an interpreter, None takes the first that is whole.

    Raises PythonMissingError, SudoError (only where `system` is insisted on), DiskFullError, or ProvisionError when
    the host does not answer sensibly.
    """
    argv = ["sh", "-s", "--", python] if python else ["sh", "-s"]
    rc, stdout, stderr = execute(argv, timeout=timeout, input=_SCRIPT.encode())
    return read(name, stdout, stderr, rc, scope=scope, python=python)


def read(
    name: str,
    stdout: bytes,
    stderr: bytes = b"",
    rc: int = 0,
    *,
    scope: Scope | None = None,
    python: str | None = None,
) -> Preflight:
    """What the host's answer means; raises as `preflight` does. Pure, so that any host's answer can be tried."""
    pythons, values = _parse(stdout)
    if values.get("end") != "yes":
        said = (stderr + b"\n" + stdout).decode(errors="replace").strip().splitlines()
        message = f"{name}: its shell did not run a command: {_clean(said[0]) if said else f'exit code {rc}'}"
        raise ProvisionError(message, hint="can this user log in and run `sh`?", host=name, step="preflight")
    sudo = values.get("sudo", "")
    if sudo not in ("root", "passwordless", "password", "none") or not values.get("uid", "").isdigit():
        raise ProvisionError(f"{name}: its answer makes no sense", host=name, step="preflight")
    chosen = _scope(name, values, scope)
    found, version = _python(name, pythons, python)
    home = values.get("home", "")
    if not re.fullmatch(r"/[A-Za-z0-9._/@+=:, -]*", home):
        raise ProvisionError(f"{name}: it has no usable HOME: {home!r}", host=name, step="preflight")
    return Preflight(
        python=found,
        python_version=version,
        uid=int(values["uid"]),
        user=values.get("user", ""),
        home=home,
        sudo=sudo,  # type: ignore[arg-type]  # checked above
        systemd=values.get("systemd") == "yes",
        free_mib=_room(name, values, home, chosen),
        scope=chosen,
        hostname=values.get("hostname", ""),
        machine=values.get("machine", ""),
        runner=values.get("runner", ""),
    )


def _parse(stdout: bytes) -> tuple[list[str], dict[str, str]]:
    pythons: list[str] = []
    values: dict[str, str] = {}
    for line in stdout[: 1 << 16].decode(errors="replace").splitlines():
        if not line.startswith(_MARK):
            continue  # a login shell may greet
        key, _, value = line.removeprefix(_MARK).partition("=")
        if key == "python":
            pythons.append(_clean(value))
        else:
            values.setdefault(key, _clean(value))
    return pythons, values


def _python(name: str, pythons: list[str], asked: str | None) -> tuple[str, tuple[int, int, int]]:
    """The first interpreter that is new enough and whole."""
    seen: list[str] = []
    for found in pythons:
        match = re.fullmatch(r"(\d{1,3})\.(\d{1,3})\.(\d{1,3}) (/[A-Za-z0-9._/+-]+) ?(.*)", found)
        if not match:
            continue
        version = (int(match[1]), int(match[2]), int(match[3]))
        if version >= PYTHON_MIN and not match[5]:
            return match[4], version
        seen.append(f"{match[4]} is {'.'.join(match.groups()[:3])}" + (f", {match[5]}" if match[5] else ""))
    told = f" ({'; '.join(seen)})" if seen else ""
    if asked is not None:
        message = f"{name}: {asked} is no whole Python 3.8 or newer{told}"
        raise PythonMissingError(message, hint=f"on the host: {asked} --version", host=name, step="preflight")
    raise PythonMissingError(
        f"{name}: no whole Python 3.8 or newer{told}",
        hint="on the host: sudo apt-get install python3 (or: sudo dnf install python3)",
        host=name,
        step="preflight",
    )


def _scope(name: str, values: dict[str, str], wanted: Scope | None) -> Scope:
    may_be_root = values["sudo"] in ("root", "passwordless")
    if wanted == "user" or (wanted is None and values.get("asked") == "user"):
        return "user"
    if wanted == "system" and not may_be_root:
        what = "sudo asks for a password" if values["sudo"] == "password" else "this user may not use sudo"
        user = values["user"] if re.fullmatch(r"[A-Za-z0-9._-]+", values.get("user", "")) else "USER"
        raise SudoError(
            f"{name}: root is needed, and {what}",
            hint=f"on the host, as root: echo '{user} ALL=(ALL) NOPASSWD: ALL' > /etc/sudoers.d/pool",
            host=name,
            step="preflight",
        )
    if wanted == "system" and values.get("systemd") != "yes":
        raise ProvisionError(f"{name}: a system service is asked for, and no systemd runs", host=name, step="preflight")
    return "system" if may_be_root and values.get("systemd") == "yes" else "user"


def _room(name: str, values: dict[str, str], home: str, scope: Scope) -> int:
    places = [home] if scope == "user" else ["/usr/local", "/var/lib"]
    free = {place: int(values[f"free:{place}"]) for place in places if values.get(f"free:{place}", "").isdigit()}
    if scope == "user" and values.get("writable") != "yes":
        message = f"{name}: {home} cannot be written to"
        raise ProvisionError(message, hint=f"on the host: ls -ld {home}", host=name, step="preflight")
    for place, mib in free.items():
        if mib < ROOM_MIB:
            message = f"{name}: {place} has {mib} MiB left, {ROOM_MIB} are needed"
            raise DiskFullError(message, hint=f"on the host: df -h {place}", host=name, step="preflight")
    return min(free.values(), default=0)


def _clean(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text[:_VALUE_MAX]).strip()
