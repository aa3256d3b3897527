"""Host keys: what is shown, what vouches for it, what is pinned, and what is refused."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import paramiko
import pytest

from pool.errors import HostKeyError, InputError, UnreachableError
from pool.ssh import host_keys

Serve = Callable[..., int]


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, paramiko.PKey]:
    """One real key of each family, made by ssh-keygen; `name.pub` files beside them."""
    folder = tmp_path_factory.mktemp("keys")
    made = {}
    for kind, *more in (["ed25519"], ["ecdsa"], ["rsa", "-b", "2048"]):
        path = folder / kind
        subprocess.run(["ssh-keygen", "-q", "-N", "", "-t", kind, *more, "-f", str(path)], check=True, timeout=60)
        made[kind] = paramiko.PKey.from_path(str(path))
        made[kind].path = str(path)
    return made


@pytest.fixture
def serve() -> Iterator[Serve]:
    """`serve(*keys)`: an SSH server on loopback that offers these host keys; returns its port."""
    listeners: list[socket.socket] = []
    ends: list[paramiko.Transport] = []

    def accept(listener: socket.socket, offered: tuple[paramiko.PKey, ...]) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            end = paramiko.Transport(client)
            for key in offered:
                end.add_server_key(key)
            ends.append(end)
            end.start_server(event=threading.Event(), server=paramiko.ServerInterface())

    def start(*offered: paramiko.PKey) -> int:
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)
        threading.Thread(target=accept, args=(listener, offered), daemon=True).start()
        return listener.getsockname()[1]

    yield start
    for listener in listeners:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
    for end in ends:
        end.close()


def test_fingerprint_is_ssh_keygens(keys: dict[str, paramiko.PKey]) -> None:
    """A fingerprint reads exactly as `ssh-keygen -l` prints it."""
    for key in keys.values():
        done = subprocess.run(["ssh-keygen", "-lf", key.path], capture_output=True, text=True, check=True, timeout=30)
        assert done.stdout.split()[1] == host_keys.fingerprint(key)


def test_the_best_family_is_shown(keys: dict[str, paramiko.PKey], serve: Serve) -> None:
    """ed25519 before ecdsa before rsa; with `every`, one of each."""
    assert [keys["ed25519"]] == host_keys.scan("127.0.0.1", serve(*keys.values()))
    assert [keys["ecdsa"]] == host_keys.scan("127.0.0.1", serve(keys["rsa"], keys["ecdsa"]))
    assert list(keys.values()) == host_keys.scan("127.0.0.1", serve(*keys.values()), every=True)


def test_scan_of_nothing() -> None:
    """A closed port and a name that is none are said to be unreachable."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(UnreachableError, match="refused"):
        host_keys.scan("127.0.0.1", port)
    with pytest.raises(UnreachableError, match="no such host name"):
        host_keys.scan("no-such-host.invalid", 22)


def test_a_port_that_says_nothing() -> None:
    """A frozen host, which accepts and is silent, is told within the timeout."""
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(UnreachableError, match="not as an SSH"):
        host_keys.scan("127.0.0.1", silent.getsockname()[1], timeout=0.3)


def test_pin_lookup_forget(tmp_path: Path, keys: dict[str, paramiko.PKey]) -> None:
    """One key is pinned for an address and port; pinning again replaces; the file is private and OpenSSH reads it."""
    file = str(tmp_path / "known_hosts")
    assert host_keys.lookup(file, "gpu1", 22) is None
    host_keys.pin(file, "gpu1", 22, keys["rsa"])
    host_keys.pin(file, "GPU1", 2222, keys["ecdsa"])
    host_keys.pin(file, "::1", 2222, keys["ed25519"])
    assert keys["rsa"] == host_keys.lookup(file, "GPU1", 22)
    assert keys["ecdsa"] == host_keys.lookup(file, "gpu1", 2222)
    host_keys.pin(file, "gpu1", 22, keys["ed25519"])
    assert keys["ed25519"] == host_keys.lookup(file, "gpu1", 22)
    assert os.stat(file).st_mode & 0o777 == 0o600
    for name in ("gpu1", "[gpu1]:2222", "[::1]:2222"):
        subprocess.run(["ssh-keygen", "-F", name, "-f", file], check=True, capture_output=True, timeout=30)
    assert len(host_keys.pinned_lines(file, [("gpu1", 22), ("::1", 2222)])) == 2
    assert host_keys.forget(file, "gpu1", 22)
    assert not host_keys.forget(file, "gpu1", 22)
    assert host_keys.lookup(file, "gpu1", 22) is None
    assert keys["ecdsa"] == host_keys.lookup(file, "gpu1", 2222)


