"""Makes a folder as a manifest says. The manifest was checked (`manifest.decode`); the place is new and nobody else's.

Links come last, so that nothing is made through one; modes and dates of folders when they are full.
"""

from __future__ import annotations

import os
from typing import Iterable

from pool.runner.ledger import RefusedError
from pool.runner.manifest import FILE, FOLDER, Entry, Manifest
from pool.runner.packs import Packs

#: Up to this size one read and one write are quicker than asking the kernel to copy.
_SMALL = 1 << 18


class Reader:
    """Copies contents out of packs, and keeps each open until `close`. A pack that turns out damaged goes."""

    def __init__(self, packs: Packs) -> None:
        self._packs = packs
        self._open: dict[str, int] = {}

    def copy(self, sha256: str, fd: int) -> None:
        """Write the content to `fd`; RefusedError("no_code") when it is not here any more."""
        place = self._packs.place(sha256)
        if place is None:
            raise RefusedError("no_code", "a part of the folder is not here any more")
        try:
            source = self._open.get(place.pack)
            if source is None:
                source = self._open[place.pack] = os.open(self._packs.file(place.pack), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            self._packs.remove(place.pack)
            raise RefusedError("no_code", "a part of the folder is not here any more") from None
        offset, end = place.offset, place.offset + place.size
        while offset < end:
            if end - offset <= _SMALL:
                done = os.write(fd, os.pread(source, end - offset, offset))
            else:
                done = os.sendfile(fd, source, offset, end - offset)
            if done == 0:
                self._packs.remove(place.pack)
                raise RefusedError("no_code", "a part of the folder is cut off")
            offset += done

    def close(self) -> None:
        """Close the packs."""
        while self._open:
            os.close(self._open.popitem()[1])


def unfold(manifest: Manifest, folder: str, owner: tuple[int, int], reader: Reader) -> None:
    """Make `folder`, which is not there yet, as the manifest says, owned by (uid, gid)."""
    os.mkdir(folder, 0o755)
    _own(folder, owner)
    root = os.fsencode(folder) + b"/"
    _make(root, manifest.entries, owner, reader)
    _finish(root, (entry for entry in reversed(manifest.entries) if entry[0] == FOLDER), owner)


def change(old: Manifest, new: Manifest, folder: str, owner: tuple[int, int], reader: Reader) -> None:
    """Make of `folder`, which is exactly as `old` says, one that is as `new` says."""
    root = os.fsencode(folder) + b"/"
    before = {entry[1]: entry for entry in old.entries}
    after = {entry[1]: entry for entry in new.entries}
    differ = {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
    opened = {path: before[path] for path in map(_above, differ) if path in before} if os.geteuid() else {}
    for path in opened:  # else a folder that may not be written to could not be changed
        os.chmod(root + _name(before[path]), 0o700)
    for entry in reversed(old.entries):
        if entry[1] in differ and not _stays(entry, after.get(entry[1])):
            (os.rmdir if entry[0] == FOLDER else os.unlink)(root + _name(entry))
    made = (entry for entry in new.entries if entry[1] in differ and not _stays(before.get(entry[1]), entry))
    _make(root, made, owner, reader)
    touched = differ | opened.keys()
    _finish(root, (entry for entry in reversed(new.entries) if entry[0] == FOLDER and entry[1] in touched), owner)


def _make(root: bytes, entries: Iterable[Entry], owner: tuple[int, int], reader: Reader) -> None:
    """Make what is not there yet below `root`, folders before what is in them; those are still open to us alone."""
    links: list[Entry] = []
    for entry in entries:
        if entry[0] == FOLDER:
            os.mkdir(root + _name(entry), 0o700)
        elif entry[0] == FILE:
            make_file(root + _name(entry), entry, owner, reader)
        else:
            links.append(entry)
    for entry in links:
        make_link(root + _name(entry), entry, owner)


def _finish(root: bytes, folders: Iterable[Entry], owner: tuple[int, int]) -> None:
    """Give folders their owner and mode, now that they are full: what is in one before it."""
    for entry in folders:
        _own(root + _name(entry), owner)
        os.chmod(root + _name(entry), entry[2])


def _stays(old: Entry | None, new: Entry | None) -> bool:
    """True for a folder of which at most the mode differs."""
    return old is not None and new is not None and old[0] == new[0] == FOLDER


def _above(path: str) -> str:
    return path.rpartition("/")[0]


def make_file(path: bytes, entry: Entry, owner: tuple[int, int], reader: Reader) -> None:
    """One file, which is not there yet."""
    _, _, mode, mtime, size, sha256 = entry
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        if size:
            reader.copy(sha256, fd)
        _own(fd, owner)
        os.fchmod(fd, mode)
        os.utime(fd, ns=(mtime, mtime))
    finally:
        os.close(fd)


def make_link(path: bytes, entry: Entry, owner: tuple[int, int]) -> None:
    """One link, which is not there yet."""
    os.symlink(entry[2].encode("utf-8", "surrogateescape"), path)
    if owner != (os.geteuid(), os.getegid()):
        os.lchown(path, *owner)


def _name(entry: Entry) -> bytes:
    return str(entry[1]).encode("utf-8", "surrogateescape")


def _own(path: bytes | str | int, owner: tuple[int, int]) -> None:
    if owner != (os.geteuid(), os.getegid()):
        os.chown(path, *owner)
