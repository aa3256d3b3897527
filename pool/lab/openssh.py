"""Where OpenSSH's programs are on this machine; installs them where they are missing and it may.

What it does to the machine when it installs: adds the distribution's packages, and keeps the system's own sshd from
starting, now and at the next boot. Run as `python -m pool.lab.openssh` it prints where sshd is.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass

from pool.errors import PoolError

_SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_UNITS = ("ssh.service", "ssh.socket", "sshd.service", "sshd.socket")
_APT = ["apt-get", "-o", "DPkg::Lock::Timeout=120"]


@dataclass(frozen=True, slots=True)
class OpenSSH:
    """Absolute paths of the programs that a lab needs, and the version of sshd's release, e.g. (9, 2)."""

    sshd: str
    ssh: str
    keygen: str
    version: tuple[int, int]


def require() -> OpenSSH:
    """The programs; installed first where they are missing and root may be had without a password.

    Raises PoolError, whose hint is the exact command to type, when they cannot be had.
    """
    found = _find()
    if found is None:
        _install()
        found = _find()
    if found is None:
        raise PoolError("OpenSSH was installed, but sshd, ssh or ssh-keygen is still not in " + _SYSTEM_PATH)
    return found


def _find() -> OpenSSH | None:
    path = os.environ.get("PATH", "") + os.pathsep + _SYSTEM_PATH
    sshd, ssh, keygen = (shutil.which(name, path=path) for name in ("sshd", "ssh", "ssh-keygen"))
    if not (sshd and ssh and keygen):
        return None
    said = subprocess.run([ssh, "-V"], capture_output=True, text=True, timeout=10, check=False).stderr
    digits = said.partition("OpenSSH_")[2].partition(" ")[0].split("p")[0].split(".")
    try:
        version = (int(digits[0]), int(digits[1]))
    except (ValueError, IndexError):
        version = (0, 0)
    return OpenSSH(os.path.abspath(sshd), os.path.abspath(ssh), os.path.abspath(keygen), version)


def _install() -> None:
    if shutil.which("apt-get"):
        update: list[str] | None = [*_APT, "update", "-q"]
        install = [*_APT, "install", "-q", "-y", "--no-install-recommends", "openssh-server", "openssh-client"]
        by_hand = "apt-get install -y openssh-server openssh-client"
    elif shutil.which("dnf"):
        update = None
        install = ["dnf", "install", "-y", "openssh-server", "openssh-clients"]
        by_hand = "dnf install -y openssh-server openssh-clients"
    else:
        raise PoolError(
            "sshd is missing, and this machine has neither apt-get nor dnf to install it with",
            hint="install OpenSSH's server and client with your system's package manager",
        )
    become = _become()
    if become is None:
        raise PoolError("sshd is missing, and installing it needs root", hint=f"sudo {by_hand}")
    sys.stderr.write(f"OpenSSH is missing: installing it ({by_hand}); the system's own sshd is not started\n")
    with_systemd = os.path.isdir("/run/systemd/system")
    if with_systemd:
        _quietly([*become, "systemctl", "mask", "--runtime", *_UNITS])
    try:
        if update and not _quietly([*become, *update]):
            sys.stderr.write("the package lists could not be brought up to date; trying with those at hand\n")
        # RUNLEVEL=1: where no systemd runs, Debian's packages start what belongs to the run level; sshd is not in 1.
        environment = ["env", "DEBIAN_FRONTEND=noninteractive", "RUNLEVEL=1", "LC_ALL=C"]
        done = subprocess.run(
            [*become, *environment, *install], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
    finally:
        if with_systemd:
            _quietly([*become, "systemctl", "unmask", "--runtime", *_UNITS])
            for unit in _UNITS:
                _quietly([*become, "systemctl", "disable", unit])
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        raise PoolError(f"OpenSSH could not be installed: {' '.join(last)}", hint=f"sudo {by_hand}")


def _become() -> list[str] | None:
    """The words that make a command run as root: none for root; None when that would ask for a password."""
    if os.geteuid() == 0:
        return []
    if shutil.which("sudo") and _quietly(["sudo", "-n", "true"]):
        return ["sudo", "-n"]
    return None


def _quietly(command: list[str]) -> bool:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    return done.returncode == 0


if __name__ == "__main__":
    try:
        sys.stdout.write(require().sshd + "\n")
    except PoolError as error:
        sys.stderr.write(f"{error.message}\n" + (f"try: {error.hint}\n" if error.hint else ""))
        raise SystemExit(error.exit_code) from None
