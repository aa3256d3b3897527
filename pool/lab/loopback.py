"""The loopback lab: real OpenSSH daemons on 127.0.0.x, each a host of its own, to try things and to test.

    <root>/lab.json            every host that was made: the lab's only state
    <root>/key  key.pub        the one client key, which every host lets in
    <root>/gpu1/               the first host:
        home/ bin/             what a session there sees as HOME and first in PATH
        gpus.json              its cards; edit it, or use `pool.lab.gpus.write`, and `nvidia-smi` there tells of it
        host_key sshd_config authorized_keys sshd.log sshd.pid

A session there carries `POOL_LAB=<root>`, by which `down` finds what was started, and `POOL_RUNNER_SCOPE=user`, which
keeps the runner's installation inside the host's home. A path that names a user (`~root`) still means the real home;
Ansible makes such paths from `~`, so what it does to a lab host goes by `ansible_facts.env.HOME` and `$HOME`.
"""

from __future__ import annotations

import fcntl
import json
import os
import pwd
import secrets
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from pool import config
from pool.errors import InputError, PoolError
from pool.lab import gpus as cards
from pool.lab import openssh, processes, sshd

MAX_HOSTS = 200


@dataclass(frozen=True, slots=True)
class LabHost:
    """One host of the lab, as `pool add-ssh` needs it."""

    name: str
    address: str
    port: int
    user: str
    key: str  #: path of the private key that the host lets in
    home: str  #: HOME of a session there
    fingerprint: str  #: of the host key, `SHA256:…`
    pid: int  #: of its sshd; 0 when that does not run


def up(hosts: int, *, root: str | None = None, gpus: int = 2, gpu_model: str = "H100") -> list[LabHost]:
    """Have (at least) that many hosts up; returns them all.

    A host that is there keeps its address, key, cards and home, and is started again if its sshd has ended; `gpus` and
    `gpu_model` are for the hosts that are added. Raises InputError for a number out of range or a folder that is
    something else, PoolError when sshd is missing or does not start.
    """
    if not 1 <= hosts <= MAX_HOSTS:
        raise InputError(f"a lab has 1 to {MAX_HOSTS} hosts, not {hosts}")
    if not sys.platform.startswith("linux"):
        raise PoolError("the loopback lab needs Linux, where every 127.x.y.z is this machine")
    cards.check(gpus, gpu_model)
    root = _root(root)
    programs = openssh.require()
    _claim(root)
    with _locked(root):
        client_key = os.path.join(root, "key")
        sshd.keygen(programs, client_key, comment="pool-lab")
        records = _load(root)
        wanted = [f"gpu{number}" for number in range(1, hosts + 1)]
        for name in wanted:
            if name in records:
                continue
            folder = os.path.join(root, name)
            sshd.prepare(programs, folder, client_key + ".pub")
            cards.write(folder, gpus, gpu_model)
            address = f"127.0.0.{10 + int(name.removeprefix('gpu'))}"
            records[name] = {"address": address, "port": 0, "fingerprint": sshd.fingerprint(programs, folder)}
            _save(root, records)
        _start_missing(programs, root, records)
        return _hosts(root, records)


def hosts(root: str | None = None) -> list[LabHost]:
    """The hosts of the lab in `root`; empty when there is no lab."""
    root = _root(root)
    return _hosts(root, _load(root))


def stop(host: LabHost) -> None:
    """End the daemon of one host and its sessions; what runs on the host stays, as when a machine's sshd dies."""
    folder = os.path.dirname(host.home)
    owned = processes.belonging(folder).items()
    processes.end([(host.pid, processes.started(host.pid) or 0), *owned] if host.pid else owned)


def stop_runners(root: str | None = None) -> None:
    """Ask each runner that was installed in a host's home to stop by itself; what does not answer is `down`'s."""
    root = _root(root)
    for name in _load(root):
        _stop_runner(root, os.path.join(root, name))


def down(root: str | None = None) -> int:
    """Take the lab in `root` away: runners, daemons, whatever their sessions left, the folder.

    Returns how many hosts it had: 0 without a lab. Raises PoolError when a process cannot be ended; the folder then
    stays.
    """
    root = _root(root)
    if not os.path.exists(os.path.join(root, "lab.json")):
        return 0
    with _locked(root):
        records = _load(root)
        stop_runners(root)
        daemons = {record["pid"]: record["started"] for record in records.values() if record.get("pid")}
        left: list[int] = []
        for _ in range(5):  # what is ending may still start something
            found = daemons | processes.belonging(root)
            if not any(processes.alive(pid, since) for pid, since in found.items()):
                break
            left = processes.end(found.items())
        if left:
            raise PoolError(f"these processes of the lab do not end: {', '.join(map(str, sorted(left)))}")
        _remove(root)
    return len(records)


