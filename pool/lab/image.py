"""The image that hosts of the system lab start from: Debian 12 as a server has it, made here with mmdebstrap.

    <cache>/debian-12-<recipe>.tar   made once, in about half a minute; `drop` removes it

It has systemd, sshd, Python, sudo, iptables, apt, and a user with sudo without a password; no host key, no machine id.
"""

from __future__ import annotations

import glob
import hashlib
import os
import subprocess
import tempfile
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from pool.errors import PoolError
from pool.lab import apt
from pool.lab.engine import Engine

SUITE: Final = "bookworm"
#: The login user; sudo asks it for nothing.
USER: Final = "debian"
UID: Final = 1000
PACKAGES: Final = (
    *("systemd", "systemd-sysv", "dbus", "openssh-server", "python3", "sudo", "procps", "iproute2", "iptables"),
    *("kmod", "ca-certificates"),
)
# mmdebstrap's shell runs these, with the new root as $1.
_HOOKS: Final = (
    f'chroot "$1" useradd --create-home --shell /bin/bash --uid {UID} {USER}',
    f'echo "{USER} ALL=(ALL) NOPASSWD: ALL" > "$1/etc/sudoers.d/{USER}"; chmod 0440 "$1/etc/sudoers.d/{USER}"',
    'rm -f "$1"/etc/ssh/ssh_host_* "$1/var/lib/dbus/machine-id"; : > "$1/etc/machine-id"',
    # Their times are random, and they hold the package manager's lock.
    'chroot "$1" systemctl mask apt-daily.timer apt-daily-upgrade.timer',
)
_BUILD_S: Final = 900.0


def require(engine: Engine, tell: Callable[[str], None] = lambda _: None) -> str:
    """The name of the image in `engine`; made, and kept for the next time, where it is missing."""
    name = f"pool-lab:{_recipe()}"
    if engine("image", "inspect", name, check=False).returncode == 0:
        return name
    path = os.path.join(folder(), f"debian-12-{_recipe()}.tar")
    if not os.path.exists(path):
        tell("making the image of the hosts: half a minute, once")
        _build(path)
    engine("import", path, name, timeout=300)
    return name


def drop(engine: Engine | None) -> None:
    """Remove the image, of every recipe, from the cache and from `engine`."""
    for pattern in ("debian-12-*.tar", ".debian-12-*.tar"):
        for path in glob.glob(os.path.join(folder(), pattern)):
            os.unlink(path)
    with suppress(OSError):
        os.rmdir(folder())
    if engine:
        for image in engine.text("image", "ls", "--quiet", "pool-lab").split():
            engine("image", "rm", "--force", image, check=False)


def folder() -> str:
    """Where images are kept."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.join(cache, "pool", "lab")


def _recipe() -> str:
    return hashlib.sha256(repr((SUITE, PACKAGES, _HOOKS)).encode()).hexdigest()[:12]


def _build(path: str) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="pool-image-") as scratch:
        argv = ["mmdebstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}"]
        argv += [f"--customize-hook={hook}" for hook in _HOOKS]
        with open(os.path.join(scratch, "apt.conf"), "w", encoding="utf-8") as file:
            file.write(apt.settings())
        made = os.path.join(os.path.dirname(path), f".{os.path.basename(path)}")
        argv += [f"--aptopt={file.name}", SUITE, made]
        sources = apt.sources(SUITE)
        if sources:  # else mmdebstrap knows Debian's own
            with open(os.path.join(scratch, "machine.sources"), "w", encoding="utf-8") as file:
                file.write(sources)
            argv += [
                file.name,
                '--customize-hook=rm "$1"/etc/apt/sources.list.d/*',
            ]  # each host gets them as they are then
        for last in (False, True):  # a mirror that hiccups is asked once more
            done = subprocess.run(
                argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=_BUILD_S, cwd=scratch, check=False
            )
            if done.returncode == 0:
                break
            if last:
                said = [line for line in done.stderr.decode(errors="replace").splitlines() if line.startswith("E:")]
                raise PoolError(f"mmdebstrap could not make the image: {said[0] if said else done.returncode}")
        os.replace(made, path)
