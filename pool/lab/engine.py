"""The Docker engine whose containers are the hosts of the system lab.

It is the machine's own where that answers. Where none does, one is started for the labs alone, which shares nothing
with another: its socket and records are in /run/pool-lab, its data in /var/lib/pool-lab; it makes no bridge and no
firewall rule. It is stopped, and all of that removed, once its last container has gone.
"""

from __future__ import annotations

import fcntl
import glob
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final

from pool.errors import LabError, PoolError
from pool.lab import processes

_RUN: Final = "/run/pool-lab"
_DATA: Final = "/var/lib/pool-lab"
_SOCKET: Final = f"{_RUN}/docker.sock"
_RECORD: Final = f"{_RUN}/engine.json"
_LOG: Final = f"{_RUN}/dockerd.log"
_FORWARDING: Final = "/proc/sys/net/ipv4/ip_forward"
_CGROUP: Final = "pool-lab"
_MACHINES: Final = "/var/run/docker.sock"
_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#: Program -> the Debian package that has it.
PROGRAMS: Final = {"dockerd": "docker.io", "docker": "docker-cli", "iptables": "iptables", "mmdebstrap": "mmdebstrap"}
_START_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Engine:
    """A Docker engine that answers."""

    socket: str
    ours: bool  #: it was started for the labs, and makes no firewall rules

    def __call__(
        self, *words: str, stdin: bytes | None = None, timeout: float = 120.0, check: bool = True
    ) -> subprocess.CompletedProcess[bytes]:
        """Run `docker WORDS`; with `check`, a failure is a PoolError with what it said."""
        argv = ["docker", "--host", f"unix://{self.socket}", *words]
        done = _run(argv, stdin=stdin, timeout=timeout)
        if check and done.returncode:
            said = done.stderr.decode(errors="replace").strip().splitlines()
            raise PoolError(f"docker {words[0]} failed: {said[-1] if said else f'exit code {done.returncode}'}")
        return done

    def text(self, *words: str, check: bool = True) -> str:
        """What `docker WORDS` prints."""
        return self(*words, check=check).stdout.decode(errors="replace").strip()


@contextmanager
def locked() -> Iterator[None]:
    """One change to the labs of this machine at a time; LabError for anyone but root."""
    if os.geteuid() != 0:
        raise LabError("the system lab needs root: its hosts are containers that systemd runs in", hint="sudo -i")
    os.makedirs(_RUN, mode=0o700, exist_ok=True)
    with open(os.path.join(_RUN, ".lock"), "w", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def require(tell: Callable[[str], None] = lambda _: None) -> Engine:
    """An engine that answers: found, else started; Debian packages that this takes are installed, and `tell` told.

    To be called inside `locked`. LabError when there can be none.
    """
    install(tell)
    return find() or _start(tell)


def find() -> Engine | None:
    """The engine that answers now: the one that was started for the labs, else the machine's own."""
    for engine in (Engine(_SOCKET, ours=True), Engine(_MACHINES, ours=False)):
        if os.path.exists(engine.socket) and shutil.which("docker", path=_PATH):
            with suppress(subprocess.TimeoutExpired):
                if engine("version", check=False, timeout=20).returncode == 0:
                    return engine
    return None


def install(tell: Callable[[str], None]) -> None:
    """Have every program of PROGRAMS; LabError, whose hint is what to type, when that cannot be."""
    for _ in range(2):  # Debian 12 has the client in the engine's package, Debian 13 in one of its own
        missing = [name for name in PROGRAMS if not shutil.which(name, path=_PATH)]
        if "dockerd" in missing and "docker" in missing:
            missing.remove("docker")
        if not missing:
            return
        packages = sorted({PROGRAMS[name] for name in missing})
        by_hand = f"apt-get install -y {' '.join(packages)}"
        if not shutil.which("apt-get", path=_PATH):
            raise LabError(f"these programs are missing: {', '.join(missing)}", hint="install them, and try again")
        tell(f"installing with apt-get: {', '.join(packages)}")
        apt = ["apt-get", "-q", "-o", "DPkg::Lock::Timeout=300"]
        extra = {"DEBIAN_FRONTEND": "noninteractive", "NEEDRESTART_SUSPEND": "1"}
        _run([*apt, "update"], timeout=600, env=extra)
        done = _run([*apt, "install", "-y", "--no-install-recommends", *packages], timeout=1200, env=extra)
        if done.returncode:
            said = (done.stderr or done.stdout).decode(errors="replace").strip().splitlines()
            raise LabError(f"the system lab needs {', '.join(packages)}: {said[-1] if said else ''}", hint=by_hand)
    raise LabError("docker is still missing after its installation", hint="apt-get install -y docker-cli")


def stop_unused() -> None:
    """Stop the engine that was started for the labs, and leave nothing of it, unless it still has a container.

    To be called inside `locked`.
    """
    record = _record()
    if record is None:
        return
    engine = find()
    if engine and engine.ours and engine.text("ps", "-aq"):
        return
    containerd = _read_pid(f"{_RUN}/exec/containerd/containerd.pid")
    left = processes.end([(record["pid"], record["started"])], grace_s=30.0)
    if containerd:  # it outlives an engine that was killed
        left += processes.end([(containerd, processes.started(containerd) or 0)])
    if left:
        raise PoolError(f"the Docker engine of the labs does not end: {', '.join(map(str, left))}")
    _forget(record)


def _start(tell: Callable[[str], None]) -> Engine:
    tell("starting a Docker engine for the labs")
    os.makedirs(_DATA, mode=0o710, exist_ok=True)
    forwarding = _read_text(_FORWARDING)
    argv = ["dockerd", "--host", f"unix://{_SOCKET}", "--data-root", f"{_DATA}/docker", "--exec-root", f"{_RUN}/exec"]
    argv += ["--pidfile", f"{_RUN}/docker.pid", "--cgroup-parent", f"/{_CGROUP}"]
    argv += ["--exec-opt", "native.cgroupdriver=cgroupfs", "--bridge=none", "--iptables=false", "--ip6tables=false"]
    argv += ["--containerd-namespace", "pool-lab", "--containerd-plugins-namespace", "pool-lab-plugins"]
    with open(_LOG, "wb") as log:
        dockerd = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/", env={"PATH": _PATH}, start_new_session=True
        )
    since = processes.started(dockerd.pid) or 0
    record = {"pid": dockerd.pid, "started": since, "forwarding": forwarding}
    with open(_RECORD, "w", encoding="utf-8") as file:
        json.dump(record, file)
    deadline = time.monotonic() + _START_S
    while dockerd.poll() is None and time.monotonic() < deadline:
        found = find()
        if found and found.ours:
            return found
        time.sleep(0.1)
    processes.end([(dockerd.pid, since)])
    said = [line for line in _read_text(_LOG).splitlines() if "level=fatal" in line or "failed" in line]
    _forget(record)
    raise LabError(f"dockerd does not start on this machine: {said[-1][-300:] if said else 'it says nothing'}")


