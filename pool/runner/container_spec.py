"""From what a server asks to what the engine makes a container of: commands, mounts, limits, GPUs, environment.

In the container: /workflow is the uploaded folder, /.pool has what the runner gives (script, hosts). Host folders,
privileges and a Docker of its own are the operator's to allow, in the host's `policy`.
"""

from __future__ import annotations

import glob
import json
import os
from typing import Any

from pool.runner import policy, processes
from pool.runner.container import BEGUN, OURS, TERMINAL, labels
from pool.runner.jobs import JobFolder
from pool.runner.ledger import RefusedError
from pool.runner.limits import RDMA

WORKFLOW = "/workflow"
_ROOT = ("", "0", "root")
#: What only the operator allows, by its name in the task and in the policy alike.
_PRIVILEGES = {"privileged": "privileged containers", "docker": "Docker inside of a job"}
#: Takes the terminal, says so, and has the first of these shells that the image has run the commands.
_BEGIN = (
    "exec >{terminal} 2>&1 </dev/null; printf '\\{begun:03o}'; unset TINI_KILL_PROCESS_GROUP; "
    'for shell in "$@"; do if command -v "$shell" >/dev/null 2>&1; then exec "$shell" {ours}/script; fi; done; '
    'echo "pool: the image has no shell $1" >&2; exit 127'
).format(terminal=TERMINAL, begun=BEGUN[0], ours=OURS)


def build(
    folder: JobFolder,
    state: str,
    asked: dict[str, Any],
    gpus: list[str],
    pool: str,
    image: dict[str, Any],
    limits: dict[str, Any],
    info: dict[str, Any],
) -> dict[str, Any]:
    """The container's part of the spec: its config but for the environment. RefusedError for what is not allowed.

    `image` and `info` are what the engine says of the image and of itself.
    """
    wants = asked["container"]
    user = wants.get("user") or str(image["Config"].get("User") or "")
    config: dict[str, Any] = {
        "Image": image["Id"],
        "User": wants.get("user") or "",
        "Labels": labels(folder.job, pool, int(wants.get("attempt", 1)), state),
        "AttachStdout": True,
        "AttachStderr": True,
        "HostConfig": _host_config(state, wants, gpus, limits, info),
    }
    commands = bool(asked.get("script"))
    if commands:
        shells = [asked["shell"]] if asked.get("shell") else ["bash", "sh"]
        config.update(Entrypoint=["sh", "-c", _BEGIN, "pool", *shells], Cmd=[])
    elif wants.get("argv"):
        config.update(Entrypoint=wants["argv"][:1], Cmd=wants["argv"][1:])
    own = not commands and not wants.get("argv")
    config["HostConfig"]["Init"] = not own
    if not own or asked.get("working_dir") not in (None, "", "."):
        config["WorkingDir"] = os.path.normpath(os.path.join(WORKFLOW, asked.get("working_dir") or "."))
    config["HostConfig"]["Mounts"] += _mounts(folder, commands)
    if wants.get("docker"):  # an engine needs a file system that layers can lie on; this one goes with the container
        room = {"Type": "volume", "Target": "/var/lib/docker", "VolumeOptions": {"Labels": config["Labels"]}}
        config["HostConfig"]["Mounts"].append(room)
    terminal = _terminal(user, info) if commands else None
    live = info.get("LiveRestoreEnabled") is True
    return {"config": config, "terminal": terminal, "live_restore": live, "image": wants["image"], "user": user}


