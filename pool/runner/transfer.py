"""Copies files out of a job's folder or into it, as the job's user and from where the job is; a program of its own.

`pool-runner transfer JOB FD out PATH`, `… in PATH NAME file|folder`: the tar of tree.py is on stdout or stdin, what is
said of it, a JSON object a line, on FD. The files of a container are seen as it sees them, with its own folder as the
root: no link in it leads out, and nothing of it is ever run (sealed.py). Of one that has ended its folder /workflow is
left.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any, NoReturn

from pool.runner import container_spec, processes, tree
from pool.runner.container import name_of
from pool.runner.engine import Engine, EngineError, EngineGoneError
from pool.runner.jobs import JobFolder
from pool.runner.ledger import RefusedError
from pool.runner.sealed import Seal
from pool.runner.tree import TreeError

#: Of a file that tells of users no more is read.
_USERS_MAX = 1 << 20


def main(state: str, job: str, told: int, words: list[str]) -> NoReturn:
    """Copy; ends with 0 once all was, with 1 when it was said why not."""
    code = 1
    try:
        try:
            _copy(JobFolder(state, job), told, words)
            code = 0
        except (TreeError, EngineError, EngineGoneError, RefusedError, OSError) as error:
            _tell(told, error=str(error))
        except BaseException as error:  # where others made the root nobody else may handle it
            _tell(told, error="the copy failed: {}".format(type(error).__name__))
    finally:
        os._exit(code)


def _copy(folder: JobFolder, told: int, words: list[str]) -> None:
    seal = Seal()
    path = _go(seal, folder, words[1])
    if words[0] == "out":
        _tell(told, **tree.measure(path))
        left = tree.pack(path, lambda data: _write_all(1, data), seal.reopen)
        os.close(1)  # what is told may be more than a pipe holds, and is read after this
        _tell(told, **vars(left))
    else:
        target = tree.place(path, words[2], words[3] == "folder")
        _tell(told, place=target)
        tree.unpack(sys.stdin.buffer.read, target)
        _tell(told, done=True)


def _tell(told: int, **what: Any) -> None:
    _write_all(told, json.dumps(what).encode() + b"\n")


def _go(seal: Seal, folder: JobFolder, path: str) -> str:
    """Become the job's user in the job's folder; the path as it is from there."""
    spec = folder.spec
    if "container" not in spec:
        if os.getuid() == 0 and spec["uid"] != 0:
            os.initgroups(spec["user"], spec["gid"])
            os.setgid(spec["gid"])
            os.setuid(spec["uid"])
        os.chdir(spec["cwd"])
        return os.path.normpath(path) + ("/" if path.endswith("/") else "") if path else "."
    if folder.exit is None:
        return _go_into(seal, folder.job, spec["container"]["user"], path)
    found = os.stat(folder.work)
    inside = os.path.normpath(os.path.join(spec["container"]["config"].get("WorkingDir") or "/", path))
    if inside != container_spec.WORKFLOW and not inside.startswith(container_spec.WORKFLOW + "/"):
        raise TreeError("{}: of a container that has ended {} is left".format(path, container_spec.WORKFLOW))
    seal.enter(os.open(folder.work, os.O_RDONLY | os.O_DIRECTORY))
    seal.become(found.st_uid, found.st_gid)
    return (inside[len(container_spec.WORKFLOW) :] or "/") + ("/" if path.endswith("/") else "")


def _go_into(seal: Seal, job: str, user: str, path: str) -> str:
    """Into a container that runs, as its user."""
    told = Engine().ask("GET", "/containers/{}/json".format(name_of(job)))
    pid = int(told["State"]["Pid"])
    root = os.open("/proc/{}/root".format(pid), os.O_RDONLY | os.O_DIRECTORY)
    maps = [_read_map(pid, each) for each in ("uid_map", "gid_map")]
    if not pid or not (processes.is_of_job(pid, job) or processes.is_in(pid, told["Id"])):
        raise TreeError("the container of job {} has ended".format(job))
    seal.enter(root)
    uid, gid = _user(seal, user)
    seal.become(_outside(maps[0], uid), _outside(maps[1], gid))
    os.chdir(told["Config"].get("WorkingDir") or "/")
    return path or "."


def _user(seal: Seal, user: str) -> tuple[int, int]:
    """uid and gid of a user as the image knows it: by name or number, with or without a group; root without one."""
    name, _, group = user.partition(":")
    uid, gid = (int(name) if name.isdigit() else 0), 0
    for fields in _lines(seal, "/etc/passwd", 4):
        if (name and fields[0] == name) or (name.isdigit() and fields[2] == name):
            uid, gid = int(fields[2]), int(fields[3])
            break
    else:
        if name and not name.isdigit():
            raise TreeError("the image has no user {}".format(name))
    if group.isdigit():
        gid = int(group)
    elif group:
        gid = next((int(fields[2]) for fields in _lines(seal, "/etc/group", 3) if fields[0] == group), gid)
    return uid, gid


def _lines(seal: Seal, path: str, least: int) -> list[list[str]]:
    try:
        with tree.open_file(path, seal.reopen) as file:
            found = [line.split(":") for line in file.read(_USERS_MAX).decode("utf-8", "replace").split("\n")]
    except OSError:
        return []
    return [fields for fields in found if len(fields) >= least and fields[2].isdecimal()]


def _read_map(pid: int, name: str) -> list[list[int]]:
    with open("/proc/{}/{}".format(pid, name)) as file:
        return [[int(word) for word in line.split()] for line in file]


def _outside(lines: list[list[int]], number: int) -> int:
    """Of an engine that maps users: this one's number on the host."""
    for inside, outside, count in lines:
        if inside <= number < inside + count:
            return outside + number - inside
    raise TreeError("the container has no user {}".format(number))


def _write_all(fd: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(fd, left) :]
