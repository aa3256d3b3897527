"""What this host is: CPUs, memory, disk, addresses, GPUs. Reads only; no command may hold it up for long."""

from __future__ import annotations

import fcntl
import os
import platform
import socket
import struct
import subprocess
from typing import Any

from pool.runner.engine import Engine, EngineError, EngineGoneError

#: A driver in trouble makes nvidia-smi hang; the runner must not hang with it.
GPU_TIMEOUT_S = 15.0
_QUERY = "index,uuid,name,memory.total,driver_version,compute_cap"
_SIOCGIFADDR, _SIOCGIFNETMASK = 0x8915, 0x891B


def facts(state: str) -> dict[str, Any]:
    """The facts as JSON; `pool.host.facts_from_json` reads them. Memory and disk in MiB."""
    disk = os.statvfs(state)
    gpus, driver, problem = nvidia_gpus()
    docker, docker_problem = _docker()
    return {
        "cpus": len(os.sched_getaffinity(0)),
        "memory_mib": _memory_mib(),
        "disk_free_mib": disk.f_bavail * disk.f_frsize >> 20,
        "disk_total_mib": disk.f_blocks * disk.f_frsize >> 20,
        "gpus": gpus,
        "driver": driver,
        "gpu_problem": problem,
        "addresses": addresses(),
        "hostname": socket.gethostname(),
        "os": _os_name(),
        "kernel": platform.release(),
        "arch": platform.machine(),
        "docker": docker,
        "docker_problem": docker_problem,
    }


def nvidia_gpus() -> tuple[list[dict[str, Any]], str | None, str | None]:
    """`(gpus, driver version, problem)`; a GPU has the keys of `pool.host.Gpu`."""
    argv = ["nvidia-smi", "--query-gpu=" + _QUERY, "--format=csv,noheader,nounits"]
    code, out = _ask(argv, GPU_TIMEOUT_S)
    if code is None:
        return [], None, out or None
    if code != 0:
        return [], None, "nvidia-smi failed: " + (out.strip().splitlines() or ["exit {}".format(code)])[0][:200]
    gpus, driver = [], None
    for line in out.splitlines():
        fields = [field.strip() for field in line.split(",")]
        if len(fields) != 6 or not fields[1].startswith(("GPU-", "MIG-")):
            return [], None, "nvidia-smi said: " + line[:200]
        index, uuid, name, memory, driver, capability = fields
        gpus.append(
            {
                "vendor": "nvidia",
                "index": int(index),
                "uuid": uuid,
                "name": name,
                "memory_mib": int(memory) if memory.isdigit() else 0,  # [N/A] where the card shares the host's memory
                "compute_capability": [int(n) for n in capability.split(".")] if capability[:1].isdigit() else None,
            }
        )
    return gpus, driver, None


def addresses() -> list[dict[str, Any]]:
    """`[{"ip", "prefix", "interface"}]`: each interface's first IPv4 address and its global IPv6 ones."""
    found = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            request = struct.pack("256s", name.encode()[:15])
            try:
                ip = fcntl.ioctl(probe, _SIOCGIFADDR, request)[20:24]
                mask = fcntl.ioctl(probe, _SIOCGIFNETMASK, request)[20:24]
            except OSError:  # no IPv4 address
                continue
            prefix = bin(struct.unpack(">I", mask)[0]).count("1")
            found.append({"ip": socket.inet_ntoa(ip), "prefix": prefix, "interface": name})
    try:
        with open("/proc/net/if_inet6") as file:
            rows = [line.split() for line in file]
    except OSError:
        rows = []
    for raw, _, bits, scope, _, label in rows:
        if scope == "00":  # global; 20 is link-local, 10 the host itself
            address = socket.inet_ntop(socket.AF_INET6, bytes.fromhex(raw))
            found.append({"ip": address, "prefix": int(bits, 16), "interface": label})
    return found


def free_port() -> int:
    """A TCP port nothing here listens on now; the task binds it next."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe_socket:
        probe_socket.bind(("", 0))
        return int(probe_socket.getsockname()[1])


def _ask(argv: list[str], timeout_s: float) -> tuple[int | None, str]:
    """`(exit code, output)`; `(None, problem)` when the program is missing or does not answer in time."""
    try:
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    except FileNotFoundError:
        return None, ""
    except OSError as error:
        return None, "{}: {}".format(argv[0], error)
    try:
        out = process.communicate(timeout=timeout_s)[0]
    except subprocess.TimeoutExpired:
        process.kill()  # not waited for: in the kernel's D state it would take us along
        return None, "{} did not answer within {:.0f} s".format(argv[0], timeout_s)
    return process.returncode, out.decode(errors="replace")


def _memory_mib() -> int:
    with open("/proc/meminfo") as file:
        for line in file:
            if line.startswith("MemTotal:"):
                return int(line.split()[1]) >> 10
    return 0


def _os_name() -> str:
    try:
        with open("/etc/os-release") as file:
            values = dict(line.rstrip().split("=", 1) for line in file if "=" in line)
    except OSError:
        return platform.system()
    return values.get("PRETTY_NAME", "").strip('"')


def _docker() -> tuple[str | None, str | None]:
    """`(version, problem)` of an engine that jobs can use; neither where there is no sign of one."""
    try:
        version = Engine().version()
    except EngineGoneError as error:
        missing = isinstance(error.__cause__, FileNotFoundError)
        return None, None if missing else str(error)
    except EngineError as error:
        return None, str(error)
    if os.getuid() != 0:
        return None, "the runner there is not run by root"
    return version, None