def _forget(record: dict[str, Any]) -> None:
    """Remove everything that a stopped engine of ours has left."""
    for mount in sorted(_mounts(f"{_RUN}/", f"{_DATA}/"), reverse=True):
        _run(["umount", "--lazy", mount], timeout=30)
    shutil.rmtree(_DATA, ignore_errors=True)
    shutil.rmtree(f"{_RUN}/exec", ignore_errors=True)
    for path in (_SOCKET, f"{_RUN}/docker.pid", _LOG, _RECORD):
        with suppress(FileNotFoundError):
            os.unlink(path)
    if record.get("forwarding", "1").strip() == "0":
        with suppress(OSError), open(_FORWARDING, "w", encoding="utf-8") as file:
            file.write("0\n")
    for top in [*glob.glob(f"/sys/fs/cgroup/*/{_CGROUP}"), f"/sys/fs/cgroup/{_CGROUP}"]:
        for folder, _, _ in os.walk(top, topdown=False):
            with suppress(OSError):
                os.rmdir(folder)


def _run(
    argv: Sequence[str], *, timeout: float, stdin: bytes | None = None, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Run a program with a plain environment: nothing of the person's own Docker settings counts here."""
    plain = {"PATH": _PATH, "LC_ALL": "C.UTF-8", "DOCKER_CONFIG": f"{_RUN}/client", "HOME": "/root", **(env or {})}
    proxies = {name: value for name, value in os.environ.items() if name.lower().endswith("_proxy")}
    if stdin is None:
        return subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout, env=proxies | plain, check=False
        )
    return subprocess.run(argv, input=stdin, capture_output=True, timeout=timeout, env=proxies | plain, check=False)


def _record() -> dict[str, Any] | None:
    try:
        with open(_RECORD, encoding="utf-8") as file:
            found: dict[str, Any] = json.load(file)
            return found
    except (FileNotFoundError, ValueError):
        return None


def _mounts(*folders: str) -> list[str]:
    with open("/proc/self/mounts", encoding="utf-8", errors="replace") as file:
        return [path for path in (line.split()[1] for line in file) if path.startswith(folders)]


def _read_pid(path: str) -> int | None:
    text = _read_text(path).strip()
    return int(text) if text.isdigit() else None


def _read_text(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""
