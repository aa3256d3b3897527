"""What was typed after `pool add-ssh`: completed from ~/.ssh/config as ssh would, and checked."""

from __future__ import annotations

import getpass
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from pool.errors import InputError
from pool.host import Jump
from pool.lifecycle.wish import host_wished

ME = getpass.getuser()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home with two keys and no ssh_config yet."""
    (tmp_path / ".ssh").mkdir()
    for name in ("id", "jump"):
        argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / name)]
        subprocess.run(argv, check=True, timeout=30)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def configure(home: Path, text: str) -> None:
    """Write ~/.ssh/config."""
    (home / ".ssh" / "config").write_text(text)


def jumps(**asked: Any) -> tuple[Jump, ...] | None:
    """The jump hosts of a wish."""
    return host_wished({"destination": "gpu1", **asked})[0].jumps


def test_what_was_not_said(home: Path) -> None:
    """Is as before, which is not the same as `-J none`."""
    assert jumps() is None
    assert jumps(jump="none") == ()


def test_a_jump_host_as_typed(home: Path) -> None:
    """As with ssh, the user is one's own; unlike ssh, the key is the host's."""
    key = str(home / "id")
    assert jumps(jump="bastion", user="ubuntu", key=key) == (Jump("bastion", 22, ME, key),)
    assert jumps(jump="me@a,ssh://b:2222") == (Jump("a", 22, "me"), Jump("b", 2222, ME))


def test_a_jump_host_of_the_config(home: Path) -> None:
    """ProxyJump counts, also of the jump host itself; its own user, port, address and key are taken; -J wins."""
    configure(
        home,
        "Host gpu1\n  ProxyJump inner\n"
        f"Host inner\n  HostName 10.0.0.1\n  User in\n  Port 2222\n  IdentityFile {home}/jump\n  ProxyJump outer\n"
        "Host outer\n  User out\n",
    )
    key = str(home / "id")
    outer, inner = Jump("outer", 22, "out", key), Jump("10.0.0.1", 2222, "in", str(home / "jump"))
    assert jumps(key=key) == (outer, inner)
    assert jumps(key=key, jump="x,inner") == (Jump("x", 22, ME, key), inner)
    assert jumps(jump="none") == ()


def test_loops(home: Path) -> None:
    """A jump host below `Host *` is not behind itself; one that is behind what is behind it is refused."""
    configure(home, "Host *\n  ProxyJump bastion\n")
    assert jumps() == (Jump("bastion", 22, ME),)
    assert host_wished({"destination": "bastion"})[0].jumps is None
    configure(home, "Host a\n  ProxyJump b\nHost b\n  ProxyJump a\n")
    with pytest.raises(InputError, match="loop"):
        jumps(jump="a")


@pytest.mark.parametrize("jump", ["-oProxyCommand=id", "a b", "$(id)", "{{ x }}", "a,", "a:0", "", "a;b@c"])
def test_jump_hosts_that_are_refused(home: Path, jump: str) -> None:
    """In a clear line; the same in ~/.ssh/config."""
    with pytest.raises(InputError):
        jumps(jump=jump or ",")


def test_the_key_of_a_jump_host(home: Path) -> None:
    """Is checked as a host's is."""
    os.chmod(home / "jump", 0o644)
    configure(home, f"Host bastion\n  IdentityFile {home}/jump\n")
    with pytest.raises(InputError, match="others may read the key"):
        jumps(jump="bastion")


@pytest.mark.parametrize("python", ["python3", "/usr/bin/python3 -c", "/{{ x }}", "/a;b", "/a\nb"])
def test_pythons(home: Path, python: str) -> None:
    """Only a plain absolute path."""
    assert host_wished({"destination": "gpu1", "python": "/usr/bin/python3.11"})[0].python == "/usr/bin/python3.11"
    with pytest.raises(InputError, match="--python"):
        host_wished({"destination": "gpu1", "python": python})
