"""Asks the runner of this state folder one thing, as a program on the same host: through its socket, in one frame."""

from __future__ import annotations

import os
import socket
import time
from typing import Any

from pool.runner import frames
from pool.runner.frames import Decoder, Frame, FrameError
from pool.runner.ledger import RefusedError

SOCKET = "runner.sock"


def ask(state: str, verb: str, timeout_s: float, **head: Any) -> dict[str, Any]:
    """The head of the answer. RefusedError as the runner says; OSError when none answers in time."""
    deadline = time.monotonic() + timeout_s
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as link:
        link.settimeout(timeout_s)
        _connect(link, state)
        link.sendall(frames.encode(Frame(frames.REQUEST, 1, {"verb": verb, **head})))
        decoder = Decoder()
        while True:
            link.settimeout(max(0.001, deadline - time.monotonic()))
            chunk = link.recv(1 << 16)
            if not chunk:
                raise PermissionError("the runner does not take this user")
            for frame in _decoded(decoder, chunk):
                if frame.kind == frames.ERROR:
                    raise RefusedError(frame.head["cause"], frame.head["message"], **frame.head["details"])
                if frame.kind == frames.REPLY:
                    return frame.head


def _connect(link: socket.socket, state: str) -> None:
    """By the folder's handle: a Unix path may have 107 bytes, and this process's own folder is not ours to change."""
    folder = os.open(state, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        link.connect("/proc/self/fd/{}/{}".format(folder, SOCKET))
    finally:
        os.close(folder)


def _decoded(decoder: Decoder, chunk: bytes) -> list[Frame]:
    try:
        return list(decoder.feed(chunk))
    except FrameError as error:
        raise ConnectionError(str(error)) from error
