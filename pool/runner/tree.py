"""Files and folders as a stream of tar, and back: what is on the way between a person's machine and a job.

All that a stream may write is below the one place that its reader chose: the first member is called TOP, all others
are below it, and no link is ever followed. A file has its name once it is whole. Both ends use this.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
import tarfile
import time
from typing import IO, Any, Callable, Iterator, Optional

TOP = "top"
_CHUNK = 1 << 18
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_SETTINGS: Any = {"format": tarfile.PAX_FORMAT, "bufsize": _CHUNK, "encoding": "utf-8"}
#: More than two paths and some numbers, which is all that a header of ours can hold; reading takes its square in time.
_HEADER_MAX = 1 << 14
#: What is met where something was deleted, or has become another thing, since its folder was read.
_GONE = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EINVAL, errno.ENXIO, errno.ESTALE}
#: So many paths are told, this much of each.
_NAMED, _NAME = 100, 300
_MEASURES_S = 2.0

#: Opens for reading what was opened by its place alone (O_PATH).
Reopen = Optional[Callable[[int], int]]


class TreeError(Exception):
    """It cannot be copied; the message names what, and says why."""


class Left:
    """What could not be copied as it was: 100 paths each, and how many `more` there are.

    `skipped` are neither file, folder nor link; `changed` were deleted or became shorter while they were copied.
    """

    def __init__(self, skipped: object = (), changed: object = (), more: object = 0) -> None:
        """Of what was said to be left; what cannot be is passed over."""
        self.skipped: list[str] = []
        self.changed: list[str] = []
        self.more = more if isinstance(more, int) else 0
        for each in skipped if isinstance(skipped, (list, tuple)) else ():
            self.skip(str(each))
        for each in changed if isinstance(changed, (list, tuple)) else ():
            self.change(str(each))

    def skip(self, path: str) -> None:
        """One more that is neither file, folder nor link."""
        self._add(self.skipped, path)

    def change(self, path: str) -> None:
        """One more that was deleted or became shorter."""
        self._add(self.changed, path)

    def _add(self, paths: list[str], path: str) -> None:
        if len(paths) < _NAMED:
            paths.append(path if len(path) <= _NAME else "..." + path[-_NAME:])
        else:
            self.more += 1


def measure(path: str, limit_s: float = _MEASURES_S) -> dict[str, Any]:
    """`{"folder", "bytes"}` of what is at `path`, which may be a link to it. TreeError.

    Of a folder that takes longer to look through the bytes are 0.
    """
    try:
        found = os.stat(path)
        if stat.S_ISREG(found.st_mode):
            return {"folder": False, "bytes": found.st_size}
        if not stat.S_ISDIR(found.st_mode):
            raise TreeError("{}: neither a file nor a folder".format(path))
        return {"folder": True, "bytes": _size(path, time.monotonic() + limit_s)}
    except OSError as error:
        raise _named(error, path) from error


def _size(path: str, until: float) -> int:
    size, folders = 0, [path]
    while folders:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(folders.pop()) as entries:
            for entry in entries:
                if time.monotonic() > until:
                    return 0
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
                elif entry.is_file(follow_symlinks=False):
                    with contextlib.suppress(FileNotFoundError):
                        size += entry.stat(follow_symlinks=False).st_size
    return size


def pack(path: str, write: Callable[[bytes], object], reopen: Reopen = None) -> Left:
    """Write what is at `path`, as it is when its turn comes; what was left of it. TreeError.

    No device is ever opened with `reopen`; without it one could be that has just come in the place of a file.
    """
    left = Left()
    sink: Any = _Writer(write)
    try:
        with tarfile.open(fileobj=sink, mode="w|", **_SETTINGS) as tar:
            top = os.stat(path)
            _pack_one(tar, path, TOP, top, left, reopen)
            for name, found in _walk(path, left) if stat.S_ISDIR(top.st_mode) else ():
                place = os.path.join(path, name)
                try:
                    _pack_one(tar, place, TOP + "/" + name, found, left, reopen)
                except OSError as error:
                    raise _named(error, place) from error
    except OSError as error:
        raise _named(error, path) from error
    return left


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
        with tarfile.open(fileobj=source, mode="r|", tarinfo=_Member, **_SETTINGS) as tar, _Places(target) as places:
            seen = False
            for member in iter(tar.next, None):
                _unpack_one(tar, member, places, seen)
                _forget(tar)
                seen = True
            if not seen:
                raise TreeError("nothing came")
    except (tarfile.TarError, ValueError, OverflowError, RecursionError) as error:
        raise TreeError("not a tar file as we make them, or cut off: {}".format(error)) from error
    except OSError as error:
        raise _named(error, target) from error


class _Member(tarfile.TarInfo):
    """One of those that we make ourselves: of others no more is read than that they are others."""

    def _proc_member(self, tar: tarfile.TarFile) -> Any:
        kinds = (tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE)
        if self.size < 0 or not (self.type in kinds or (self.type == tarfile.XHDTYPE and self.size <= _HEADER_MAX)):
            raise TreeError("refused: {!r} is neither file, folder nor link".format(self.name))
        return super()._proc_member(tar)  # type: ignore[misc]

    def _refuse(self, *_: Any) -> None:
        raise TreeError("refused: {!r} has holes".format(self.name))

    _proc_gnusparse_00 = _proc_gnusparse_01 = _proc_gnusparse_10 = _refuse


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
        beside = ".{}.{}.part".format(name[:50], os.getpid())  # a letter may be four bytes, and 255 fit
        try:
            if member.isreg() and member.size >= 0:
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


def _walk(path: str, left: Left) -> Iterator[tuple[str, os.stat_result]]:
    """What is below a folder, by its way from there; each folder before what is in it. TreeError."""
    folders = [("", iter(_names(path, _FOLDER & ~os.O_NOFOLLOW)))]
    while folders:
        above, names = folders[-1]
        name = next(names, None)
        if name is None:
            folders.pop()
            continue
        place, below = os.path.join(path, above + name), None
        try:
            found = os.lstat(place)
            if stat.S_ISDIR(found.st_mode):
                below = _names(place, _FOLDER)
        except OSError as error:
            if error.errno not in _GONE:
                raise _named(error, place) from error
            left.change(place)
            continue
        yield above + name, found
        if below is not None:
            folders.append((above + name + "/", iter(below)))


def _names(path: str, flags: int) -> list[str]:
    fd = os.open(path, flags)
    try:
        return sorted(os.listdir(fd))
    finally:
        os.close(fd)


def _member(name: str, found: os.stat_result) -> tarfile.TarInfo | None:
    kinds = {stat.S_IFREG: tarfile.REGTYPE, stat.S_IFDIR: tarfile.DIRTYPE, stat.S_IFLNK: tarfile.SYMTYPE}
    kind = kinds.get(stat.S_IFMT(found.st_mode))
    if kind is None:
        return None
    member = tarfile.TarInfo(name)
    member.type, member.mode, member.mtime = kind, stat.S_IMODE(found.st_mode), int(found.st_mtime)
    member.size = found.st_size if kind == tarfile.REGTYPE else 0
    return member


def _pack_one(tar: tarfile.TarFile, place: str, name: str, found: os.stat_result, left: Left, reopen: Reopen) -> None:
    member = _member(name, found)
    if member is None:
        left.skip(place)
        return
    try:
        if member.isreg():
            file = open_file(place, reopen, os.O_NOFOLLOW if name != TOP else 0)
        elif member.issym():
            member.linkname = os.readlink(place)
    except OSError as error:
        if name == TOP or error.errno not in _GONE:
            raise
        left.change(place)
        return
    if member.isreg():
        with file:
            member.size = os.fstat(file.fileno()).st_size
            steady: Any = _Steady(file)
            tar.addfile(member, steady)
            if steady.short:
                left.change(place)
    else:
        tar.addfile(member)
    _forget(tar)


def _forget(tar: Any) -> None:
    """What it keeps of every member that was."""
    tar.members.clear()


def open_file(path: str, reopen: Reopen, flags: int = 0) -> IO[bytes]:
    """A regular file, for reading. OSError: EINVAL for all else, which is not opened, as a device may act on that."""
    flags |= os.O_CLOEXEC | os.O_NONBLOCK
    if reopen is None:
        _check_file(os.stat(path, follow_symlinks=not flags & os.O_NOFOLLOW), path)
        fd = os.open(path, os.O_RDONLY | flags)
    else:
        place = os.open(path, os.O_PATH | flags)
        try:
            _check_file(os.fstat(place), path)
            fd = reopen(place)
        finally:
            os.close(place)
    try:
        _check_file(os.fstat(fd), path)
        return os.fdopen(fd, "rb")
    except BaseException:
        os.close(fd)
        raise


def _check_file(found: os.stat_result, path: str) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "it has become something else", path)


class _Steady:
    """A file that has as many bytes as it was said to have: where it has become `short`, zeros."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.short = False

    def read(self, size: int) -> bytes:
        found = self._file.read(size)
        self.short = self.short or len(found) < size
        return found + bytes(size - len(found))


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
