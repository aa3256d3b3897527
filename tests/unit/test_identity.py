"""The server's own key."""

from __future__ import annotations

import os
import stat
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import paramiko
import pytest

from pool.ssh import identity


def test_it_is_made_once_and_for_this_user_alone(tmp_path: Path) -> None:
    """OpenSSH and paramiko read it."""
    path = identity.own_key(str(tmp_path))
    before = Path(path).read_bytes()
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    assert identity.own_key(str(tmp_path)) == path
    assert Path(path).read_bytes() == before
    said = subprocess.run(["ssh-keygen", "-y", "-f", path], capture_output=True, text=True, check=True).stdout
    assert identity.public_key(str(tmp_path)).split()[:2] == said.split()[:2]
    assert paramiko.Ed25519Key.from_private_key_file(path).get_base64() == said.split()[1]
    assert os.listdir(tmp_path) == ["id_ed25519"]


def test_made_by_many_at_once_it_is_one(tmp_path: Path) -> None:
    """Hosts added side by side to a fresh server all get the same key."""
    begin = threading.Barrier(16)

    def ask(_: int) -> str:
        begin.wait()
        return identity.public_key(str(tmp_path))

    with ThreadPoolExecutor(16) as threads:
        assert len(set(threads.map(ask, range(16)))) == 1
    assert os.listdir(tmp_path) == ["id_ed25519"]


def test_what_a_machine_is_called_makes_no_template_and_no_option(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The line stands in an inventory and in an authorized_keys."""
    monkeypatch.setattr("socket.gethostname", lambda: '{{ x }}\n" ssh-rsa')
    assert identity.public_key(str(tmp_path)).split()[2:] == ["pool@---x------ssh-rsa"]
