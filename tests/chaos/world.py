"""Two lab hosts, pools on them, and the means to kill whatever is between a person and a job."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from pool.errors import PoolError, ServerError, from_json
from pool.lab import loopback
from pool.lab import processes as lab_processes
from pool.lab.loopback import LabHost
from pool.runner import durable, processes
from pool.store.store import Store
from tests.conftest import PRIVATE, REPOSITORY, Cli, Result, add_ssh
from tests.runner_host import until


class Pool:
    """One state folder: its server, and `pool` as a person types it."""

    def __init__(self, folder: str, marker: str) -> None:
        self.folder = folder
        os.makedirs(folder, mode=0o700)
        home = os.path.join(folder, "home")
        os.makedirs(home)
        env = {name: value for name, value in os.environ.items() if not name.startswith(PRIVATE)}
        self.env = env | {
            "HOME": home,
            "COLUMNS": "120",
            "POOL_STATE_DIR": folder,
            "PYTHONPATH": str(REPOSITORY),
            lab_processes.MARKER: marker,
        }
        self.cli = Cli(self.env)

    # -- asking -----------------------------------------------------------------------------------------------------

    def get(self, path: str) -> Any:
        """What the server answers, started if it does not run and asked again if it dies meanwhile."""
        return until(lambda: self._get(path), f"an answer to {path}")[0]

    def run(self, name: str) -> dict[str, Any]:
        """The run with this name."""
        found: dict[str, Any] = self.get(f"/runs/{name}")
        return found

    def end_of(self, name: str) -> dict[str, Any]:
        """The run at its end."""

        def ended() -> dict[str, Any] | None:
            run = self.run(name)
            return run if run["finished"] else None

        found: dict[str, Any] = until(ended, f"the end of {name}")
        return found

    def until_shown(self, name: str, shown: str) -> None:
        """Until every rank of the run is shown so."""
        until(lambda: {job["shown"] for job in self.run(name)["jobs"]} == {shown}, f"{name} {shown}")

    def until_ready(self) -> None:
        """Until both hosts have their link."""
        until(lambda: [host["status"] for host in self.get("/hosts")] == ["ready"] * 2, "two ready hosts")

    def submit(
        self, name: str, commands: list[str], *, nodes: int = 1, gpu: str | None = None, **options: Any
    ) -> Result:
        """`pool run -d`."""
        folder = os.path.join(self.folder, "task", name)
        os.makedirs(folder, exist_ok=True)
        task: dict[str, Any] = {"type": "task", "name": name, "nodes": nodes, "commands": commands}
        if gpu:
            task["resources"] = {"gpu": gpu}
        Path(folder, ".dstack.yml").write_text(json.dumps(task | options), encoding="utf-8")
        return self.cli("run", folder, "-y", "-d", "-q")

    def log(self, name: str, rank: int = 0) -> bytes:
        """`pool logs`."""
        argv = self.cli.argv("logs", name, "--rank", str(rank))
        return subprocess.run(argv, env=self.env, stdin=subprocess.DEVNULL, capture_output=True, check=True).stdout

    def follow(self, name: str, rank: int, into: str) -> subprocess.Popen[bytes]:
        """`pool logs -f`, its output in a file."""
        with open(into, "wb") as file:
            argv = self.cli.argv("logs", name, "-f", "--rank", str(rank))
            return subprocess.Popen(argv, env=self.env, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.PIPE)

    # -- harm -------------------------------------------------------------------------------------------------------

    @property
    def server(self) -> dict[str, Any] | None:
        """The identity of the server that runs; None when none does."""
        try:
            with open(os.path.join(self.folder, "server.pid"), encoding="utf-8") as file:
                who = processes.identity(int(file.read()))
        except (FileNotFoundError, ValueError):
            return None
        return who if processes.alive(who) else None

    def kill_server(self) -> None:
        """kill -9; nothing when it does not run."""
        who = self.server
        if who:
            kill([who])

    def settle(self) -> None:
        """A server that runs, and ready hosts."""
        self.get("/hosts")
        self.until_ready()

    def _get(self, path: str) -> tuple[Any] | None:
        code = "import json, sys; from pool.client import Client; print(json.dumps(Client().get(sys.argv[1])))"
        try:
            return (_ask(os.path.join(self.folder, "server.sock"), path),)
        except (OSError, ValueError):
            done = subprocess.run([sys.executable, "-c", code, path], env=self.env, capture_output=True, text=True)
            return (json.loads(done.stdout),) if done.returncode == 0 else None


def _ask(sock: str, path: str) -> Any:
    """GET without a process of its own; ValueError when the answer was cut off."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
        link.settimeout(30)
        link.connect(sock)
        link.sendall(f"GET {path} HTTP/1.0\r\nHost: pool\r\n\r\n".encode())
        head, _, body = b"".join(iter(lambda: link.recv(1 << 16), b"")).partition(b"\r\n\r\n")
    answer = json.loads(body)
    if head.split()[1:2] != [b"200"]:
        error = from_json(answer)
        assert not isinstance(error, PoolError) or isinstance(error, ServerError), error
        raise ValueError(error)
    return answer


