"""Tells systemd that the runner answers, where its unit has a `WatchdogSec`; one that falls silent is started anew.

Each time it asks the runner over its own socket, as a server does: a runner that is stuck tells nothing.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time

from pool.runner import frames
from pool.runner.frames import Decoder, Frame


def start(path: str) -> None:
    """Begin to tell, if systemd wants to be told of this process. What the runner starts does not learn of it."""
    address = os.environ.pop("NOTIFY_SOCKET", "")
    within_us = os.environ.pop("WATCHDOG_USEC", "")
    mine = os.environ.pop("WATCHDOG_PID", "") in ("", str(os.getpid()))
    if address and within_us and mine:
        threading.Thread(target=_tell_forever, args=(path, address, int(within_us) / 3e6), daemon=True).start()


def answers(path: str, within_s: float) -> bool:
    """Whether the runner that listens there answers a ping in time."""
    decoder, deadline = Decoder(), time.monotonic() + within_s
    with contextlib.suppress(OSError, frames.FrameError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as bridge:
        bridge.settimeout(within_s)
        bridge.connect(path)
        bridge.sendall(frames.encode(Frame(frames.PING, 0, {})))
        while time.monotonic() < deadline:
            chunk = bridge.recv(1 << 12)
            if not chunk:
                return False
            if any(frame.kind == frames.PONG for frame in decoder.feed(chunk)):
                return True
    return False


def _tell_forever(path: str, address: str, every_s: float) -> None:
    to = "\0" + address[1:] if address.startswith("@") else address  # an abstract socket's name
    while True:
        if answers(path, every_s):
            with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
                systemd.sendto(b"WATCHDOG=1", to)
        time.sleep(every_s)
