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

from pool.runner import daemon, frames, launch

_CONNECT_S = 10.0


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
    link.sendall(frames.encode(frames.Frame(frames.EVENT, 0, hello)))
    _pump(link)
    return 0


def _connect(state: str) -> socket.socket | None:
    own = not launch.under_systemd() and os.access(state, os.W_OK)
    deadline = time.monotonic() + _CONNECT_S
    tried = False
    while time.monotonic() < deadline:
        link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            link.connect(daemon.SOCKET)
            return link
        except OSError:
            link.close()
        if own and not tried:
            tried = True
            daemon.detach(state)
        time.sleep(0.02)
    return None


def _pump(link: socket.socket) -> None:
    heard = time.monotonic()
    while True:
        ready = select.select([0, link.fileno()], [], [], 5.0)[0]
        if 0 in ready:
            chunk = os.read(0, 1 << 18)
            if not chunk:
                return
            heard = time.monotonic()
            link.sendall(chunk)
        if link.fileno() in ready:
            chunk = link.recv(1 << 18)
            if not chunk:
                return
            while chunk:
                chunk = chunk[os.write(1, chunk) :]
        if time.monotonic() - heard > frames.SILENCE_S:
            return
