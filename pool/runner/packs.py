"""Contents of files on disk, by their hash: many in one file, one after the other, so that 5,000 cost no more than one.

    packs/<name>         the contents
    packs/<name>.index   {"boot", "contents": [[sha256, bytes], ...]}: the pack is there once this is

Only contents whose hash was checked get in. Nothing is synced: a pack of an earlier boot, which a power cut may have
torn, is checked again before it is first used, and dropped when it is.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
import threading
import time
from typing import Iterable, Iterator

from pool.runner import durable
from pool.runner.manifest import Content, is_sha

_INDEX = ".index"
_PIECE = 1 << 20


class Place:
    """Where contents lie: `size` bytes from `offset` of the file `pack`."""

    __slots__ = ("offset", "pack", "size")

    def __init__(self, pack: str, offset: int, size: int) -> None:
        self.pack, self.offset, self.size = pack, offset, size


class Packs:
    """The packs of one folder. Safe to use from several threads, of one process."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._lock = threading.RLock()
        self._boot = durable.boot_identity()
        self._contents: dict[str, list[Content]] = {}  # by pack
        self._places: dict[str, Place] = {}  # by sha256
        self._unchecked: set[str] = set()
        self._used: dict[str, float] = {}  # Unix seconds, by pack
        #: Changes with what is here.
        self.changes = 0
        os.makedirs(path, mode=0o700, exist_ok=True)
        for name in sorted(os.listdir(path)):
            self._load(name)

    def has(self, sha256: str) -> bool:
        """True when the content is here, as far as is known: one of an earlier boot may yet turn out torn."""
        return sha256 in self._places

    def place(self, sha256: str) -> Place | None:
        """Where the content is; None when it is not here, or is damaged."""
        with self._lock:
            found = self._places.get(sha256)
            if found is not None and found.pack in self._unchecked:
                self._check(found.pack)
                found = self._places.get(sha256)
            return found

    def file(self, pack: str) -> str:
        """The path of a pack."""
        return os.path.join(self._path, pack)

    def add(self, part: str, contents: list[Content]) -> None:
        """Keep the file `part`, in which these contents lie, all of them checked."""
        pack = os.urandom(12).hex()
        with self._lock:
            os.rename(part, self.file(pack))
            self._write_index(pack, contents)
            self._contents[pack] = contents
            self._used[pack] = time.time()
            self._find(pack)

    def use(self, contents: Iterable[Content]) -> None:
        """These contents are of use now: what is not used goes first."""
        now = time.time()
        with self._lock:
            for pack in {self._places[sha256].pack for sha256, _ in contents if sha256 in self._places}:
                if now - self._used[pack] > 1:
                    with contextlib.suppress(OSError):
                        os.utime(self.file(pack) + _INDEX)
                    self._used[pack] = now

    def sizes(self) -> list[tuple[str, int]]:
        """Each pack with its bytes, the least recently used first."""
        with self._lock:
            order = sorted(self._contents, key=lambda pack: self._used[pack])
            return [(pack, sum(size for _, size in self._contents[pack])) for pack in order]

    def packs_of(self, contents: Iterable[Content]) -> set[str]:
        """The packs in which these contents lie."""
        with self._lock:
            return {self._places[sha256].pack for sha256, _ in contents if sha256 in self._places}

    def remove(self, pack: str) -> None:
        """Delete a pack. Whoever has its file open reads on."""
        with self._lock:
            for name in (pack + _INDEX, pack):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(self.file(name))
            for sha256, _ in self._contents.pop(pack, ()):
                if self._places.get(sha256) is not None and self._places[sha256].pack == pack:
                    del self._places[sha256]
            self._unchecked.discard(pack)
            self._used.pop(pack, None)
            for other in self._contents:
                self._find(other)
            self.changes += 1

    # -- inside -------------------------------------------------------------------------------------------------

    def _load(self, name: str) -> None:
        """One file of the folder: a pack with its index is taken, anything else removed."""
        pack = name[: -len(_INDEX)] if name.endswith(_INDEX) else name
        index = durable.read_json(self.file(pack) + _INDEX) or {}
        contents = _contents(index.get("contents"))
        try:
            whole = contents is not None and os.stat(self.file(pack)).st_size == sum(size for _, size in contents)
        except OSError:
            whole = False
        if contents is None or not whole:
            with contextlib.suppress(OSError):
                os.unlink(self.file(name))
            return
        if name != pack:
            return
        self._contents[pack] = contents
        self._used[pack] = os.stat(self.file(pack) + _INDEX).st_mtime
        if index.get("boot") != self._boot:
            self._unchecked.add(pack)
        self._find(pack)

    def _find(self, pack: str) -> None:
        offset = 0
        for sha256, size in self._contents[pack]:
            self._places.setdefault(sha256, Place(pack, offset, size))
            offset += size
        self.changes += 1

    def _check(self, pack: str) -> None:
        with open(self.file(pack), "rb") as file:
            sound = all(_hash(file.fileno(), place) == sha256 for sha256, place in self._in(pack))
        if sound:
            self._unchecked.discard(pack)
            self._write_index(pack, self._contents[pack])
        else:
            sys.stderr.write("pack {} is damaged and goes\n".format(pack))
            self.remove(pack)

    def _in(self, pack: str) -> Iterator[tuple[str, Place]]:
        offset = 0
        for sha256, size in self._contents[pack]:
            yield sha256, Place(pack, offset, size)
            offset += size

    def _write_index(self, pack: str, contents: list[Content]) -> None:
        index = self.file(pack) + _INDEX
        with open(index + ".new", "w") as file:
            json.dump({"boot": self._boot, "contents": contents}, file)
        os.rename(index + ".new", index)


def _hash(fd: int, place: Place) -> str:
    digest, offset, end = hashlib.sha256(), place.offset, place.offset + place.size
    while offset < end:
        piece = os.pread(fd, min(_PIECE, end - offset), offset)
        if not piece:
            break
        digest.update(piece)
        offset += len(piece)
    return digest.hexdigest()


def _contents(value: object) -> list[Content] | None:
    """What an index says, or None for one that says nothing."""
    if not isinstance(value, list):
        return None
    found = []
    for each in value:
        if not (isinstance(each, list) and len(each) == 2 and is_sha(each[0]) and type(each[1]) is int):
            return None
        found.append((str(each[0]), int(each[1])))
    return found
