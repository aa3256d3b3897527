"""Tells that the other side of a connection has gone, also while nobody reads or writes it: both may be waiting.

One thread watches all connections of this process.
"""

from __future__ import annotations

import contextlib
import select
import socket
import threading
from typing import Callable, Iterator

_GONE = select.EPOLLHUP | select.EPOLLERR


class _Watched:
    """One connection: by which flags it is known to have gone, and whom to call then, if nobody was."""

    def __init__(self, flags: int, call: Callable[[], object]) -> None:
        self.flags = flags
        self.call: Callable[[], object] | None = call


class _Watch:
    """What is watched, by its number: which the kernel gives to another one as soon as it is closed."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._using = threading.Lock()
        self._watched: dict[int, _Watched] = {}
        threading.Thread(target=self._forever, name="hangups", daemon=True).start()

    def add(self, number: int, watched: _Watched) -> None:
        with self._using:
            self._epoll.register(number, select.EPOLLET)  # HUP and ERR come unasked; each once, as they happen
            self._watched[number] = watched

    def remove(self, number: int, watched: _Watched) -> None:
        with self._using:
            if self._watched.get(number) is watched:
                del self._watched[number]
                with contextlib.suppress(OSError):  # closed already
                    self._epoll.unregister(number)

    def _forever(self) -> None:
        while True:
            for number, _ in self._epoll.poll():
                with self._using:
                    watched = self._watched.get(number)
                    if watched is None or watched.call is None or not _has(number, watched.flags):
                        continue  # that was of an earlier one
                    call, watched.call = watched.call, None
                threading.Thread(target=call, daemon=True).start()  # it may wait, and must not hold up others


_starting = threading.Lock()
_watch: _Watch | None = None


@contextlib.contextmanager
def watched(sock: socket.socket, call: Callable[[], object], *, broken: bool = False) -> Iterator[None]:
    """For as long as this lasts: `call`, in a thread of its own and at most once, when the other side has gone.

    That is when both ways are closed; with `broken`, only when the connection was reset.
    """
    global _watch
    with _starting:
        watch = _watch = _watch or _Watch()
    number, mine = sock.fileno(), _Watched(select.EPOLLERR if broken else _GONE, call)
    watch.add(number, mine)
    try:
        yield
    finally:
        watch.remove(number, mine)


def _has(number: int, flags: int) -> bool:
    poll = select.poll()
    poll.register(number, 0)
    return any(seen & flags for _, seen in poll.poll(0))