def test_many_pins_at_once(tmp_path: Path, keys: dict[str, paramiko.PKey]) -> None:
    """Hosts that are added in parallel do not lose each other's pins."""
    file = str(tmp_path / "known_hosts")
    with ThreadPoolExecutor(16) as threads:
        list(threads.map(lambda n: host_keys.pin(file, f"gpu{n}", 22, keys["ed25519"]), range(64)))
    assert all(host_keys.lookup(file, f"gpu{n}", 22) == keys["ed25519"] for n in range(64))


def test_first_contact(tmp_path: Path, keys: dict[str, paramiko.PKey], serve: Serve) -> None:
    """The fingerprint of any of the host's keys vouches for it; without one, a person has to say."""
    port = serve(*keys.values())
    for key in keys.values():
        found = host_keys.first_contact("127.0.0.1", port, expected=host_keys.fingerprint(key))
        assert (found.key, found.trusted) == (key, "fingerprint")
    unknown = host_keys.first_contact("127.0.0.1", port, files=[str(tmp_path / "none")])
    assert (unknown.key, unknown.trusted) == (keys["ed25519"], None)
    assert host_keys.fingerprint(keys["ed25519"]) == unknown.fingerprint


def test_a_wrong_fingerprint_names_both(keys: dict[str, paramiko.PKey], serve: Serve) -> None:
    """A host without the expected key is refused, and the error shows what was wanted and what there is."""
    port = serve(keys["rsa"])
    wanted = host_keys.fingerprint(keys["ecdsa"])
    with pytest.raises(HostKeyError) as caught:
        host_keys.first_contact("127.0.0.1", port, expected=wanted)
    assert wanted in caught.value.message
    assert host_keys.fingerprint(keys["rsa"]) in caught.value.message


@pytest.mark.parametrize("text", ["", "SHA256:", "MD5:00:11", "abc", "SHA256:" + "a" * 42, "SHA256:" + "!" * 43])
def test_a_fingerprint_that_is_none(text: str) -> None:
    """What is not a SHA256 fingerprint is refused before anything is asked of the host."""
    with pytest.raises(InputError):
        host_keys.validate_fingerprint(text)


@pytest.mark.parametrize("hashed", [False, True])
def test_the_users_known_hosts_vouches(
    tmp_path: Path, keys: dict[str, paramiko.PKey], serve: Serve, hashed: bool
) -> None:
    """A key in ~/.ssh/known_hosts is trusted, hashed names included, whichever family it is of."""
    port = serve(*keys.values())
    file = tmp_path / "known_hosts"
    line = f"other,[127.0.0.1]:{port} ssh-rsa {keys['rsa'].get_base64()} comment\n"
    file.write_text(line)
    if hashed:
        subprocess.run(["ssh-keygen", "-H", "-f", str(file)], check=True, capture_output=True, timeout=30)
        line = file.read_text()
        assert "127.0.0.1" not in line
    file.write_text(f"# mine\nbroken line\n[127.0.0.1]:{port} ssh-rsa !!!\n\n{line}")
    found = host_keys.first_contact("127.0.0.1", port, files=[str(file)])
    assert (found.key, found.trusted) == (keys["rsa"], "known_hosts")


def test_the_users_known_hosts_contradicts(tmp_path: Path, keys: dict[str, paramiko.PKey], serve: Serve) -> None:
    """Another key of the same type in known_hosts, or a revoked one, is a refusal and not a question."""
    port = serve(keys["ed25519"])
    path = tmp_path / "other"
    subprocess.run(["ssh-keygen", "-q", "-N", "", "-t", "ed25519", "-f", str(path)], check=True, timeout=30)
    other = paramiko.PKey.from_path(str(path))
    file = tmp_path / "known_hosts"
    file.write_text(f"[127.0.0.1]:{port} ssh-ed25519 {other.get_base64()}\n")
    with pytest.raises(HostKeyError) as caught:
        host_keys.first_contact("127.0.0.1", port, files=[str(file)])
    assert host_keys.fingerprint(other) in caught.value.message
    assert host_keys.fingerprint(keys["ed25519"]) in caught.value.message
    file.write_text(f"@revoked * ssh-ed25519 {keys['ed25519'].get_base64()}\n")
    with pytest.raises(HostKeyError, match="revoked"):
        host_keys.first_contact("127.0.0.1", port, files=[str(file)])
