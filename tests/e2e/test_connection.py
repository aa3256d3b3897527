"""Connections to real OpenSSH daemons: what is let through, what is refused, and what the errors say."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pool.errors import AuthenticationError, HostKeyError, UnreachableError
from pool.lab.loopback import LabHost
from pool.ssh import connection, host_keys
from pool.ssh.destination import Target
from tests.conftest import pinned


@pytest.fixture
def known_hosts(tmp_path: Path, lab: list[LabHost]) -> str:
    """A file with the pinned keys of the lab's hosts."""
    path = str(tmp_path / "known_hosts")
    for host in lab:
        pinned(path, host)
    return path


def target(host: LabHost) -> Target:
    """Where and as whom to connect to a host of the lab."""
    return Target(host.name, host.address, host.port, host.user, host.key)


@pytest.fixture
def opened(lab: list[LabHost], known_hosts: str) -> Iterator[connection.fabric.Connection]:
    """An open connection to the first host."""
    made = connection.connect(target(lab[0]), known_hosts)
    yield made
    made.close()


def keygen(path: Path, *options: str) -> str:
    """A new key pair at `path`."""
    subprocess.run(["ssh-keygen", "-q", "-N", "", *options, "-f", str(path)], check=True, timeout=60)
    return str(path)


def test_settings_of_the_socket(opened: connection.fabric.Connection) -> None:
    """No delay, a bound on unacknowledged bytes, the quick algorithms, no forwarded agent."""
    link = opened.transport
    assert link.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0
    assert link.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 15_000
    assert link.local_cipher == link.remote_cipher == "aes128-gcm@openssh.com"
    assert link.host_key_type == "ssh-ed25519"
    assert not opened.forward_agent


def test_a_program_runs(opened: connection.fabric.Connection) -> None:
    """Arguments arrive as they are, whatever is in them; input, output, errors and exit code are exact."""
    words = ["a b", "", "$HOME", "`id`", "'\"", "*", "-n", "é\n"]
    rc, out, err = connection.exec(opened, ["printf", "<%s>", *words], timeout=10)
    assert (rc, out.decode(), err) == (0, "".join(f"<{word}>" for word in words), b"")
    rc, out, err = connection.exec(opened, ["sh", "-c", "echo no >&2; exit 7"], timeout=10)
    assert (rc, out, err) == (7, b"", b"no\n")
    data = random.Random(1).randbytes(3_000_000)
    assert (0, data, b"") == connection.exec(opened, ["cat"], timeout=30, input=data)


def test_a_program_that_takes_too_long(opened: connection.fabric.Connection) -> None:
    """The deadline holds for a silent program, and for one that never ends its output."""
    for argv in (["sleep", "2"], ["sh", "-c", "while echo x; do sleep 0.05; done"]):
        began = time.monotonic()
        with pytest.raises(UnreachableError, match="did not end within"):
            connection.exec(opened, argv, timeout=0.5)
        assert time.monotonic() - began < 5


