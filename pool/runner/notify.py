"""Tells systemd that the runner serves, and again and again that it still does, where systemd asks for that."""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from typing import Callable


def ready(works: Callable[[], bool]) -> None:
    """Say that the runner serves; from now on say that it lives, several times within the time that systemd gives it.

    Each time only once `works()`: a runner that hangs says nothing, and is restarted. Nothing where nobody asks.
    """
    address = os.environ.pop("NOTIFY_SOCKET", "")  # not for what the runner starts
    asked_of, every_us = os.environ.pop("WATCHDOG_PID", ""), os.environ.pop("WATCHDOG_USEC", "")
    if not address:
        return
    _tell(address, "READY=1")
    if every_us.isdigit() and int(every_us) and asked_of in ("", str(os.getpid())):
        every_s = int(every_us) / 1e6 / 3
        threading.Thread(target=_live, args=(address, every_s, works), name="watchdog", daemon=True).start()


def _live(address: str, every_s: float, works: Callable[[], bool]) -> None:
    while True:
        if works():
            _tell(address, "WATCHDOG=1")
        time.sleep(every_s)


def _tell(address: str, word: str) -> None:
    """One datagram; an address that begins with `@` is an abstract one."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as link:
            link.connect("\0" + address[1:] if address.startswith("@") else address)
            link.send(word.encode())
    except OSError as error:
        sys.stderr.write("systemd was not told {}: {}\n".format(word, error))
