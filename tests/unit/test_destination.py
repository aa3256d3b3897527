"""Destinations: what may be typed, and what must never reach an argv or an inventory (S1, S2, S3)."""

from __future__ import annotations

import os
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pool.errors import InputError
from pool.ssh.destination import (
    Alias,
    Destination,
    parse_destination,
    parse_jump,
    resolve_alias,
    validate_key_path,
    validate_port,
    validate_user,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("gpu1", Destination("gpu1")),
        ("gpu-1.lab.example.org", Destination("gpu-1.lab.example.org")),
        ("ubuntu@gpu1", Destination("gpu1", "ubuntu")),
        ("ubuntu@10.0.0.7", Destination("10.0.0.7", "ubuntu")),
        ("ssh://ubuntu@gpu1:2222", Destination("gpu1", "ubuntu", 2222)),
        ("SSH://gpu1/", Destination("gpu1")),
        ("::1", Destination("::1")),
        ("[fe80::1]", Destination("fe80::1")),
        ("me@2001:DB8::7", Destination("2001:db8::7", "me")),
        ("ssh://me@[2001:db8::7]:22", Destination("2001:db8::7", "me", 22)),
        ("first.last@gpu_1", Destination("gpu_1", "first.last")),
    ],
)
def test_what_people_type(text: str, expected: Destination) -> None:
    """Every usual way to write a destination is understood."""
    assert expected == parse_destination(text)


BAD = [
    "",
    "@",
    "@gpu1",
    "user@",
    "-oProxyCommand=touch${IFS}/tmp/x",
    "-host",
    "me@-oProxyCommand=id",
    "-l@gpu1",
    "a b",
    " gpu1",
    "gpu1 ",
    "gpu1\n",
    "gpu1\nProxyCommand id",
    "gpu1\x00",
    "gpu1;id",
    "gpu1|id",
    "gpu1&",
    "`id`",
    "$(id)",
    "$HOME",
    "%h",
    "gpu%1",
    "gpu'1",
    'gpu"1',
    "{{ lookup('pipe','id') }}",
    "{{lookup}}@gpu1",
    "gpu1/",
    "../gpu1",
    "ｇｐｕ1",
    "gpu\u202e1",
    "gpu１",
    "a@b@c",
    "gpu1:22",
    "ssh://gpu1:0",
    "ssh://gpu1:65536",
    "ssh://gpu1:２２",
    "ssh://gpu1:+22",
    "ssh://gpu1:",
    "ssh://",
    "ssh://u:pw@gpu1",
    "http://gpu1",
    "[gpu1]",
    "[::1",
    "fe80::1%eth0",
    "1::2::3",
    "..",
    "g" * 254,
    "u" * 65 + "@gpu1",
]


@pytest.mark.parametrize("text", BAD)
def test_what_is_refused(text: str) -> None:
    """Options, shell, templates, control characters and look-alikes are refused in one clean line."""
    with pytest.raises(InputError) as caught:
        parse_destination(text)
    assert "\n" not in caught.value.message
    assert caught.value.message.isascii() or "…" in caught.value.message
    assert len(caught.value.message) < 160


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("none", []),
        ("None", []),
        ("bastion", [Destination("bastion")]),
        ("me@bastion:2222", [Destination("bastion", "me", 2222)]),
        ("a,me@b:22,ssh://c:3", [Destination("a"), Destination("b", "me", 22), Destination("c", None, 3)]),
        ("fd00::7", [Destination("fd00::7")]),
        ("me@[fd00::7]:22", [Destination("fd00::7", "me", 22)]),
    ],
)
def test_jump_hosts(text: str, expected: list[Destination]) -> None:
    """As for ssh -J, one or several."""
    assert tuple(expected) == parse_jump(text)


@pytest.mark.parametrize("text", [bad for bad in BAD if bad not in ("gpu1:22", "ssh://gpu1:22")] + ["a,", ",", "a,,b"])
def test_jump_hosts_that_are_refused(text: str) -> None:
    """Each hop is checked like a destination; what looks like too many is a loop."""
    for jump in (text, f"bastion,{text}", ",".join(["a"] * 9)):
        with pytest.raises(InputError):
            parse_jump(jump)


