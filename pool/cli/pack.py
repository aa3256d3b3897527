"""Packs the caller's folder into one archive: the same files give the same bytes, so that it is sent only once.

What cannot travel is named, not dropped in silence: special files, links that leave the folder. `.git` stays behind.
"""

from __future__ import annotations

import hashlib
import os
import tarfile

from pool.errors import InputError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import IO

_LEFT_BEHIND = {".git", "__pycache__"}
#: Above this a person has most likely named the wrong folder.
SIZE_MAX = 2 << 30


def pack(folder: str, into: IO[bytes]) -> tuple[str, int, list[str]]:
    """Write the archive of `folder` to `into`: `(sha256, bytes, what was left out and why)`.

    InputError when it would be larger than SIZE_MAX or a file cannot be read.
    """
    left_out: list[str] = []
    hashed = _Hashed(into)
    total = 0
    with tarfile.open(fileobj=hashed, mode="w|", format=tarfile.GNU_FORMAT) as tar:  # type: ignore[call-overload]
        for path, name in _walk(folder):
            try:
                info = tar.gettarinfo(path, name)
            except FileNotFoundError:
                left_out.append(f"{show(name)}: it went away meanwhile")
                continue
            problem = _problem(folder, path, info)
            if problem:
                left_out.append(f"{show(name)}: {problem}")
                continue
            total += info.size
            if total > SIZE_MAX:
                message = f"{folder} is larger than {SIZE_MAX >> 30} GiB"
                raise InputError(message, hint="run from the folder of the code; keep data on the hosts")
            _add(tar, path, info)
    return hashed.sha.hexdigest(), hashed.size, left_out


def _walk(folder: str) -> Iterator[tuple[str, str]]:
    """Every path below `folder` with its name in the archive, in a stable order, folders before what is in them."""
    for here, folders, files in os.walk(folder, onerror=_refuse):
        folders[:] = sorted(name for name in folders if name not in _LEFT_BEHIND)
        links = [name for name in folders if os.path.islink(os.path.join(here, name))]
        for name in sorted(folders + files):
            path = os.path.join(here, name)
            yield path, os.path.relpath(path, folder)
        folders[:] = [name for name in folders if name not in links]


def _refuse(error: OSError) -> None:
    raise InputError(f"{show(str(error.filename))} cannot be read: {error.strerror}") from error


def show(name: str) -> str:
    """A file's name for a message: on one line, nothing in it that a terminal would obey."""
    return name if name.isprintable() else ascii(name)


def _problem(folder: str, path: str, info: tarfile.TarInfo | None) -> str | None:
    if info is None:
        return "a socket cannot be sent"
    if info.issym():
        root = os.path.realpath(folder)
        inside = os.path.realpath(path)
        absolute = os.path.isabs(info.linkname)
        leaves = absolute or not (inside == root or inside.startswith(root + os.sep))
        return f"the link to {show(info.linkname)} leaves the folder" if leaves else None
    if not (info.isreg() or info.isdir() or info.islnk()):
        return "a special file cannot be sent"
    return None


def _add(tar: tarfile.TarFile, path: str, info: tarfile.TarInfo) -> None:
    info.uid = info.gid = 0
    info.uname = info.gname = ""
    info.mtime = int(info.mtime)
    if info.islnk():  # a second name of one file is sent as a file of its own
        info.type, info.linkname = tarfile.REGTYPE, ""
        info.size = os.stat(path).st_size
    if not info.isreg():
        tar.addfile(info)
        return
    try:
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_size != info.size:
                info.size = os.fstat(file.fileno()).st_size
            tar.addfile(info, file)
    except OSError as error:
        raise InputError(f"{show(path)} cannot be read: {error.strerror or error}") from error


class _Hashed:
    """A file that hashes what is written to it."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.sha = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes) -> int:
        self.sha.update(data)
        self.size += len(data)
        return self._file.write(data)


def repo_id(folder: str) -> str:
    """A stable id of the folder, for DSTACK_REPO_ID: the same folder gives the same one."""
    return hashlib.sha256(os.path.realpath(folder).encode()).hexdigest()[:16]
