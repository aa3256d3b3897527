"""`pool-runner bridge`: carries bytes between an SSH session's stdin/stdout and the runner's socket.

It ends when either side closes or the server has been silent for SILENCE_S, so none is left behind. Where the runner
is the user's own it is started when it does not run; where it is a service, systemd is given time to restart it.
"""

from __future__ import annotations

import os
import select
import socket
import sys
import time

from pool.runner import frames, presence
from pool.runner.ask import SOCKET

_CONNECT_S = 10.0
#: Small enough to stay in the cache on its way through.
_CHUNK = 1 << 16


def main(state: str) -> int:
    """Run until a side closes; 1 when no runner can be reached."""
    try:
        os.chdir(state)
    except FileNotFoundError:
        os.makedirs(state, mode=0o711)
        os.chdir(state)
    link = _connect(state)
    if link is None:
        sys.stderr.write("pool-runner: no runner answers in {}\n".format(state))
        return 1
    connection = os.environ.get("SSH_CONNECTION", "").split()
    hello = {"event": "bridge", "ssh_ip": connection[2] if len(connection) == 4 else None}
    try:
        link.sendall(frames.encode(frames.Frame(frames.EVENT, 0, hello)))
    except BrokenPipeError:
        sys.stderr.write("pool-runner: the runner of {} does not take this user\n".format(state))
        return 1
    _pump(link)
    return 0


def _connect(state: str) -> socket.socket | None:
    own = not presence.under_systemd() and os.access(state, os.W_OK)
    deadline = time.monotonic() + _CONNECT_S
    tried = False
    while time.monotonic() < deadline:
        link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            link.connect(SOCKET)
            return link
        except OSError:
            link.close()
        if own and not tried:
            tried = presence.detach(state)
        time.sleep(0.02)
    return None


def _pump(link: socket.socket) -> None:
    """Carry bytes both ways; neither waits for the other, and what cannot be delivered is silence too."""
    link.setblocking(False)
    os.set_blocking(1, False)
    inward, outward = b"", b""
    heard = time.monotonic()
    while time.monotonic() - heard < frames.SILENCE_S:
        reading = [fd for fd, full in ((0, inward), (link.fileno(), outward)) if not full]
        writing = [fd for fd, full in ((link.fileno(), inward), (1, outward)) if full]
        ready, free, _ = select.select(reading, writing, [], 5.0)
        try:
            if 0 in ready:
                inward = os.read(0, _CHUNK)
                if not inward:
                    return
                heard = time.monotonic()
            if link.fileno() in ready:
                outward = link.recv(_CHUNK)
                if not outward:
                    return
            if link.fileno() in free:
                inward = inward[link.send(inward) :]
            if 1 in free:
                outward = outward[os.write(1, outward) :]
        except BlockingIOError:
            continue
        except OSError:  # the other side has gone
            return
