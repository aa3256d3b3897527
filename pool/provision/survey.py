"""What a host has before it is provisioned, and what will be done there: the plan that is shown before a change.

It is read by the program that the roles decide by, `roles/look/files/look.py`, sent over ssh. What a host says is not
trusted: each value is checked for its kind, cut and made printable, and nothing of it is executed.
"""

from __future__ import annotations

import json
import os
import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from pool.errors import ProvisionError
from pool.provision.playbook import content

if TYPE_CHECKING:
    from collections.abc import Collection

    from pool.provision.preflight import Execute, Preflight

#: What host.yml sees to, in its order; each can be left out.
ROLES: Final = ("nvidia_driver", "docker", "nvidia_container_toolkit", "runner")
#: Clocks that are further apart make certificates, package lists and logs lie.
SKEW_S: Final = 30.0
_SMI_S: Final = 10
_WORDS_MAX: Final = 120
_MARK: Final = "pool-survey:"
# The clock first, so that what takes long does not count; then who works on packages; then look.py, from stdin.
_SCRIPT: Final = """
printf 'pool-survey:clock=%s\\n' "$(date +%s)"
for lock in /var/lib/dpkg/lock-frontend /var/lib/dpkg/lock /var/lib/apt/lists/lock; do
    inode=$(stat -c %i "$lock" 2>/dev/null) || continue
    pid=$(awk -v inode=":$inode\\$" '$6 ~ inode { print $5; exit }' /proc/locks)
    [ -n "$pid" ] && printf 'pool-survey:lock=%s (%s)\\n' "$(cat "/proc/$pid/comm" 2>/dev/null)" "$pid" && break
done
printf 'pool-survey:facts='
exec "$@"
"""


@dataclass(frozen=True, slots=True)
class Survey:
    """What a host has; words for people, numbers where something is decided by them."""

    system: str  #: "Debian GNU/Linux 12 (bookworm)"
    kernel: str
    skew_s: float  #: how far its clock is ahead of this machine's
    free_mib: int | None
    cards: tuple[str, ...]  #: NVIDIA's on the bus: "0000:3b:00.0 hopper"
    driver: str | None  #: the version that works
    driver_says: str  #: what nvidia-smi says where it does not work
    docker: str | None
    containers: int
    toolkit: str | None
    package_manager: str  #: who holds the package manager's lock: "apt-get (812)"; nothing when nobody does
    secure_boot: bool
    jobs: int


@dataclass(frozen=True, slots=True)
class Step:
    """One line of the plan."""

    what: str  #: "driver"
    there: str  #: what is there
    todo: str  #: what will be done


def left_out(found: Preflight, skip: Collection[str] = ()) -> frozenset[str]:
    """The roles that do nothing on a host: those of `skip`, and without root all but the runner. Pure."""
    return frozenset(role for role in ROLES if role in skip or (found.scope == "user" and role != "runner"))


def survey(name: str, found: Preflight, execute: Execute) -> Survey:
    """Look at the host `name`, as root where that can be; nothing is changed. ProvisionError for a senseless answer."""
    with open(os.path.join(content(), "roles", "look", "files", "look.py"), "rb") as file:
        program = file.read()
    look = [found.python, "-I", "-", "/", str(_SMI_S), "nvidia,docker,toolkit"]
    become = ["sudo", "-n"] if found.scope == "system" and not found.root else []
    asked = time.time()
    rc, stdout, stderr = execute([*become, "sh", "-c", _SCRIPT, "sh", *look], timeout=120.0, input=program)
    try:
        return read(stdout, asked)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        said = stderr.decode(errors="replace").strip().splitlines()
        why = _words(said[-1]) if said else f"exit code {rc}, {error!r}"
        raise ProvisionError(f"{name}: it cannot be looked at: {why}", host=name, step="look around") from error


