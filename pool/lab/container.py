"""One host of the system lab: a container that systemd boots in, with sshd and its own address.

It is not privileged, because not every machine may grant that: it has the capabilities that systemd and a Docker
engine inside it need, one by one.
"""

from __future__ import annotations

import io
import os
import socket
import subprocess
import tarfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from pool.errors import PoolError
from pool.lab.apt import File
from pool.lab.engine import Engine
from pool.lab.network import Network

LABEL: Final = "pool-lab"
#: Where the host finds its cards.
CARDS: Final = "/opt/pool-lab"
_CAPABILITIES: Final = (
    *("SYS_ADMIN", "NET_ADMIN", "NET_RAW", "SYS_PTRACE", "SYS_CHROOT", "MKNOD", "SYS_NICE", "AUDIT_WRITE"),
    *("AUDIT_CONTROL", "DAC_READ_SEARCH", "IPC_LOCK", "LINUX_IMMUTABLE", "SYS_BOOT", "SYS_TIME", "SYSLOG"),
)
_BOOT_S: Final = 120.0


@dataclass(frozen=True, slots=True)
class Container:
    """A host's container: how it is called and where it is."""

    name: str  #: in Docker
    hostname: str
    address: str
    lab: str  #: the lab's folder, its label


def make(
    engine: Engine, image: str, container: Container, network: Network, files: Sequence[File], mounts: dict[str, str]
) -> None:
    """Make the container with these files in it, and these folders or files of this machine to read; not started."""
    words = [
        "create",
        "--name",
        container.name,
        "--hostname",
        container.hostname,
        "--label",
        f"{LABEL}={container.lab}",
    ]
    words += ["--network", network.name, "--ip", container.address, "--stop-signal", "SIGRTMIN+3"]
    words += [f"--cap-add={name}" for name in _CAPABILITIES]
    words += ["--security-opt", "seccomp=unconfined", "--security-opt", "apparmor=unconfined"]
    words += ["--device-cgroup-rule", "a *:* rwm", "--cgroupns=host", "--volume", "/sys/fs/cgroup:/sys/fs/cgroup:rw"]
    words += ["--tmpfs", "/run:exec", "--tmpfs", "/run/lock", "--tmpfs", "/tmp:exec"]  # noqa: S108 -- the host's
    words += ["--volume", "/var/lib/docker"]  # a Docker engine inside cannot lay its layers upon ours
    for target, source in mounts.items():
        words += ["--volume", f"{source}:{target}:ro"]
    engine(*words, image, "/sbin/init")
    engine("cp", "-", f"{container.name}:/", stdin=_archive(files))


def start(engine: Engine, container: Container) -> None:
    """Have it run; nothing happens to one that does."""
    engine("start", container.name)


def stop(engine: Engine, container: Container) -> None:
    """Shut it down in order."""
    engine("stop", "--time", "20", container.name)


def reboot(engine: Engine, container: Container, *, power_cut: bool = False) -> None:
    """Boot it anew: after a shutdown in order, or, as after a power cut, without any."""
    if power_cut:
        engine("kill", container.name)
        engine("start", container.name)
    else:
        engine("restart", "--time", "20", container.name)


def freeze(engine: Engine, container: Container) -> None:
    """Stop its time: nothing in it runs until `thaw`."""
    engine("pause", container.name)


def thaw(engine: Engine, container: Container) -> None:
    """Let its time go on."""
    if engine.text("inspect", "--format", "{{.State.Paused}}", container.name, check=False) == "true":
        engine("unpause", container.name)


def remove(engine: Engine, lab: str) -> None:
    """Remove every container of the lab, with what its own Docker engine stored."""
    names = engine.text("ps", "--all", "--quiet", "--filter", f"label={LABEL}={lab}").split()
    if names:
        engine("rm", "--force", "--volumes", *names, timeout=300)


def pid(engine: Engine, name: str) -> int:
    """The pid, on this machine, of its init; 0 when it does not run or is not there."""
    found = engine.text("inspect", "--type", "container", "--format", "{{.State.Pid}}", name, check=False)
    return int(found) if found.isdigit() else 0


def execute(
    engine: Engine, container: Container, argv: Sequence[str], *, timeout: float = 60.0
) -> subprocess.CompletedProcess[bytes]:
    """Run a program in it as root, beside its sshd."""
    return engine("exec", container.name, *argv, timeout=timeout, check=False)


def await_boot(engine: Engine, container: Container) -> None:
    """Until systemd has booted and sshd answers; PoolError, with what failed, when it does not."""
    deadline = time.monotonic() + _BOOT_S
    state = ""
    while time.monotonic() < deadline:
        done = execute(engine, container, ["systemctl", "is-system-running"])
        state = done.stdout.decode(errors="replace").strip()
        if state in ("running", "degraded") and _greets(container.address):
            return
        time.sleep(0.1)
    journal = execute(engine, container, ["journalctl", "--no-pager", "--lines=5"]).stdout.decode(errors="replace")
    raise PoolError(f"{container.hostname} did not boot ({state or 'systemd does not answer'}): {journal.strip()}")


def _greets(address: str) -> bool:
    try:
        with socket.create_connection((address, 22), timeout=5.0) as connection:
            return connection.recv(4) == b"SSH-"
    except OSError:
        return False


def _archive(files: Sequence[File]) -> bytes:
    """A tar of these files. Folders on their way that are not in the image belong to the file's owner."""
    buffer, now = io.BytesIO(), time.time()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for file in files:
            if file.uid:
                parent = tarfile.TarInfo(os.path.dirname(file.path).lstrip("/"))
                parent.mtime = now
                parent.type, parent.mode, parent.uid, parent.gid = tarfile.DIRTYPE, 0o700, file.uid, file.uid
                archive.addfile(parent)
            entry = tarfile.TarInfo(file.path.lstrip("/"))
            entry.mode, entry.uid, entry.gid, entry.size = file.mode, file.uid, file.uid, len(file.content)
            entry.mtime = now
            if file.link:
                entry.type, entry.linkname, entry.size = tarfile.SYMTYPE, file.link, 0
            archive.addfile(entry, io.BytesIO(file.content))
    return buffer.getvalue()
