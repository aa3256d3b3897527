"""From what a server asks to what the supervisor execs: argv, folder, user and the job's whole environment."""

from __future__ import annotations

import os
import pwd
import shutil
from typing import Any

from pool.runner import processes
from pool.runner.jobs import JobFolder
from pool.runner.ledger import RefusedError

_SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def environment(folder: JobFolder, asked: dict[str, Any], gpus: list[str], who: pwd.struct_passwd) -> dict[str, Any]:
    """The job's environment, last wins: this host's, the pool's, the user's; the GPUs are the runner's alone."""
    own = who.pw_uid == os.getuid()
    env = {
        "HOME": os.environ.get("HOME", who.pw_dir) if own else who.pw_dir,
        "USER": who.pw_name,
        "LOGNAME": who.pw_name,
        "SHELL": who.pw_shell or "/bin/sh",
        "PATH": os.environ.get("PATH", _SYSTEM_PATH) if own else _SYSTEM_PATH,
        "LANG": os.environ.get("LANG", "C.UTF-8"),
        "TERM": "xterm-256color",
    }
    if asked.get("hosts_file"):
        env["DSTACK_MPI_HOSTFILE"] = folder.file("hosts")
    env.update(asked.get("pool_env") or {})
    env.update(asked.get("env") or {})
    env["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
    env["NVIDIA_VISIBLE_DEVICES"] = ",".join(gpus) or "void"
    env[processes.MARK] = folder.job
    return {str(key): str(value) for key, value in env.items()}


def build(
    folder: JobFolder, asked: dict[str, Any], gpus: list[str], pool: str, who: pwd.struct_passwd
) -> dict[str, Any]:
    """The spec the supervisor reads. Refused: a folder outside the work folder, a shell that is not there."""
    cwd = os.path.normpath(os.path.join(folder.work, asked.get("working_dir") or "."))
    if cwd != folder.work and not cwd.startswith(folder.work + os.sep):
        raise RefusedError(
            "bad_request", "working_dir {!r} is outside the uploaded folder".format(asked["working_dir"])
        )
    argv = [] if asked.get("container") else [_shell(asked.get("shell")), folder.file("script")]
    return {
        "job": folder.job,
        "pool": pool,
        "gpus": gpus,
        "argv": argv,
        "cwd": cwd,
        "uid": who.pw_uid,
        "gid": who.pw_gid,
        "user": who.pw_name,
        "max_duration_s": asked.get("max_duration_s"),
        "inactivity_s": asked.get("inactivity_s"),
        "stop_duration_s": asked.get("stop_duration_s", 30),
    }


def _shell(name: str | None) -> str:
    for candidate in [name] if name else ["bash", "sh"]:
        found = shutil.which(candidate)
        if found:
            return found
    raise RefusedError("no_shell", "the host has no shell {!r}".format(name))
