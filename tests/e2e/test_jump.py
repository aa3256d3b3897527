"""Hosts behind a jump host: a real sshd that carries connections, another that is reached only through it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import paramiko
import pytest

from pool.errors import HostKeyError
from pool.host import Jump
from pool.lab import loopback
from pool.lab.loopback import LabHost
from pool.provision.playbook import run_playbook
from pool.ssh import connection, host_keys
from pool.ssh.destination import Target
from tests.conftest import Cli, add_ssh, pinned
from tests.e2e.test_ports import ECHO, Attached, echoed, free

Machine = Callable[[], LabHost]


def folder(host: LabHost) -> Path:
    """Where the lab keeps the host."""
    return Path(os.path.dirname(host.home))


def logged(host: LabHost) -> str:
    """What its sshd has logged."""
    return (folder(host) / "sshd.log").read_text(encoding="utf-8", errors="replace")


def configure(host: LabHost, old: str, new: str) -> None:
    """Change a line of the host's sshd_config, and have its sshd read it."""
    config = folder(host) / "sshd_config"
    assert old in config.read_text()
    config.write_text(config.read_text().replace(old, new))
    before = logged(host).count("Server listening")
    os.kill(host.pid, signal.SIGHUP)
    deadline = time.monotonic() + 20
    while logged(host).count("Server listening") == before:
        assert time.monotonic() < deadline, logged(host)
        time.sleep(0.02)


def carry(host: LabHost) -> LabHost:
    """Let the host be a jump host."""
    configure(host, "AllowTcpForwarding no", "AllowTcpForwarding yes")
    return host


def keygen(path: Path) -> paramiko.PKey:
    """A new key pair at `path`."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True, timeout=30)
    return paramiko.PKey.from_path(str(path))


def jump_of(host: LabHost) -> Jump:
    """The host as a jump host."""
    return Jump(host.address, host.port, host.user, host.key)


def spec(host: LabHost) -> str:
    """What is typed after -J."""
    return f"{host.user}@{host.address}:{host.port}"


def pin(known_hosts: str, *hosts: LabHost) -> str:
    """Pin the keys of these hosts."""
    for host in hosts:
        pinned(known_hosts, host)
    return known_hosts


def hosts(cli: Cli) -> dict[str, dict[str, object]]:
    """What `pool ps` knows, by name."""
    return {host["name"]: host for host in json.loads(cli("ps", "--json").stdout)}


@pytest.fixture(scope="module")
def bastion(machine: Machine) -> LabHost:
    """A jump host; whoever spoils it mends it."""
    return carry(machine())


@pytest.fixture(scope="module")
def second(machine: Machine) -> LabHost:
    """Another."""
    return carry(machine())


@pytest.fixture(scope="module")
def behind(machine: Machine) -> LabHost:
    """A host with nothing on it."""
    return machine()


def test_a_chain_of_jump_hosts(bastion: LabHost, second: LabHost, behind: LabHost, tmp_path: Path) -> None:
    """A program's output comes through both, the host sees the last of them; closing it ends every connection."""
    known_hosts = pin(str(tmp_path / "known_hosts"), bastion, second, behind)
    jumps = (jump_of(bastion), jump_of(second))
    target = Target("gpu", behind.address, behind.port, behind.user, behind.key, jumps)
    before = logged(bastion).count("Accepted publickey")
    made = connection.connect(target, known_hosts)
    rc, out, _ = connection.exec(made, ["sh", "-c", "cat; echo $HOME"], timeout=20, input=b"x" * 100_000)
    assert (rc, out) == (0, b"x" * 100_000 + f"{behind.home}\n".encode())
    assert logged(bastion).count("Accepted publickey") == before + 1
    first = made.transport.sock.get_transport()
    made.close()
    first.join(20)
    assert not first.is_active()