def _root(root: str | None) -> str:
    found = os.path.realpath(root or config.path("lab"))
    if any(c in found for c in '"\n%\\'):
        raise InputError(f"sshd cannot be told of a folder of this name: {found}")
    return found


def _claim(root: str) -> None:
    """Make the folder, or refuse one that holds something else."""
    os.makedirs(root, mode=0o700, exist_ok=True)
    path = os.path.join(root, "lab.json")
    if not os.path.exists(path):
        if set(os.listdir(root)) - {".lock"}:
            raise InputError(f"this folder is not a lab, and not empty: {root}")
        _save(root, {})


def _start_missing(programs: openssh.OpenSSH, root: str, records: dict[str, Any]) -> None:
    """Start every daemon that does not run; all get one port where that is free."""
    for _ in range(20):
        missing = [n for n, r in records.items() if not (r.get("pid") and processes.alive(r["pid"], r["started"]))]
        if not missing:
            return
        kept = {record["port"] for record in records.values() if record["port"]}
        port = _free_port([records[name]["address"] for name in missing], sorted(kept))
        for name in missing:
            record = records[name]
            pid = sshd.start(programs, root, os.path.join(root, name), record["address"], port)
            if pid is not None:
                record.update(port=port, pid=pid, started=processes.started(pid) or 0)
                _save(root, records)
    raise PoolError("no port was free on " + ", ".join(records[name]["address"] for name in missing))


def _free_port(addresses: list[str], preferred: list[int]) -> int:
    """A port that no one has on any of these addresses now, of the preferred ones if possible."""
    for port in [*preferred, *(20000 + secrets.randbelow(10000) for _ in range(200))]:
        if all(_is_free(address, port) for address in addresses):
            return port
    raise PoolError("no free port was found on " + ", ".join(addresses))


def _is_free(address: str, port: int) -> bool:
    with socket.socket() as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind((address, port))
        except OSError:
            return False
        return True


def _stop_runner(root: str, folder: str) -> None:
    home = os.path.join(folder, "home")
    program = os.path.join(home, ".local", "bin", "pool-runner")
    if not os.path.exists(program):
        return
    environment = {
        "HOME": home,
        "PATH": f"{os.path.join(folder, 'bin')}:{os.defpath}",
        "POOL_RUNNER_SCOPE": "user",
        processes.MARKER: root,
    }
    try:
        subprocess.run([program, "stop"], env=environment, cwd=home, capture_output=True, timeout=15, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return


def _hosts(root: str, records: dict[str, Any]) -> list[LabHost]:
    user = pwd.getpwuid(os.geteuid()).pw_name
    return [
        LabHost(
            name=name,
            address=record["address"],
            port=record["port"],
            user=user,
            key=os.path.join(root, "key"),
            home=os.path.join(root, name, "home"),
            fingerprint=record["fingerprint"],
            pid=record["pid"] if record.get("pid") and processes.alive(record["pid"], record["started"]) else 0,
        )
        for name, record in records.items()
    ]


def to_json(found: list[LabHost]) -> list[dict[str, Any]]:
    """The hosts as plain values, with their cards, for `--json`."""
    return [asdict(host) | {"gpus": cards.read(os.path.dirname(host.home))["gpus"]} for host in found]


def _load(root: str) -> dict[str, Any]:
    try:
        with open(os.path.join(root, "lab.json"), encoding="utf-8") as file:
            found: dict[str, Any] = json.load(file)
            return found
    except FileNotFoundError:
        return {}


def _save(root: str, records: dict[str, Any]) -> None:
    path = os.path.join(root, "lab.json")
    with open(path + ".new", "w", encoding="utf-8") as file:
        json.dump(records, file, indent=2)
    os.replace(path + ".new", path)


@contextmanager
def _locked(root: str) -> Iterator[None]:
    """One `up` or `down` of a lab at a time."""
    with open(os.path.join(root, ".lock"), "w", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _remove(root: str) -> None:
    try:
        shutil.rmtree(root)
    except PermissionError:
        # A job may have left a folder that its owner may not change.
        for folder, names, _ in os.walk(root):
            for path in (os.path.join(folder, name) for name in names):
                if not os.path.islink(path):
                    os.chmod(path, 0o700)
        shutil.rmtree(root)
