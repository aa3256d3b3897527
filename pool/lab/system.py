"""The system lab: hosts that are containers with systemd, sshd and their own addresses, for what needs a whole machine.

    <root>/lab.json            every host that was made, and the network
    <root>/key  key.pub        the one client key, which every host lets in
    <root>/node1/              the first host:
        host_key  host_key.pub
        cards/gpus.json        its cards; edit it, or use `set_gpus`, and `nvidia-smi` there tells of it
    <root>/resolv.conf         how hosts find names

A host has a user with sudo without a password, apt that reaches what this machine's apt reaches, and room for a Docker
engine of its own. Needs root here. What a lab does to this machine: Debian packages (`engine.install`), a Docker engine
where none answers, containers, a bridge and its firewall rules; `down` removes all but the packages and the image.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, Final

from pool import config
from pool.errors import InputError, NotFoundError, PoolError
from pool.lab import apt, container, engine, image, network, openssh, sshd
from pool.lab import gpus as cards
from pool.lab.apt import File
from pool.lab.container import Container
from pool.lab.engine import Engine
from pool.lab.loopback import LabHost
from pool.lab.network import Network

MAX_HOSTS: Final = 64
_SMI: Final = "/usr/bin/nvidia-smi"


class SystemLab:
    """The lab in one folder. Every method may be called again after it was cut off: it finds what is there.

    `network_name` is that of its bridge, and stands in every firewall rule of the lab.
    """

    def __init__(self, root: str | None = None, *, tell: Callable[[str], None] = lambda _: None) -> None:
        """`tell` gets one line for each thing that takes long."""
        self.root = os.path.realpath(root or config.path("system-lab"))
        if ":" in self.root or "," in self.root:
            raise InputError(f"Docker cannot be told of a folder of this name: {self.root}")
        self.network_name = "plab-" + hashlib.sha256(self.root.encode()).hexdigest()[:8]
        self._tell = tell

    def up(self, hosts: int, *, gpus: int = 2, gpu_model: str = "H100") -> list[LabHost]:
        """Have (at least) that many hosts up, booted and answering; returns them all.

        A host that is there keeps everything, and is booted if it is down; `gpus` and `gpu_model` are for those that
        are added. InputError for a number out of range, LabError where this machine can have no such lab.
        """
        if not 1 <= hosts <= MAX_HOSTS:
            raise InputError(f"a system lab has 1 to {MAX_HOSTS} hosts, not {hosts}")
        cards.check(gpus, gpu_model)
        with engine.locked():
            docker = engine.require(self._tell)
            picture = image.require(docker, self._tell)
            state = self._claim()
            self._prepare()
            if not state["network"] or docker("network", "inspect", self.network_name, check=False).returncode:
                made = network.make(docker, self.network_name, int(self.network_name[-2:], 16))
                state = {"network": asdict(made), "hosts": {}}
                self._save(state)
            net = Network(**state["network"])
            network.open_up(docker, net)
            for number in range(1, hosts + 1):
                name = f"node{number}"
                if name not in state["hosts"]:
                    state["hosts"][name] = {"address": net.address(number)}
                    self._make(docker, picture, net, name, state, gpus, gpu_model)
            for name in state["hosts"]:
                container.start(docker, self._container(state, name))
            for name in state["hosts"]:
                container.await_boot(docker, self._container(state, name))
            return self._hosts(docker, state)

    def hosts(self) -> list[LabHost]:
        """The hosts of the lab; empty when there is none. Without root, none is seen to be up."""
        return self._hosts(engine.find() if os.geteuid() == 0 else None, self._load())

    def down(self) -> int:
        """Take the lab away: containers, network, rules, the folder, and the engine when it was ours and is unused.

        Returns how many hosts it had: 0 without a lab.
        """
        if not os.path.exists(os.path.join(self.root, "lab.json")):
            return 0
        with engine.locked():
            docker = engine.find()
            state = self._load()
            if docker:
                for name in state["hosts"]:
                    container.thaw(docker, self._container(state, name))
                container.remove(docker, self.root)
            if state["network"]:
                network.remove(docker, Network(**state["network"]))
            engine.stop_unused()
            shutil.rmtree(self.root)
        return len(state["hosts"])

    # -- what happens to a host ---------------------------------------------------------------------------------

    def execute(self, host: str, *argv: str, timeout: float = 60.0) -> tuple[int, str]:
        """Run a program on the host as root, beside its sshd: `(exit code, output and errors)`."""
        docker, machine = self._machine(host)
        done = container.execute(docker, machine, argv, timeout=timeout)
        return done.returncode, (done.stdout + done.stderr).decode(errors="replace")

    def reboot(self, host: str, *, power_cut: bool = False) -> None:
        """Boot the host anew, and wait until it has."""
        docker, machine = self._machine(host)
        container.reboot(docker, machine, power_cut=power_cut)
        container.await_boot(docker, machine)

    def freeze(self, host: str) -> None:
        """Stop the host's time; what it holds stays as it is."""
        container.freeze(*self._machine(host))

    def thaw(self, host: str) -> None:
        """Let the host's time go on."""
        container.thaw(*self._machine(host))

    def cut(self, host: str) -> None:
        """Drop every packet between this machine and the host."""
        network.cut(Network(**self._load()["network"]), self._machine(host)[1].address)

    def mend(self, host: str) -> None:
        """Undo `cut`."""
        network.mend(Network(**self._load()["network"]), self._machine(host)[1].address)

    def set_gpus(self, host: str, count: int, model: str = "H100", *, fault: str | None = None) -> None:
        """Give the host other cards, or sick ones; no card, no `nvidia-smi`."""
        folder = os.path.join(self.root, self._machine(host)[1].hostname, "cards")
        cards.write(folder, count, model, fault=fault, seen_as=container.CARDS)

    # -- inside -------------------------------------------------------------------------------------------------

    def _prepare(self) -> None:
        """The client key, and how hosts find names."""
        sshd.keygen(openssh.require(), os.path.join(self.root, "key"), comment="pool-lab")
        with open(os.path.join(self.root, "resolv.conf"), "w", encoding="utf-8") as file:
            file.write(_resolv_conf())

    def _make(
        self, docker: Engine, picture: str, net: Network, name: str, state: dict[str, Any], gpus: int, model: str
    ) -> None:
        programs = openssh.require()
        folder = os.path.join(self.root, name)
        os.makedirs(os.path.join(folder, "cards"), mode=0o755, exist_ok=True)
        sshd.keygen(programs, os.path.join(folder, "host_key"), comment=name)
        cards.write(os.path.join(folder, "cards"), gpus, model, seen_as=container.CARDS)
        for path, _, names in os.walk(os.path.join(folder, "cards")):  # jobs there may look, whatever umask made it
            for each in (path, *(os.path.join(path, file) for file in names)):
                os.chmod(each, os.stat(each).st_mode | 0o444 | (0o111 if each == path else 0))
        state["hosts"][name]["fingerprint"] = sshd.fingerprint(programs, folder)
        mounts = {container.CARDS: os.path.join(folder, "cards")}
        if _resolv_conf():
            mounts["/etc/resolv.conf"] = os.path.join(self.root, "resolv.conf")
        machine = self._container(state, name)
        docker("rm", "--force", "--volumes", machine.name, check=False)  # of an `up` that was cut off
        container.make(docker, picture, machine, net, self._files(folder), mounts)
        self._save(state)

    def _files(self, folder: str) -> list[File]:
        """What makes the image this very host."""
        key = "/etc/ssh/ssh_host_ed25519_key"
        login = f"/home/{image.USER}/.ssh/authorized_keys"
        return [
            File(key, _bytes(os.path.join(folder, "host_key")), 0o600),
            File(f"{key}.pub", _bytes(os.path.join(folder, "host_key.pub"))),
            File(login, _bytes(os.path.join(self.root, "key.pub")), 0o600, image.UID),
            File(_SMI, b"", link=f"{container.CARDS}/bin/nvidia-smi"),
            *apt.carried(image.SUITE),
        ]

    def _machine(self, host: str) -> tuple[Engine, Container]:
        state, docker = self._load(), engine.find()
        if host not in state["hosts"]:
            raise NotFoundError(f"the lab has no host {host}", hint="pool lab status")
        if docker is None:
            raise PoolError("the Docker engine of the lab does not answer", hint="pool lab up --system")
        return docker, self._container(state, host)

    def _container(self, state: dict[str, Any], name: str) -> Container:
        return Container(f"{self.network_name}-{name}", name, state["hosts"][name]["address"], self.root)

    def _hosts(self, docker: Engine | None, state: dict[str, Any]) -> list[LabHost]:
        return [
            LabHost(
                name=name,
                address=record["address"],
                port=22,
                user=image.USER,
                key=os.path.join(self.root, "key"),
                home=f"/home/{image.USER}",
                fingerprint=record["fingerprint"],
                pid=container.pid(docker, f"{self.network_name}-{name}") if docker else 0,
            )
            for name, record in state["hosts"].items()
        ]

    def to_json(self, found: list[LabHost]) -> list[dict[str, Any]]:
        """The hosts as plain values, with their cards, for `--json`."""
        return [
            asdict(host) | {"gpus": cards.read(os.path.join(self.root, host.name, "cards"))["gpus"]} for host in found
        ]

    def _claim(self) -> dict[str, Any]:
        """Make the folder, or refuse one that holds something else; the lab's state."""
        os.makedirs(self.root, mode=0o700, exist_ok=True)
        if not os.path.exists(os.path.join(self.root, "lab.json")):
            if os.listdir(self.root):
                raise InputError(f"this folder is not a lab, and not empty: {self.root}")
            self._save({"network": None, "hosts": {}})
        return self._load()

    def _load(self) -> dict[str, Any]:
        try:
            with open(os.path.join(self.root, "lab.json"), encoding="utf-8") as file:
                found: dict[str, Any] = json.load(file)
                return found
        except FileNotFoundError:
            return {"network": None, "hosts": {}}

    def _save(self, state: dict[str, Any]) -> None:
        path = os.path.join(self.root, "lab.json")
        with open(path + ".new", "w", encoding="utf-8") as file:
            json.dump(state, file, indent=2)
        os.replace(path + ".new", path)


def _resolv_conf() -> str:
    """This machine's own, unless it names a server that only this machine can reach: then Docker finds a way."""
    for path in ("/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"):
        try:
            text = _bytes(path).decode(errors="replace")
        except OSError:
            continue
        servers = [line.split()[1] for line in text.splitlines() if line.startswith("nameserver ")]
        if servers and not any(server.startswith(("127.", "::1")) for server in servers):
            return text
    return ""


def _bytes(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()