class World:
    """The lab and its pools."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.root = os.path.join(folder, "lab")
        self.hosts = loopback.up(2, root=self.root)
        self.pool = Pool(os.path.join(folder, "a"), self.root)
        self._pools = [self.pool]
        self.pool.cli("server", "start")
        adding = [self.pool.cli.start(*add_ssh(host)) for host in self.hosts]
        for each in adding:
            output = each.communicate(timeout=120)[1]
            assert each.returncode == 0, output

    def another_pool(self, name: str) -> Pool:
        """A pool of its own on the same hosts, as if they had been added to it too."""
        made = Pool(os.path.join(self.folder, name), self.root)
        self._pools.append(made)
        theirs, ours = Store(self.pool.folder), Store(made.folder)
        for host in theirs.hosts.all():
            ours.hosts.add(host)
        shutil.copy(os.path.join(self.pool.folder, "known_hosts"), made.folder)
        for store in (theirs, ours):
            store.close()
        return made

    def copy_of(self, pool: Pool, name: str) -> Pool:
        """The same pool in a second state folder, as after a restored backup."""
        made = Pool(os.path.join(self.folder, name), self.root)
        self._pools.append(made)
        for entry in ("pool.db", "known_hosts"):
            shutil.copy(os.path.join(pool.folder, entry), made.folder)
        for entry in ("code", "secrets"):
            if os.path.exists(os.path.join(pool.folder, entry)):
                shutil.copytree(os.path.join(pool.folder, entry), os.path.join(made.folder, entry))
        return made

    def state(self, host: LabHost) -> str:
        """The runner's state folder on a host."""
        return os.path.join(host.home, ".local", "state", "pool-runner")

    def held(self) -> dict[str, str]:
        """GPU -> job, as the ledgers of all hosts say."""
        found = {}
        for host in self.hosts:
            ledger = durable.read_json(os.path.join(self.state(host), "ledger.json")) or {"jobs": {}}
            found |= {gpu: job for job, entry in ledger["jobs"].items() for gpu in entry["gpus"]}
        return found

    def runners(self) -> list[dict[str, Any]]:
        """The identities of the runners that run."""
        found = [durable.read_json(os.path.join(self.state(host), "daemon.json")) for host in self.hosts]
        return [who for who in found if who and processes.alive(who)]

    def sessions(self, host: LabHost | None = None) -> list[dict[str, Any]]:
        """The identities of the sshd processes of open sessions, of all hosts or of one."""
        listeners = {each.pid for each in self.hosts}
        found = []
        for pid in lab_processes.belonging(self.root):
            ancestors = _parents(pid)
            of_host = host.pid in ancestors if host else listeners & set(ancestors)
            if pid not in listeners and of_host and _is_sshd(pid):
                found.append(processes.identity(pid))
        return found

    def kill_runners(self) -> None:
        """kill -9 of both."""
        kill(self.runners())

    def kill_sessions(self) -> None:
        """kill -9 of every sshd but the listeners: all links are cut."""
        kill(self.sessions())

    def end(self) -> list[str]:
        """Stop everything; what did not belong there any more."""
        for pool in self._pools:
            pool.cli("server", "stop")
            pool.kill_server()
        loopback.stop_runners(self.root)
        left = []
        for pid in lab_processes.belonging(self.root):
            with contextlib.suppress(OSError):
                words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
                if not words.startswith("sshd"):
                    left.append(words)
        loopback.down(self.root)
        return left


def kill(found: list[dict[str, Any]]) -> None:
    """kill -9, and wait until they are gone."""
    for who in found:
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(who["pid"]), signal.SIGKILL)
    until(lambda: not any(processes.alive(who) for who in found), "their death")


def sha256(data: bytes) -> str:
    """As the server tells it."""
    return hashlib.sha256(data).hexdigest()


def _parents(pid: int) -> list[int]:
    found = []
    while pid > 1:
        try:
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            break
        found.append(pid)
    return found


def _is_sshd(pid: int) -> bool:
    try:
        return os.path.basename(os.readlink(f"/proc/{pid}/exe")).startswith("sshd")
    except OSError:
        return False