@pytest.mark.parametrize("swapped", ["bastion", "behind"])
def test_a_key_that_is_not_the_pinned_one(bastion: LabHost, behind: LabHost, tmp_path: Path, swapped: str) -> None:
    """On either hop it is refused before any login there, and the error names the hop and both keys (I15)."""
    known_hosts = pin(str(tmp_path / "known_hosts"), bastion, behind)
    victim = {"bastion": bastion, "behind": behind}[swapped]
    other = keygen(tmp_path / "other")
    host_keys.pin(known_hosts, victim.address, victim.port, other)
    jump = Jump(bastion.address, bastion.port, "nobody-here" if swapped == "bastion" else bastion.user, bastion.key)
    target = Target("gpu", behind.address, behind.port, "nobody-there", behind.key, (jump,))
    with pytest.raises(HostKeyError) as caught:
        connection.connect(target, known_hosts)
    for word in (host_keys.fingerprint(other), victim.fingerprint):
        assert word in caught.value.message
    assert (f"gpu: jump host {bastion.address}: the host key changed" in caught.value.message) == (swapped == "bastion")
    assert caught.value.details["host"] == "gpu"
    assert caught.value.details.get("hop") == (bastion.address if swapped == "bastion" else None)
    assert "nobody" not in logged(bastion) + logged(behind)


@pytest.mark.parametrize("swapped", ["bastion", "behind"])
def test_ansible_checks_every_hop(bastion: LabHost, behind: LabHost, tmp_path: Path, swapped: str) -> None:
    """Ansible goes through the jump host with the same pins, and not past another key."""
    known_hosts = pin(str(tmp_path / "known_hosts"), bastion, behind)
    play = tmp_path / "ping.yml"
    play.write_text("- hosts: all\n  gather_facts: false\n  tasks: [{ansible.builtin.raw: echo $HOME}]\n")
    target = Target("gpu", behind.address, behind.port, behind.user, behind.key, (jump_of(bastion),))

    def run() -> bool:
        return run_playbook(
            str(play),
            [target],
            known_hosts=known_hosts,
            log=str(tmp_path / "log"),
            variables={},
            on_event=lambda _: None,
        )["gpu"].ok

    assert run(), (tmp_path / "log").read_text()
    victim = {"bastion": bastion, "behind": behind}[swapped]
    host_keys.pin(known_hosts, victim.address, victim.port, keygen(tmp_path / "other"))
    before = logged(victim).count("Accepted publickey")
    assert not run()
    # A warm connection drops what the ssh to the jump host says.
    said = {"bastion": "Connection closed by UNKNOWN", "behind": "Host key verification failed"}[swapped]
    assert said in (tmp_path / "log").read_text()
    assert logged(victim).count("Accepted publickey") == before


def test_what_a_jump_host_refuses(
    bastion: LabHost, second: LabHost, behind: LabHost, lab: list[LabHost], tmp_path: Path
) -> None:
    """One that carries nothing, one that cannot reach the host, one that refuses the key: each is named."""
    known_hosts = pin(str(tmp_path / "known_hosts"), bastion, second, behind, lab[0])
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    key = host_keys.lookup(known_hosts, behind.address, behind.port)
    assert key is not None
    host_keys.pin(known_hosts, "127.0.0.1", port, key)
    keygen(tmp_path / "other")
    for jumps, where, said, hint in (
        ((jump_of(lab[0]),), (behind.address, behind.port), "carries no connections to", "AllowTcpForwarding"),
        ((jump_of(bastion),), ("127.0.0.1", port), f"cannot reach 127.0.0.1 port {port}", "is the host up"),
        ((jump_of(bastion), jump_of(lab[0])), (behind.address, behind.port), "carries no", "AllowTcpForwarding"),
        (
            (Jump(bastion.address, bastion.port, bastion.user, str(tmp_path / "other")),),
            (behind.address, behind.port),
            "is refused with the key",
            "ssh-copy-id",
        ),
        ((Jump("127.0.0.1", port, "me"),), (behind.address, behind.port), "the connection was refused", "sshd"),
    ):
        target = Target("gpu", *where, behind.user, behind.key, jumps)
        with pytest.raises(connection.HostError) as caught:
            connection.connect(target, known_hosts)
        assert caught.value.message.startswith(f"gpu: jump host {jumps[-1].address}"), caught.value.message
        assert said in caught.value.message
        assert hint in (caught.value.hint or "")
        assert (caught.value.details["hop"], caught.value.details["host"]) == (jumps[-1].address, "gpu")


