"""Tells, without polling, when a job's folder changes: Linux inotify, through ctypes for want of another way."""

from __future__ import annotations

import ctypes
import os
import struct
import threading
from typing import Callable

_IN_MODIFY, _IN_MOVED_TO = 0x2, 0x80
_CLOEXEC = 0o2000000
_EVENT = struct.Struct("iIII")


class FolderWatch:
    """Calls `changed(name, file)` from its own thread when a file in a watched folder grows or is moved into place."""

    def __init__(self, changed: Callable[[str, str], None]) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._fd = self._libc.inotify_init1(_CLOEXEC)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), "inotify_init1")
        self._changed = changed
        self._names: dict[int, str] = {}
        threading.Thread(target=self._read, name="watch", daemon=True).start()

    def add(self, name: str, path: str) -> None:
        """Watch the folder `path`, to be called `name`; OSError when the kernel refuses."""
        number = self._libc.inotify_add_watch(self._fd, os.fsencode(path), _IN_MODIFY | _IN_MOVED_TO)
        if number < 0:
            raise OSError(ctypes.get_errno(), "inotify_add_watch", path)
        self._names[number] = name

    def _read(self) -> None:
        while True:
            data, at = os.read(self._fd, 1 << 16), 0
            seen = []
            while at < len(data):
                number, _, _, length = _EVENT.unpack_from(data, at)
                at += _EVENT.size + length
                change = (self._names.get(number, ""), data[at - length : at].rstrip(b"\0").decode(errors="replace"))
                if change[0] and change not in seen:
                    seen.append(change)
            for name, file in seen:
                self._changed(name, file)
