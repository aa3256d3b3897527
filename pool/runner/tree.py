"""Files and folders as a stream of tar, and back: what is on the way between a person's machine and a job.

All that a stream may write is below the one place that its reader chose: the first member is called TOP, all others
are below it, and no link is ever followed. A file has its name once it is whole. Both ends use this.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import tarfile
from typing import Any, Callable, Iterator

TOP = "top"
_CHUNK = 1 << 18
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_SETTINGS: Any = {"format": tarfile.PAX_FORMAT, "bufsize": _CHUNK, "encoding": "utf-8"}


class TreeError(Exception):
    """It cannot be copied; the message names what, and says why."""


def measure(path: str) -> dict[str, Any]:
    """`{"folder", "bytes", "files"}` of what is at `path`, which may be a link to it. TreeError."""
    try:
        found = os.stat(path)
        if stat.S_ISREG(found.st_mode):
            return {"folder": False, "bytes": found.st_size, "files": 1}
        if not stat.S_ISDIR(found.st_mode):
            raise TreeError("{}: neither a file nor a folder".format(path))
        sizes = [each.st_size for _, each in _walk(path, "") if stat.S_ISREG(each.st_mode)]
    except OSError as error:
        raise _named(error, path) from error
    return {"folder": True, "bytes": sum(sizes), "files": len(sizes)}


def pack(path: str, write: Callable[[bytes], object]) -> list[str]:
    """Write what is at `path`; what was skipped, being neither file, folder nor link. TreeError."""
    skipped = []
    sink: Any = _Writer(write)
    try:
        with tarfile.open(fileobj=sink, mode="w|", **_SETTINGS) as tar:
            for name, found in [(TOP, os.stat(path)), *_walk(path, TOP + "/")]:
                place = path if name == TOP else os.path.join(path, name[len(TOP) + 1 :])
                member = _member(name, found)
                if member is None:
                    skipped.append(place)
                elif member.isreg():
                    _pack_file(tar, place, member, os.O_NOFOLLOW if name != TOP else 0)
                else:
                    member.linkname = os.readlink(place) if member.issym() else ""
                    tar.addfile(member)
    except OSError as error:
        raise _named(error, path) from error
    return skipped


def place(target: str, name: str, folder: bool) -> str:
    """Where a copy to `target` goes, as cp says: into a folder that is there, under `name`; else it is the new name.

    Of a source whose name is "" what is in it goes there. TreeError where nothing can be.
    """
    into = os.path.isdir(target)
    found = os.path.join(target, name) if into and name else target
    if not into and target.endswith("/") and not folder:
        raise TreeError("{}: no such folder".format(target))
    found = found.rstrip("/") or "/"
    if not os.path.isdir(os.path.dirname(found) or "."):
        raise TreeError("{}: no such folder".format(os.path.dirname(found)))
    if os.path.lexists(found):
        if not folder and os.path.isdir(found):
            raise TreeError("{}: there is a folder of that name".format(found))
        if folder and not os.path.isdir(found):
            raise TreeError("{}: there is a file of that name".format(found))
    return os.path.realpath(found) if into and not name else found


def unpack(read: Callable[[int], bytes], target: str) -> None:
    """Write what comes at `target`. TreeError: for what is no such tar, or leads elsewhere, and for want of room."""
    source: Any = _Reader(read)
    try:
        with tarfile.open(fileobj=source, mode="r|", **_SETTINGS) as tar, _Places(target) as places:
            seen = False
            for member in tar:
                _unpack_one(tar, member, places, seen)
                seen = True
            if not seen:
                raise TreeError("nothing came")
    except tarfile.TarError as error:
        raise TreeError("not a tar file as we make them, or cut off: {}".format(error)) from error
    except OSError as error:
        raise _named(error, target) from error


class _Places:
    """The folders below the target, each opened from the one above it and never through a link."""

    def __init__(self, target: str) -> None:
        self.target = target
        self._above, self._name = os.path.split(target)
        self._open: list[tuple[str, int]] = []
        self._modes: list[tuple[list[str], int]] = []

    def __enter__(self) -> _Places:
        self._open.append(("", os.open(self._above or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)))
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        with contextlib.suppress(OSError):
            for words, mode in reversed(self._modes):  # last: what is read-only could not be written into
                folder, name = self.at(words)
                os.chmod(name, mode, dir_fd=folder)
        while self._open:
            os.close(self._open.pop()[1])

    def at(self, words: list[str]) -> tuple[int, str]:
        """The open folder that the last of `words` is in, and its name there."""
        names = [self._name, *words[1:]]
        path, keep = names[:-1], 0
        while keep < len(path) and keep + 1 < len(self._open) and self._open[keep + 1][0] == path[keep]:
            keep += 1
        while len(self._open) > keep + 1:
            os.close(self._open.pop()[1])
        for name in path[keep:]:
            self._open.append((name, os.open(name, _FOLDER, dir_fd=self._open[-1][1])))
        return self._open[-1][1], names[-1]

    def make(self, words: list[str], mode: int) -> None:
        """A folder; one that is there stays as it is."""
        folder, name = self.at(words)
        try:
            os.mkdir(name, 0o700, dir_fd=folder)
            self._modes.append((words, mode))
        except FileExistsError:
            os.close(os.open(name, _FOLDER, dir_fd=folder))


def _unpack_one(tar: tarfile.TarFile, member: tarfile.TarInfo, places: _Places, seen: bool) -> None:
    words = member.name.split("/")
    if words[0] != TOP or any(word in ("", ".", "..") for word in words) or (len(words) > 1) != seen:
        raise TreeError("refused: {!r} was not asked for".format(member.name))
    try:
        if member.isdir():
            places.make(words, member.mode & 0o777)
            return
        folder, name = places.at(words)
        beside = ".{}.{}.part".format(name[:200], os.getpid())
        try:
            if member.isreg() and not member.issparse():
                _unpack_file(tar, member, folder, beside)
            elif member.issym() and seen:
                os.symlink(member.linkname, beside, dir_fd=folder)
            else:
                raise TreeError("refused: {!r} is neither file, folder nor link".format(member.name))
            os.rename(beside, name, src_dir_fd=folder, dst_dir_fd=folder)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(beside, dir_fd=folder)
            raise
    except OSError as error:
        raise _named(error, os.path.join(places.target, *words[1:])) from error


def _unpack_file(tar: tarfile.TarFile, member: tarfile.TarInfo, folder: int, name: str) -> None:
    source = tar.extractfile(member)
    fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=folder)
    with os.fdopen(fd, "wb") as file:
        if source is not None:
            shutil.copyfileobj(source, file, _CHUNK)
        file.flush()
        os.fchmod(fd, member.mode & 0o777)
        os.utime(fd, (member.mtime, member.mtime))


def _walk(path: str, prefix: str) -> Iterator[tuple[str, os.stat_result]]:
    """Everything below a folder, each folder before what is in it."""
    if not os.path.isdir(path):
        return
    with os.scandir(path) as entries:
        names = sorted(entry.name for entry in entries)
    for name in names:
        each = os.path.join(path, name)
        with contextlib.suppress(FileNotFoundError):  # gone meanwhile
            found = os.lstat(each)
            yield prefix + name, found
            if stat.S_ISDIR(found.st_mode):
                yield from _walk(each, prefix + name + "/")


def _member(name: str, found: os.stat_result) -> tarfile.TarInfo | None:
    kinds = {stat.S_IFREG: tarfile.REGTYPE, stat.S_IFDIR: tarfile.DIRTYPE, stat.S_IFLNK: tarfile.SYMTYPE}
    kind = kinds.get(stat.S_IFMT(found.st_mode))
    if kind is None:
        return None
    member = tarfile.TarInfo(name)
    member.type, member.mode, member.mtime = kind, stat.S_IMODE(found.st_mode), int(found.st_mtime)
    member.size = found.st_size if kind == tarfile.REGTYPE else 0
    return member


def _pack_file(tar: tarfile.TarFile, path: str, member: tarfile.TarInfo, flags: int) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | flags)
    with os.fdopen(fd, "rb") as file:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise TreeError("{}: it has become something else".format(path))
        member.size = found.st_size
        try:
            tar.addfile(member, file)
        except OSError as error:
            if error.errno is None:  # tarfile's own: there is less of it than there was
                raise TreeError("{}: it became shorter while it was read".format(path)) from error
            raise


def _named(error: OSError, path: str) -> TreeError:
    """In words, with the place."""
    name = error.filename if isinstance(error.filename, str) and error.filename.startswith("/") else path
    return TreeError("{}: {}".format(name, (error.strerror or str(error)).lower()))


class _Writer:
    def __init__(self, write: Callable[[bytes], object]) -> None:
        self._write = write

    def write(self, data: bytes) -> int:
        self._write(data)
        return len(data)


class _Reader:
    def __init__(self, read: Callable[[int], bytes]) -> None:
        self._read = read

    def read(self, size: int) -> bytes:
        return self._read(size)