def test_a_host_behind_a_jump_host(cli: Cli, bastion: LabHost, behind: LabHost, tmp_path: Path) -> None:
    """It is added, shown, added again without -J, runs a task with a port, outlives its jump host, and is removed."""
    words, before = add_ssh(behind, "-J", spec(bastion)), len(logged(behind))
    unknown = cli(*words)
    assert unknown.rc == 13, unknown
    assert f"{behind.name}: jump host {bastion.address}: its host key is not known" in unknown.stderr
    assert unknown.stderr.endswith(f"then add --jump-fingerprint {bastion.fingerprint}\n")
    assert len(logged(behind)) == before, "it was asked, through a jump host that nothing vouches for"
    assert hosts(cli) == {}
    done = cli(*words, "--jump-fingerprint", bastion.fingerprint)
    assert done.rc == 0, done
    shown = f"jump host {bastion.address} port {bastion.port}  ssh-ed25519 {bastion.fingerprint} (as given)"
    assert shown in done.stderr, done
    jump = {"address": bastion.address, "port": bastion.port, "user": bastion.user}
    assert hosts(cli)[behind.name]["jumps"] == [jump]
    assert f"via {bastion.address}" in cli("ps").stdout
    again = cli(*add_ssh(behind))
    assert again.rc == 0, again
    assert "(pinned before)" in again.stderr
    assert hosts(cli)[behind.name]["jumps"] == [jump]
    (tmp_path / "t.dstack.yml").write_text("type: task\ncommands: [echo $SSH_CONNECTION through]\n")
    ran = cli("run", ".", "-f", "t.dstack.yml", "-y", "-q", cwd=tmp_path)
    assert (ran.rc, ran.stdout.split()[-1]) == (0, "through"), ran
    for command in (["ssh", behind.name], ["exec", "--hosts", behind.name, "-L"]):
        there = cli(*command, "--", "echo through")
        assert (there.rc, there.stdout.split()[-1]) == (0, "through"), there
    _reach_a_port(cli, behind, tmp_path)
    loopback.stop(bastion)
    there = cli("exec", "--hosts", behind.name, "--", "echo through")
    assert (there.rc, there.stdout, "Connection refused" in there.stderr) == (11, "", True), there
    began = time.monotonic()
    while hosts(cli)[behind.name]["status"] != "unreachable":
        assert time.monotonic() - began < 30, "it is not noticed that the jump host is gone"
        time.sleep(0.1)
    assert f"jump host {bastion.address}" in str(hosts(cli)[behind.name]["reason"])
    refused = cli(*add_ssh(behind))
    assert refused.rc == 11, refused
    assert f"pool: {behind.name}: jump host {bastion.address}" in refused.stderr
    back = next(h for h in loopback.up(1, root=str(folder(bastion).parent)) if h.name == bastion.name)
    carry(back)
    began = time.monotonic()
    while hosts(cli)[behind.name]["status"] != "ready":
        assert time.monotonic() - began < 60, hosts(cli)
        time.sleep(0.1)
    assert cli("rm", behind.name, "-y").rc == 0
    assert Path(cli.env["POOL_STATE_DIR"], "known_hosts").read_text() == ""


def _reach_a_port(cli: Cli, host: LabHost, path: Path) -> None:
    """Of a job on a host whose own sshd forwards nothing."""
    assert "AllowTcpForwarding no" in (folder(host) / "sshd_config").read_text()
    port, local = free(), free()
    (path / "p.dstack.yml").write_text(f"type: task\nname: ported\ncommands: [python3 echo.py {port}]\n")
    (path / "echo.py").write_text(ECHO)
    attached = Attached(cli.start("run", ".", "-f", "p.dstack.yml", "-y", "-p", f"{local}:{port}", cwd=path))
    attached.until("http")
    data = os.urandom(3_000_000)
    assert echoed(local, data) == data
    assert cli("stop", "ported", "--abort").rc == 0
    attached.process.wait(30)
