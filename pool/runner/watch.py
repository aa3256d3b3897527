"""Tells, without polling, when a job's folder changes: Linux inotify, through ctypes for want of another way."""

from __future__ import annotations

import ctypes
import os
import struct
import sys
import threading
from typing import Callable

_IN_MODIFY, _IN_MOVED_TO, _IN_CREATE, _IN_Q_OVERFLOW = 0x2, 0x80, 0x100, 0x4000
_CLOEXEC = 0o2000000
_EVENT = struct.Struct("iIII")


class FolderWatch:
    """Calls `changed(name, file)` from its own thread when a file in a watched folder appears, grows or is replaced.

    When the kernel has lost some changes, because there were too many, it is called with "" for both.
    """

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
        mask = _IN_MODIFY | _IN_MOVED_TO | _IN_CREATE
        number = self._libc.inotify_add_watch(self._fd, os.fsencode(path), mask)
        if number < 0:
            raise OSError(ctypes.get_errno(), "inotify_add_watch", path)
        self._names[number] = name

    def remove(self, name: str) -> None:
        """Watch it no more: the kernel allows only so many."""
        for number in [number for number, known in list(self._names.items()) if known == name]:
            del self._names[number]
            self._libc.inotify_rm_watch(self._fd, number)

    def _read(self) -> None:
        while True:
            data, at = os.read(self._fd, 1 << 16), 0
            seen = []
            while at < len(data):
                number, mask, _, length = _EVENT.unpack_from(data, at)
                at += _EVENT.size + length
                name = "" if mask & _IN_Q_OVERFLOW else self._names.get(number)
                change = (name, data[at - length : at].rstrip(b"\0").decode(errors="replace"))
                if name is not None and change not in seen:
                    seen.append(change)
            for name, file in seen:
                try:
                    self._changed(name or "", file)
                except Exception as error:  # a full disk must not end the watching
                    sys.stderr.write("watch: {!r}\n".format(error))
