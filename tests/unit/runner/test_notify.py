"""What systemd is told, and what it is not."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Iterator

import pytest

from pool.runner import notify


@pytest.fixture(params=["path", "abstract"])
def systemd(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """Its end of the socket."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as link:
        path = f"{folder}/notify"
        link.bind(path if request.param == "path" else "\0" + path)
        link.settimeout(20)
        monkeypatch.setenv("NOTIFY_SOCKET", path if request.param == "path" else "@" + path)
        yield link


def test_it_says_that_it_serves_and_then_that_it_lives(systemd: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as it works; nothing that it starts inherits the wish."""
    monkeypatch.setenv("WATCHDOG_USEC", "150000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    well = iter([True, True, False])
    notify.ready(lambda: next(well, False))
    assert [systemd.recv(100) for _ in range(3)] == [b"READY=1", b"WATCHDOG=1", b"WATCHDOG=1"]
    assert not {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"} & set(os.environ)
    systemd.settimeout(0.3)
    with pytest.raises(TimeoutError):
        systemd.recv(100)


@pytest.mark.parametrize(
    "asked", [{}, {"WATCHDOG_USEC": "30000", "WATCHDOG_PID": "1"}, {"WATCHDOG_USEC": "0"}], ids=str
)
def test_it_says_no_more_than_is_asked(
    systemd: socket.socket, monkeypatch: pytest.MonkeyPatch, asked: dict[str, str]
) -> None:
    """No watchdog, or another process's: that it serves, and nothing else."""
    for name, value in asked.items():
        monkeypatch.setenv(name, value)
    notify.ready(lambda: pytest.fail("nobody asked"))
    assert systemd.recv(100) == b"READY=1"
    systemd.settimeout(0.3)
    with pytest.raises(TimeoutError):
        systemd.recv(100)


def test_without_systemd_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """And where it has gone, that is no fault of the runner."""
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notify.ready(lambda: True)
    monkeypatch.setenv("NOTIFY_SOCKET", "/nowhere/at/all")
    notify.ready(lambda: True)