def read(stdout: bytes, now: float) -> Survey:
    """What the host's answer means. Pure; ValueError, TypeError or KeyError for one without sense."""
    values = dict(
        line.removeprefix(_MARK).split("=", 1)
        for line in stdout.decode(errors="replace").splitlines()
        if line.startswith(_MARK) and "=" in line
    )
    facts = json.loads(values["facts"])
    system, nvidia, docker = facts["system"], facts["nvidia"], facts["docker"]
    smi, free = nvidia["smi"], system["free_mib"].get("/var")
    return Survey(
        system=_words(system["name"]),
        kernel=_words(system["kernel"]),
        skew_s=int(values["clock"]) - now,
        free_mib=int(free) if free is not None else None,
        cards=tuple(_words(f"{gpu['address']} {gpu['generation']}") for gpu in nvidia["gpus"][:64]),
        driver=_words(smi["version"]) if smi["works"] else None,
        driver_says="nvidia-smi hangs" if smi["hangs"] else _words(smi["said"]) if smi["found"] else "",
        docker=_words(docker["version"]) if docker["daemon"] else None,
        containers=int(docker["containers"]),
        toolkit=_words(facts["toolkit"]["version"]) if facts["toolkit"]["version"] else None,
        package_manager=_words(values.get("lock", "")),
        secure_boot=bool(system["secure_boot"]),
        jobs=len(facts["jobs"]),
    )


def plan(found: Preflight, seen: Survey, skip: Collection[str]) -> list[Step]:
    """The plan for a host, a line each: what it is, then what is there and what will be done about it. Pure."""
    out = left_out(found, skip)
    why = {"password": "sudo asks for a password", "none": "there is no sudo"}.get(found.sudo, "no systemd runs")
    root = "root" if found.root else "sudo" if found.sudo == "passwordless" else why
    ahead = "ahead" if seen.skew_s > 0 else "behind"
    skewed = abs(seen.skew_s) > SKEW_S
    room = "" if seen.free_mib is None else f", {seen.free_mib >> 10} GB free"
    busy = f"waits for {seen.package_manager}" if seen.package_manager else ""
    return [
        Step("system", f"{seen.system}, kernel {seen.kernel}{room}", busy),
        Step("login", f"{found.user}, {root}; Python {'.'.join(map(str, found.python_version))}", ""),
        *([Step("clock", f"{abs(seen.skew_s):.0f} s {ahead} of this machine's", "set it right")] if skewed else []),
        Step("driver", _driver(seen), _todo("nvidia_driver", skip, out, _driver_todo(seen))),
        Step("docker", _version(seen.docker), _todo("docker", skip, out, "keep it" if seen.docker else "install")),
        Step(
            "toolkit",
            _version(seen.toolkit),
            _todo("nvidia_container_toolkit", skip, out, _toolkit_todo(seen)),
        ),
        Step("runner", found.runner or "none", _todo("runner", skip, out, _runner_todo(found))),
    ]


def _todo(role: str, skip: Collection[str], out: Collection[str], todo: str) -> str:
    return "left out (--skip)" if role in skip else "left out: it needs systemd and root" if role in out else todo


def _driver(seen: Survey) -> str:
    count = len(seen.cards)
    cards = "no card on the bus" if not count else "1 card on the bus" if count == 1 else f"{count} cards on the bus"
    if seen.driver:
        return f"{seen.driver}, {cards}"
    return cards + (f"; {seen.driver_says}" if seen.driver_says else "")


def _driver_todo(seen: Survey) -> str:
    if not seen.cards:
        return "nothing: no card"
    if seen.driver:
        return "keep it"
    return "install" + (", if the firmware trusts its key (Secure Boot)" if seen.secure_boot else "")


def _toolkit_todo(seen: Survey) -> str:
    return "nothing: no card" if not seen.cards else "keep it" if seen.toolkit else "install"


def _runner_todo(found: Preflight) -> str:
    how = "as a service" if found.scope == "system" else f"as a process of {found.user}"
    return f"{'see to it' if found.runner else 'install'}, {how}"


def _version(version: str | None) -> str:
    return version or "none"


def _words(value: Any) -> str:
    text = re.sub(r"\s+", " ", str(value))[:_WORDS_MAX]
    return "".join(c if c.isprintable() else "?" for c in text).strip()