def environment(folder: JobFolder, asked: dict[str, Any], gpus: list[str], user: str) -> dict[str, str]:
    """What is set beside the image's own, last wins: the pool's, the user's; the GPUs are the runner's alone."""
    env: dict[str, Any] = {"TERM": "xterm"} if asked.get("script") else {}  # as Docker does for a terminal of its own
    home = asked["container"].get("home") or "/root"
    if home != "/root" or user.partition(":")[0] in _ROOT:  # root's home is no other user's
        env["HOME"] = home
    if asked.get("hosts_file"):
        env["DSTACK_MPI_HOSTFILE"] = OURS + "/hosts"
    env.update(asked.get("pool_env") or {})
    env.update(asked.get("env") or {})
    env["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
    env["NVIDIA_VISIBLE_DEVICES"] = ",".join(gpus) or "void"
    env["TINI_KILL_PROCESS_GROUP"] = "1"  # a stop reaches all of the commands, as Ctrl-C does
    env[processes.MARK] = folder.job
    for key, value in env.items():
        try:
            str(value).encode()
        except UnicodeEncodeError:
            raise RefusedError("bad_request", "env {}: a container's variables are UTF-8 text".format(key)) from None
    return {str(key): str(value) for key, value in env.items()}


def owner(user: str) -> tuple[int, int]:
    """Whom the uploaded folder belongs to: the container's user where that is a number, else its root.

    A runner that is not root can give nothing away: it stays the runner's.
    """
    if os.getuid() != 0:
        return os.getuid(), os.getgid()
    uid, _, gid = user.partition(":")
    if not uid.isdigit():
        return 0, 0
    return int(uid), int(gid) if gid.isdigit() else int(uid)


def _terminal(user: str, info: dict[str, Any]) -> list[Any]:
    """The uid, None for none, and the mode of the commands' terminal: the container's user writes there, nobody reads.

    Of a user by name only the image knows the uid, and of an engine that maps uids nobody here: then all may write.
    """
    name = user.partition(":")[0]
    if os.getuid() != 0 or _has(info, "userns") or not (name in _ROOT or name.isdigit()):
        return [None, 0o622]
    return [owner(user)[0], 0o600]


def _has(info: dict[str, Any], option: str) -> bool:
    """True for an engine with this security option."""
    return any(str(each).startswith("name=" + option) for each in info.get("SecurityOptions") or ())


def _host_config(
    state: str, wants: dict[str, Any], gpus: list[str], limits: dict[str, Any], info: dict[str, Any]
) -> dict[str, Any]:
    allowed = policy.read(state)
    for name, what in _PRIVILEGES.items():
        if wants.get(name) and allowed.get(name) is not True:
            says = "{}: the operator of this host allows no {}".format(name, what)
            raise policy.refused(state, says, '{{"{}": true}}'.format(name))
    found: dict[str, Any] = {
        "NetworkMode": "host" if wants.get("network") == "host" else "bridge",
        "RestartPolicy": {"Name": "no"},
        "LogConfig": {"Type": "none", "Config": {}},
        "Privileged": bool(wants.get("privileged") or wants.get("docker")),
        "ShmSize": int(wants["shm_mib"]) << 20 if wants.get("shm_mib") else _memory_bytes() // 2,
        "Mounts": [_volume(each, state, allowed) for each in wants.get("volumes") or ()],
        **_limits(limits),
    }
    if _has(info, "selinux"):
        found["SecurityOpt"] = ["label=disable"]  # the job's folder and terminal have labels of the host's
    if gpus:
        found.update(_gpus(gpus, info))
    return found


def _limits(limits: dict[str, Any]) -> dict[str, Any]:
    """As `limits` has them, in the engine's words."""
    found: dict[str, Any] = {"PidsLimit": limits["pids"]}
    if limits["cpus_max"]:
        found["NanoCpus"] = int(limits["cpus_max"] * 1e9)
    if limits["cpus"]:
        found["CpuShares"] = max(2, int(limits["cpus"] * 1024))
    if limits["memory_max"]:
        found["Memory"] = found["MemorySwap"] = limits["memory_max"]  # both alike: no swap on top
    if limits["rdma"]:
        found["Devices"] = [{"PathOnHost": RDMA, "PathInContainer": RDMA, "CgroupPermissions": "rwm"}]
        found["Ulimits"] = [{"Name": "memlock", "Soft": -1, "Hard": -1}]
    return found


def _gpus(gpus: list[str], info: dict[str, Any]) -> dict[str, Any]:
    """Exactly these cards, by UUID: through CDI where the engine lists them, else NVIDIA's runtime, else Docker."""
    if _listed(gpus, info.get("CDISpecDirs") or ()):
        names = ["nvidia.com/gpu=" + uuid for uuid in gpus]
        return {"Runtime": "runc", "DeviceRequests": [{"Driver": "cdi", "DeviceIDs": names}]}
    if "nvidia" in (info.get("Runtimes") or {}):
        return {"Runtime": "nvidia"}  # it reads NVIDIA_VISIBLE_DEVICES
    return {"DeviceRequests": [{"Driver": "nvidia", "DeviceIDs": list(gpus), "Capabilities": [["gpu"]]}]}


def _listed(gpus: list[str], folders: Any) -> bool:
    """True when the engine's lists of devices have every one of these cards."""
    text = ""
    for path in [path for folder in folders for path in glob.glob(os.path.join(folder, "*"))]:
        try:
            with open(path, errors="replace") as file:
                text += file.read(1 << 22)
        except OSError:
            continue
    return bool(gpus) and "nvidia.com/gpu" in text and all(uuid in text for uuid in gpus)


def _volume(written: str, state: str, permitted: dict[str, Any]) -> dict[str, Any]:
    """One host folder, by where it really is. Allowed is a listed folder itself: below it, others may place links."""
    source, target, *mode = written.split(":")
    allowed = [str(each) for each in permitted.get("volumes") or ()]
    real = os.path.realpath(source)
    if real not in [os.path.realpath(each) for each in allowed]:
        says = "it allows " + ", ".join(allowed) if allowed else "it allows none"
        says = "volumes: {} is not allowed by the operator of this host: {}".format(source, says)
        raise policy.refused(state, says, json.dumps({"volumes": [*allowed, source]}))
    if not os.path.isdir(real):
        raise RefusedError("not_allowed", "volumes: this host has no folder {}".format(source))
    return {"Type": "bind", "Source": real, "Target": target, "ReadOnly": mode == ["ro"]}


def _mounts(folder: JobFolder, commands: bool) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [{"Type": "bind", "Source": folder.work, "Target": WORKFLOW}]
    for name in ("hosts", "script") if commands else ("hosts",):
        target = "{}/{}".format(OURS, name)
        found.append({"Type": "bind", "Source": folder.file(name), "Target": target, "ReadOnly": True})
    return found


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