@given(st.text(max_size=60))
def test_only_plain_characters_ever_pass(text: str) -> None:
    """Whatever is typed: an InputError, or parts made of plain ASCII that do not begin with a dash."""
    try:
        found = parse_destination(text)
    except InputError:
        return
    for part in (found.host, found.user or "x"):
        assert all(c.isascii() and (c.isalnum() or c in "._:-") for c in part)
        assert not part.startswith("-")


@pytest.mark.parametrize("value", ["22", 1, 65535])
def test_ports(value: str | int) -> None:
    """A port is a number from 1 to 65535."""
    assert int(value) == validate_port(value)


@pytest.mark.parametrize("user", ["root", "ubuntu", "a.b-c_d", "0"])
def test_users(user: str) -> None:
    """Plain login names pass as they are."""
    assert user == validate_user(user)


def test_a_key_file(tmp_path) -> None:
    """A private key passes; one that others may read passes with a warning that says what to type."""
    key = tmp_path / "id key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    assert (str(key), None) == validate_key_path(str(key))
    key.chmod(0o644)
    path, warning = validate_key_path(str(key))
    assert path == str(key)
    assert warning is not None
    assert "chmod 600" in warning


def test_key_files_that_are_not(tmp_path) -> None:
    """Missing files, folders, public keys, other text and treacherous paths are each refused with their reason."""
    key = tmp_path / "id"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    text = tmp_path / "notes"
    text.write_text("hello")
    for path, reason in [
        (str(tmp_path / "none"), "No such file"),
        (str(tmp_path), "not a file"),
        (f"{key}.pub", "public key"),
        (str(text), "not a private key"),
        ("", "not a path"),
        ("/tmp/{{ x }}", "not a path"),
        ("/tmp/%h", "not a path"),
        ("/tmp/a\nb", "not a path"),
        ('/tmp/a"b', "not a path"),
    ]:
        with pytest.raises(InputError, match=reason):
            validate_key_path(path)


def test_an_alias(tmp_path) -> None:
    """HostName, User, Port, IdentityFile, ProxyJump and Include are read; a name without an entry stays itself."""
    key = tmp_path / "id"
    key.write_text("x")
    (tmp_path / "more").write_text("Host b\n  HostName = 10.0.0.8\n")
    config = tmp_path / "config"
    config.write_text(
        f"Include more\nHost a lab-*\n  HostName %h.example.org\n  User me\n  Port 2222\n  IdentityFile {key}\n"
        "  IdentityFile /no/such\n  ProxyJump jump@head:22\n"
    )
    assert Alias("a.example.org", "me", 2222, (str(key),), "jump@head:22") == resolve_alias("a", str(config))
    assert resolve_alias("b", str(config)).host == "10.0.0.8"
    assert Alias("other") == resolve_alias("other", str(config))
    assert Alias("a") == resolve_alias("a", str(tmp_path / "missing"))


def test_nothing_in_a_config_is_executed(tmp_path) -> None:
    """`Match exec`, ProxyCommand and the like leave no trace, and their blocks do not apply."""
    canary = tmp_path / "canary"
    config = tmp_path / "config"
    config.write_text(
        f'Match exec "touch {canary}"\n  User evil\nMatch host a exec "touch {canary}"\n  Port 1\n'
        f"Match !exec true\n  User evil\nMatch final\n  User evil\n"
        f"Host a\n  ProxyCommand touch {canary}\n  LocalCommand touch {canary}\n  PermitLocalCommand yes\n"
        f"  CanonicalizeHostname yes\n  CanonicalDomains example.org\n  User me\n"
    )
    assert Alias("a", "me") == resolve_alias("a", str(config))
    assert not os.path.exists(canary)


@pytest.mark.parametrize("line", ["HostName -oProxyCommand=id", "User $(id)", "Port x", "ProxyJump -oX,b"])
def test_a_config_is_checked_like_typing(tmp_path, line: str) -> None:
    """A treacherous value in the config is refused like one that was typed."""
    config = tmp_path / "config"
    config.write_text(f"Host a\n  {line}\n")
    with pytest.raises(InputError):
        resolve_alias("a", str(config))
