"""Who asks: the user that the kernel names at the other end of the socket, not what a request says."""

from __future__ import annotations

import pwd
import socket
import struct


def peer_uid(link: socket.socket) -> int:
    """The uid of the process at the other end of a Unix socket (SO_PEERCRED)."""
    uid: int = struct.unpack("3i", link.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[1]
    return uid


def login_name(uid: int) -> str:
    """The user's login name; the number of one that has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
