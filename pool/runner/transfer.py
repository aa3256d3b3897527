"""Copies files out of a job's folder or into it, as the job's user and from where the job is; a program of its own.

`pool-runner transfer JOB FD out PATH`, `… in PATH NAME file|folder`: the tar of tree.py is on stdout or stdin, what is
said of it, a JSON object a line, on FD. The files of a container are seen as it sees them, with its own folder as the
root: no link in it leads out. Of one that has ended its folder /workflow is left.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from pool.runner import container_spec, processes, tree
from pool.runner.container import name_of
from pool.runner.engine import Engine, EngineError, EngineGoneError
from pool.runner.jobs import JobFolder
from pool.runner.tree import TreeError


def main(state: str, job: str, told: int, words: list[str]) -> int:
    """Copy; 0 once all was, 1 when it was said why not."""

    def tell(**what: Any) -> None:
        os.write(told, json.dumps(what).encode() + b"\n")

    try:
        path = _go(JobFolder(state, job), words[1])
        if words[0] == "out":
            tell(**tree.measure(path))
            tell(skipped=tree.pack(path, _write_all))
        else:
            target = tree.place(path, words[2], words[3] == "folder")
            tell(place=target)
            tree.unpack(sys.stdin.buffer.read, target)
            tell(done=True)
    except TreeError as error:
        tell(error=str(error))
    except (EngineError, EngineGoneError, OSError) as error:
        tell(error="{}".format(error))
    else:
        return 0
    return 1


def _go(folder: JobFolder, path: str) -> str:
    """Become the job's user in the job's folder; the path as it is from there."""
    spec = folder.spec
    if "container" not in spec:
        if os.getuid() == 0 and spec["uid"] != 0:
            os.initgroups(spec["user"], spec["gid"])
            _become(spec["uid"], spec["gid"])
        os.chdir(spec["cwd"])
        return os.path.normpath(path) + ("/" if path.endswith("/") else "") if path else "."
    if folder.exit is None:
        return _go_into(folder.job, spec["container"]["user"], path)
    found = os.stat(folder.work)
    inside = os.path.normpath(os.path.join(spec["container"]["config"].get("WorkingDir") or "/", path))
    if inside != container_spec.WORKFLOW and not inside.startswith(container_spec.WORKFLOW + "/"):
        raise TreeError("{}: of a container that has ended {} is left".format(path, container_spec.WORKFLOW))
    _root(os.open(folder.work, os.O_RDONLY | os.O_DIRECTORY))
    _become(found.st_uid, found.st_gid)
    return (inside[len(container_spec.WORKFLOW) :] or "/") + ("/" if path.endswith("/") else "")


def _go_into(job: str, user: str, path: str) -> str:
    """Into a container that runs, as its user."""
    told = Engine().ask("GET", "/containers/{}/json".format(name_of(job)))
    pid = int(told["State"]["Pid"])
    root = os.open("/proc/{}/root".format(pid), os.O_RDONLY | os.O_DIRECTORY)
    maps = [_read_map(pid, each) for each in ("uid_map", "gid_map")]
    if not pid or not (processes.is_of_job(pid, job) or processes.is_in(pid, told["Id"])):
        raise TreeError("the container of job {} has ended".format(job))
    _root(root)
    uid, gid = _user(user)
    _become(_outside(maps[0], uid), _outside(maps[1], gid))
    os.chdir(told["Config"].get("WorkingDir") or "/")
    return path or "."


def _root(folder: int) -> None:
    os.fchdir(folder)
    os.close(folder)
    os.chroot(".")


def _become(uid: int, gid: int) -> None:
    if os.getuid() == 0:
        os.setgroups([gid])
        os.setgid(gid)
        os.setuid(uid)


def _user(user: str) -> tuple[int, int]:
    """uid and gid of a user as the image knows it: by name or number, with or without a group; root without one."""
    name, _, group = user.partition(":")
    uid, gid = (int(name) if name.isdigit() else 0), 0
    for fields in _lines("/etc/passwd", 4):
        if (name and fields[0] == name) or (name.isdigit() and fields[2] == name):
            uid, gid = int(fields[2]), int(fields[3])
            break
    else:
        if name and not name.isdigit():
            raise TreeError("the image has no user {}".format(name))
    if group.isdigit():
        gid = int(group)
    elif group:
        gid = next((int(fields[2]) for fields in _lines("/etc/group", 3) if fields[0] == group), gid)
    return uid, gid


def _lines(path: str, least: int) -> list[list[str]]:
    try:
        with open(path, errors="replace") as file:
            found = [line.rstrip("\n").split(":") for line in file]
    except OSError:
        return []
    return [fields for fields in found if len(fields) >= least and fields[2].isdigit()]


def _read_map(pid: int, name: str) -> list[list[int]]:
    with open("/proc/{}/{}".format(pid, name)) as file:
        return [[int(word) for word in line.split()] for line in file]


def _outside(lines: list[list[int]], number: int) -> int:
    """Of an engine that maps users: this one's number on the host."""
    for inside, outside, count in lines:
        if inside <= number < inside + count:
            return outside + number - inside
    raise TreeError("the container has no user {}".format(number))


def _write_all(data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(1, left) :]
