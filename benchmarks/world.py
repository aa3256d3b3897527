"""A pool to measure: a lab of real SSH hosts, a server with warm links to them, `ssh` to the same hosts."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from benchmarks.command import run
from pool.client import Client

REPOSITORY = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
#: As pip writes it for `[project.scripts]`, for where pool is not installed.
_PROGRAM = "#!{}\nimport sys\nfrom pool.cli.main import main\nif __name__ == '__main__':\n    sys.exit(main())\n"


class World:
    """One lab of `hosts` hosts, all of them added to a pool of its own. Everything of it is gone after `close`.

    The hosts are unprivileged sshds; with `system` they are whole machines with Docker, for which one has to be root.
    """

    def __init__(self, hosts: int, *, system: bool = False) -> None:
        self.folder = tempfile.mkdtemp(prefix="pb", dir="/tmp")
        self.state = os.path.join(self.folder, "s")
        private = ("POOL_", "DSTACK_", "SSH_", "ANSIBLE_", "XDG_")
        self.env = {name: value for name, value in os.environ.items() if not name.startswith(private)}
        self.env |= {
            "POOL_STATE_DIR": self.state,
            "PYTHONPATH": REPOSITORY,
            "POOL_LAB": os.path.join(self.state, "lab"),
        }
        self.program = _program(self.folder)
        kind = ["--system"] if system else []
        try:
            self.hosts: list[dict[str, Any]] = json.loads(
                self.pool("lab", "up", *kind, "--hosts", str(hosts), "--json")
            )
            self._add_hosts()
        except BaseException:
            self.close()
            raise

    def argv(self, *words: str) -> list[str]:
        """The command line of a `pool` command."""
        return [*self.program, *words]

    def pool(self, *words: str) -> str:
        """Run a `pool` command; its stdout."""
        return run(self.argv(*words), env=self.env)

    def task(self, name: str, *commands: str, nodes: int = 1, **more: Any) -> list[str]:
        """The words after `pool` that run these commands: a task file in a folder with nothing else in it."""
        folder = os.path.join(self.folder, name)
        os.makedirs(folder, exist_ok=True)
        path = os.path.join(folder, "task.dstack.yml")
        with open(path, "w", encoding="utf-8") as file:
            json.dump({"type": "task", "nodes": nodes, "commands": list(commands)} | more, file)
        return ["run", folder, "-f", path, "-y"]

    def run_named(self, name: str) -> dict[str, Any]:
        """One run as JSON."""
        found: dict[str, Any] = json.loads(self.pool("runs", name, "--json"))
        return found

    def wait(self, name: str) -> dict[str, Any]:
        """The run, once it has ended well."""
        while not (found := self.run_named(name))["finished"]:
            time.sleep(0.05)
        if found["exit_code"] != 0:
            raise RuntimeError(f"{name}: {found}")
        return found

    def ssh(self, *words: str, number: int = 0, options: tuple[str, ...] = ()) -> list[str]:
        """The command line of `ssh` to a host; cold, and as OpenSSH is set without a configuration file."""
        host = self.hosts[number]
        settings = ("BatchMode=yes", f"UserKnownHostsFile={os.path.join(self.state, 'known_hosts')}", *options)
        flags = [word for setting in settings for word in ("-o", setting)]
        where = [f"{host['user']}@{host['address']}", "-p", str(host["port"]), "-i", host["key"]]
        return ["ssh", "-F", "none", *flags, *where, *words]

    def warm_ssh(self, *words: str) -> list[str]:
        """The same through a ControlMaster that is open already."""
        path = os.path.join(self.folder, "m")
        options = (f"ControlPath={path}",)
        if not os.path.exists(path):
            master = self.ssh(options=(*options, "ControlMaster=yes"))
            subprocess.run([*master, "-N", "-f"], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
        return self.ssh(*words, options=options)

    def close(self) -> None:
        """Take server, lab and folder away."""
        if os.path.exists(os.path.join(self.folder, "m")):
            run(self.ssh("-O", "exit", options=(f"ControlPath={os.path.join(self.folder, 'm')}",)))
        self.pool("server", "stop")
        self.pool("lab", "down")
        shutil.rmtree(self.folder, ignore_errors=True)

    def client(self) -> Client:
        """The server of this world, as the CLI speaks to it."""
        os.environ["POOL_STATE_DIR"] = self.state
        return Client(start=False)

    def _add_hosts(self) -> None:
        """What `pool add-ssh` does, all hosts at once: the command itself takes one name and fingerprint a call."""
        self.pool("server", "start")
        keys = ("name", "user", "port", "key", "fingerprint")
        wishes = [{key: host[key] for key in keys} | {"destination": host["address"]} for host in self.hosts]
        for head, _ in self.client().stream("POST", "/hosts", {"hosts": wishes}):
            problems = [added["error"] for added in head.get("end", ()) if added["error"]]
            if problems:
                raise RuntimeError(f"pool add-ssh: {problems}")


class Worlds:
    """Makes worlds when a row asks for one, each size once, and closes them all."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._made: dict[tuple[int, bool], World] = {}
        self._stack = ExitStack()

    def of(self, hosts: int, *, system: bool = False) -> World:
        """The world with that many hosts, whole machines or not."""
        if (hosts, system) not in self._made:
            self._say(f"starting a lab of {hosts} {'whole machines' if system else 'hosts'}")
            self._made[hosts, system] = world = World(hosts, system=system)
            self._stack.callback(world.close)
        return self._made[hosts, system]

    def close(self) -> None:
        """Close every world."""
        self._stack.close()


def _program(folder: str) -> list[str]:
    """The `pool` that people type: the installed one of this interpreter, else the same script made here."""
    installed = os.path.join(os.path.dirname(sys.executable), "pool")
    if os.path.exists(installed):
        return [installed]
    path = os.path.join(folder, "pool")
    with open(path, "w", encoding="utf-8") as file:
        file.write(_PROGRAM.format(sys.executable))
    os.chmod(path, 0o755)
    return [path]