def test_a_program_that_says_too_much(opened: connection.fabric.Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host cannot fill the server's memory."""
    monkeypatch.setattr(connection, "OUTPUT_MAX", 1 << 20)
    with pytest.raises(connection.HostError, match="more than 1 MiB"):
        connection.exec(opened, ["cat", "/dev/zero"], timeout=30)


def test_a_closed_connection_says_so(opened: connection.fabric.Connection) -> None:
    """A program on a connection that is gone is unreachable, not a traceback."""
    opened.close()
    with pytest.raises(UnreachableError, match="closed"):
        connection.exec(opened, ["true"], timeout=5)


def test_sessions_over_the_limit(opened: connection.fabric.Connection) -> None:
    """The lab's sshd allows two sessions a connection: the third is refused in words."""
    held = [connection.start(opened, ["cat"], timeout=5) for _ in range(2)]
    with pytest.raises(UnreachableError, match="refused a session"):
        connection.exec(opened, ["true"], timeout=5)
    for channel in held:
        channel.close()


def test_unpinned_and_changed_keys(lab: list[LabHost], known_hosts: str, tmp_path: Path) -> None:
    """A host without a pin, with another key, or with a key of another type is refused; the error has both prints."""
    with pytest.raises(HostKeyError, match="no host key is pinned"):
        connection.connect(target(lab[0]), str(tmp_path / "empty"))
    for options in (["-t", "ed25519"], ["-t", "rsa"]):
        other = connection.paramiko.PKey.from_path(keygen(tmp_path / options[1], *options))
        host_keys.pin(known_hosts, lab[0].address, lab[0].port, other)
        with pytest.raises(HostKeyError) as caught:
            connection.connect(target(lab[0]), known_hosts)
        assert host_keys.fingerprint(other) in caught.value.message
        assert lab[0].fingerprint in caught.value.message
        assert caught.value.hint


def test_a_changed_key_is_refused_before_any_login(lab: list[LabHost], known_hosts: str, tmp_path: Path) -> None:
    """Nothing of the person reaches a host that is not the pinned one."""
    other = connection.paramiko.PKey.from_path(keygen(tmp_path / "k", "-t", "ed25519"))
    host_keys.pin(known_hosts, lab[0].address, lab[0].port, other)
    log = Path(lab[0].home).parent / "sshd.log"
    before = log.stat().st_size
    with pytest.raises(HostKeyError):
        connection.connect(replace(target(lab[0]), user="someone-else"), known_hosts)
    time.sleep(0.2)
    assert "someone-else" not in log.read_text()[before:]


@pytest.mark.parametrize(
    "options",
    [
        ["-t", "ed25519"],
        ["-t", "ecdsa", "-b", "521"],
        ["-t", "rsa", "-b", "2048"],
        ["-t", "rsa", "-b", "2048", "-m", "PEM"],
        ["-t", "ecdsa", "-m", "PKCS8"],
    ],
)
def test_every_kind_of_key_file(lab: list[LabHost], known_hosts: str, tmp_path: Path, options: list[str]) -> None:
    """Whatever key file OpenSSH reads logs in."""
    host = lab[1]
    key = keygen(tmp_path / "key", *options)
    allowed = Path(host.home).parent / "authorized_keys"
    before = allowed.read_text()
    allowed.write_text(before + Path(f"{key}.pub").read_text())
    try:
        with connection.connect(replace(target(host), key=key), known_hosts) as made:
            assert connection.exec(made, ["echo", "in"], timeout=10)[1] == b"in\n"
    finally:
        allowed.write_text(before)


def test_a_refused_key(lab: list[LabHost], known_hosts: str, tmp_path: Path) -> None:
    """A key that the host does not take is named, with the command that would bring it there."""
    key = keygen(tmp_path / "other", "-t", "ed25519")
    with pytest.raises(AuthenticationError) as caught:
        connection.connect(replace(target(lab[0]), key=key), known_hosts)
    assert key in caught.value.message
    assert f"ssh-copy-id -i {key}.pub -p {lab[0].port} {lab[0].user}@{lab[0].address}" == caught.value.hint


def test_an_encrypted_key(
    lab: list[LabHost], known_hosts: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An encrypted key works once the agent holds it; without, the hint is `ssh-add KEY`."""
    host, key = lab[1], str(tmp_path / "locked")
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "secret", "-f", key], check=True, timeout=30)
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    with pytest.raises(AuthenticationError, match="encrypted") as caught:
        connection.connect(replace(target(host), key=key), known_hosts)
    assert caught.value.hint == f"ssh-add {key}"
    sock = str(tmp_path / "agent")
    agent = subprocess.Popen(["ssh-agent", "-D", "-a", sock], stdout=subprocess.DEVNULL)
    allowed = Path(host.home).parent / "authorized_keys"
    before = allowed.read_text()
    try:
        deadline = time.monotonic() + 10
        while not os.path.exists(sock) and time.monotonic() < deadline:
            time.sleep(0.01)
        monkeypatch.setenv("SSH_AUTH_SOCK", sock)
        ask = tmp_path / "ask"
        ask.write_text("#!/bin/sh\necho secret\n")
        ask.chmod(0o700)
        env = os.environ | {"SSH_ASKPASS": str(ask), "SSH_ASKPASS_REQUIRE": "force", "DISPLAY": "none"}
        subprocess.run(["ssh-add", "-q", key], env=env, check=True, stdin=subprocess.DEVNULL, timeout=30)
        allowed.write_text(before + Path(f"{key}.pub").read_text())
        with connection.connect(replace(target(host), key=key), known_hosts) as made:
            assert connection.exec(made, ["true"], timeout=10)[0] == 0
    finally:
        allowed.write_text(before)
        agent.terminate()
        agent.wait(10)


def test_no_key_file(lab: list[LabHost], known_hosts: str, tmp_path: Path) -> None:
    """A key file that is gone is said so, before anything is sent."""
    with pytest.raises(AuthenticationError, match="cannot read the key"):
        connection.connect(replace(target(lab[0]), key=str(tmp_path / "gone")), known_hosts)


def test_a_host_that_hangs_up_at_first(lab: list[LabHost], known_hosts: str) -> None:
    """Two connections that are dropped before the banner, as over MaxStartups, are not even noticed."""
    host = lab[0]
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    seen = []

    def carry(a: socket.socket, b: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := a.recv(65536):
                b.sendall(data)
        with contextlib.suppress(OSError):
            b.shutdown(socket.SHUT_RDWR)

    def serve() -> None:
        for number in range(3):
            client, _ = listener.accept()
            seen.append(number)
            if number < 2:
                client.sendall(b"Exceeded MaxStartups\r\n")
                client.close()
                continue
            server = socket.create_connection((host.address, host.port))
            threading.Thread(target=carry, args=(client, server), daemon=True).start()
            carry(server, client)
            client.close()
            server.close()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    key = host_keys.lookup(known_hosts, host.address, host.port)
    assert key is not None
    host_keys.pin(known_hosts, "127.0.0.1", port, key)
    with connection.connect(replace(target(host), address="127.0.0.1", port=port), known_hosts) as made:
        assert connection.exec(made, ["true"], timeout=10)[0] == 0
    thread.join(10)
    listener.close()
    assert seen == [0, 1, 2]


def test_hosts_that_do_not_answer(lab: list[LabHost], known_hosts: str) -> None:
    """A closed port and a silent one are told apart, each within its timeout."""
    key = host_keys.lookup(known_hosts, lab[0].address, lab[0].port)
    assert key is not None
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        host_keys.pin(known_hosts, "127.0.0.1", port, key)
        silenced = replace(target(lab[0]), address="127.0.0.1", port=port)
        began = time.monotonic()
        with pytest.raises(UnreachableError, match="not as an SSH server"):
            connection.connect(silenced, known_hosts, timeout=0.5)
        assert time.monotonic() - began < 5
    with pytest.raises(UnreachableError, match="refused"):
        connection.connect(silenced, known_hosts)


def test_what_the_person_has_configured_has_no_say(lab: list[LabHost], known_hosts: str, tmp_path: Path) -> None:
    """Neither ~/.ssh/config nor ~/.fabric.py is read: both could run programs."""
    home, canary = tmp_path / "home", tmp_path / "canary"
    (home / ".ssh").mkdir(parents=True)
    (home / ".ssh" / "config").write_text(f"Host *\n  ProxyCommand touch {canary}\n  ForwardAgent yes\n")
    (home / ".fabric.py").write_text(f"open({str(canary)!r}, 'w')\n")
    code = (
        "import sys; from pool.ssh import connection; from pool.ssh.destination import Target; a = sys.argv\n"
        "c = connection.connect(Target('h', a[1], int(a[2]), a[3], a[4]), a[5])\n"
        "print(c.forward_agent, connection.exec(c, ['echo', 'in'], timeout=10)[1]); c.close()\n"
    )
    host = lab[0]
    argv = [sys.executable, "-c", code, host.address, str(host.port), host.user, host.key, known_hosts]
    env = os.environ | {"HOME": str(home)}
    done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "False b'in\\n'\n"
    assert not canary.exists()
