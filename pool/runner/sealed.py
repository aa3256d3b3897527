"""A process that goes into a root that others have made, and there has nothing of theirs run: it loads nothing more.

What an interpreter loads when it must, it looks for by paths that are theirs in there: a module, the codec that a file
names, the source of a traceback's lines, a library. So all that is needed is loaded before; then nothing can be. No
thread may be made (its end loads a library), no name of a user be asked for, no text file opened, no traceback shown.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import sys
import warnings
from typing import Any, Callable, NoReturn

_SET_NO_NEW_PRIVS, _DROP_OF_BOUNDS = 38, 24  # prctl
_VERSION_3 = 0x20080522  # of capset
#: What a container's root may do to files, of all that the host's can: CAP_DAC_OVERRIDE and CAP_FOWNER.
_KEPT = 1 << 1 | 1 << 3
_OPEN_TREE, _HERE, _CLONE = 428, -100, 1  # its number on every machine


class Seal:
    """Made while all can still be loaded. OSError from each step that fails: go no further, then."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._prctl, self._capset, self._syscall = self._libc.prctl, self._libc.capset, self._libc.syscall
        self._files = -1
        os.strerror(1)  # has libc load what it needs for words
        with contextlib.suppress(OSError):  # which some libc loads for a program that crashes
            self._for_crashes = ctypes.CDLL("libgcc_s.so.1")

    def load_nothing(self) -> None:
        """From here on: an import is an ImportError, an unknown codec a LookupError, what goes wrong says nothing."""
        warnings.simplefilter("ignore")
        sys.excepthook = sys.unraisablehook = _say_nothing
        sys.meta_path[:] = [_Refusing()]
        sys.path[:], sys.path_hooks[:] = [], []
        sys.path_importer_cache.clear()

    def enter(self, root: int) -> None:
        """Have this folder as the root, and let go of all that was not needed to get there but to change the user."""
        self.load_nothing()
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        self._files = self._own_files()
        self._check(self._prctl(_SET_NO_NEW_PRIVS, *map(ctypes.c_ulong, (1, 0, 0, 0))))
        os.fchdir(root)
        os.close(root)
        os.chroot(".")

    def become(self, uid: int, gid: int) -> None:
        """Be this user, as which root may do no more than a container's."""
        self._drop_bounds()
        os.setgroups([gid])
        os.setgid(gid)
        os.setuid(uid)
        kept = _KEPT if uid == 0 else 0
        head, data = (ctypes.c_uint32 * 2)(_VERSION_3, 0), (ctypes.c_uint32 * 6)(kept, kept, 0, 0, 0, 0)
        self._check(self._capset(head, data))

    @property
    def reopen(self) -> Callable[[int], int] | None:
        """Opens for reading what was opened by its place alone (O_PATH); None before `enter`, and before Linux 5.2."""
        return None if self._files < 0 else self._reopen

    def _reopen(self, fd: int) -> int:
        return os.open(str(fd), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=self._files)

    def _own_files(self) -> int:
        """/proc/self/fd as a mount of its own, so that no way leads up from it; -1 before Linux 5.2."""
        with_flags = (ctypes.c_long(_HERE), b"/proc/self/fd", ctypes.c_long(_CLONE | os.O_CLOEXEC))
        return int(self._syscall(ctypes.c_long(_OPEN_TREE), *with_flags))

    def _drop_bounds(self) -> None:
        for number in range(64):
            if not _KEPT >> number & 1 and self._prctl(_DROP_OF_BOUNDS, *map(ctypes.c_ulong, (number, 0, 0, 0))):
                if ctypes.get_errno() == 22:  # EINVAL: that was the last one
                    break
                self._check(-1)

    @staticmethod
    def _check(result: int) -> None:
        if result:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))


class _Refusing:
    """All there is to find modules with."""

    def find_spec(self, name: str, *_: Any) -> NoReturn:
        raise ImportError("{}: nothing is loaded any more".format(name))


def _say_nothing(*_: object) -> None:
    pass
