"""Folders that were sent, by what is in them: on the server, and on each host, for all pools and users there.

    code/manifests/<sha256>   what a folder is (manifest.py)
    code/packs/               the contents of its files, each once (packs.py)
    code/parts/               what is on its way in (upload.py)
    trees/                    folders made ahead, for the next job of the same code (trees.py)

Nothing here is believed that its hash does not prove, so nobody can give others code that is not theirs. What takes too
much goes, the least recently used first; what a job is about to need does not.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
import time
from typing import Callable, Iterable

from pool.runner.jobs import remove
from pool.runner.ledger import RefusedError
from pool.runner.manifest import Content, Manifest, decode, flags, is_sha
from pool.runner.packs import Packs
from pool.runner.trees import Trees
from pool.runner.unfold import Reader
from pool.runner.upload import Upload

#: What may be kept where nobody said otherwise.
DEFAULT_GB = 20
#: More than these of a kind go, however small they are.
_PACKS_MAX, _MANIFESTS_MAX = 1000, 500
#: An upload of which nothing was heard for so long is over.
_QUIET_S = 600.0
_UPLOADS_MAX = 64
#: A folder that was asked about or has come is needed for so long, whoever has yet to say so.
_FRESH_S = 60.0
_IN_MEMORY = 8


class Code:
    """The folders kept in `path`. Safe to use from several threads, of one process."""

    def __init__(
        self, path: str, limit: Callable[[], int], needed: Callable[[], Iterable[str]], trees: str = ""
    ) -> None:
        """`limit()`: most bytes to keep. `needed()`: hashes of folders that must stay. `trees`: on the disk of jobs."""
        self._path, self._limit, self._needed = path, limit, needed
        self._lock = threading.RLock()
        self._read: dict[str, Manifest] = {}
        self._complete: dict[str, int] = {}
        self._uploads: dict[str, Upload] = {}
        self._fresh: dict[str, float] = {}
        os.makedirs(path, mode=0o700, exist_ok=True)
        for name in os.listdir(path):
            if name not in ("manifests", "packs"):
                _discard(os.path.join(path, name))
        for name in ("manifests", "parts"):
            os.makedirs(os.path.join(path, name), mode=0o700, exist_ok=True)
        self.packs = Packs(os.path.join(path, "packs"))
        self.trees = Trees(trees or os.path.join(path, "trees"), self.reader, self._has_room)

    def reader(self) -> Reader:
        """Reads contents; to be closed."""
        return Reader(self.packs)

    def has(self, sha256: str) -> bool:
        """True when the folder is here, whole."""
        manifest = self.manifest(sha256)
        if manifest is None:
            return False
        with self._lock:
            self._fresh[sha256] = time.monotonic()
        if self._complete.get(sha256) != self.packs.changes:
            changes = self.packs.changes
            if not all(self.packs.place(content) for content, _ in manifest.contents):
                return False
            self._complete = {**self._complete, sha256: changes} if len(self._complete) < 100 else {sha256: changes}
        self.packs.use(manifest.contents)
        return True

    def manifest(self, sha256: str) -> Manifest | None:
        """What the folder is; None when that is not known here. RefusedError for what is no hash."""
        path = self._manifest_file(sha256)
        with self._lock:
            found = self._read.pop(sha256, None)
            if found is None:
                try:
                    with open(path, "rb") as file:
                        data = file.read()
                except FileNotFoundError:
                    return None
                try:
                    found = decode(data)
                except RefusedError:
                    found = None
                if found is None or found.sha256 != sha256:  # torn by a power cut
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(path)
                    return None
            self._read[sha256] = found  # the last used comes last
            while len(self._read) > _IN_MEMORY:
                del self._read[next(iter(self._read))]
        with contextlib.suppress(OSError):
            os.utime(path)
        return found

    def begin(self, sha256: str, data: bytes) -> tuple[str, bytes, int]:
        """A manifest has come: `(upload, which of its contents are wanted, their bytes)`; no upload when none is.

        RefusedError("bad_manifest"), or ("disk_full") when its contents and a folder made of them have no room.
        """
        path = self._manifest_file(sha256)
        manifest = decode(data)
        if manifest.sha256 != sha256:
            raise RefusedError("bad_manifest", "the folder's list arrived damaged; it is sent again")
        new = os.path.join(self._path, "parts", os.urandom(12).hex())  # the same folder may come twice at once
        with open(new, "wb") as file:
            file.write(data)
        os.rename(new, path)
        with self._lock:
            self._read[sha256] = manifest
            self._fresh[sha256] = time.monotonic()
        wanted = [self.packs.place(content) is None for content, _ in manifest.contents]
        contents = [content for content, want in zip(manifest.contents, wanted) if want]  # noqa: B905 - Python 3.8
        if not contents:
            self.packs.use(manifest.contents)
            return "", b"", 0
        self._end_quiet()
        size = sum(size for _, size in contents)
        self._make_room(size + manifest.total)
        name = os.urandom(12).hex()
        self._uploads[name] = Upload(os.path.join(self._path, "parts", name), contents)
        return name, flags(wanted), size

    def write(self, upload: str, offset: int, data: bytes) -> None:
        """Keep one piece of an upload."""
        self._of(upload, lambda one: one.write(offset, data))

    def finish(self, upload: str) -> None:
        """All pieces of an upload are here: its contents are of use from now on."""
        found = self._of(upload, lambda one: one.finish())
        with self._lock:
            if self._uploads.pop(upload, None) is not None:
                self.packs.add(found.path, found.contents)
        self.tidy()

    def drop(self, upload: str) -> None:
        """Give an upload up."""
        found = self._uploads.pop(upload, None)
        if found is not None:
            found.drop()

    def extents(self, contents: Iterable[Content]) -> list[tuple[str, int, int]]:
        """Where these contents lie, in this order: `(file, offset, bytes)`, as few as may be.

        RefusedError("no_code") when one of them is not here.
        """
        found: list[tuple[str, int, int]] = []
        for sha256, size in contents:
            place = self.packs.place(sha256)
            if place is None:
                raise RefusedError("no_code", "a part of the folder is not here any more")
            path = self.packs.file(place.pack)
            if found and found[-1][0] == path and found[-1][1] + found[-1][2] == place.offset:
                found[-1] = (path, found[-1][1], found[-1][2] + size)
            elif size:
                found.append((path, place.offset, size))
        return found

    def tidy(self) -> None:
        """Remove what is over the limit and may go."""
        with self._lock:
            self._reduce(self._limit())
            needed = self._kept()
            folder = os.path.join(self._path, "manifests")
            names = sorted(os.listdir(folder), key=lambda name: _mtime(os.path.join(folder, name)))
            for name in names[: max(0, len(names) - _MANIFESTS_MAX)]:
                if name not in needed:
                    _discard(os.path.join(folder, name))

    # -- inside -------------------------------------------------------------------------------------------------

    def _manifest_file(self, sha256: str) -> str:
        if not is_sha(sha256):
            raise RefusedError("bad_request", "not a sha256: {!r}".format(sha256))
        return os.path.join(self._path, "manifests", sha256)

    def _of(self, name: str, act: Callable[[Upload], None]) -> Upload:
        upload = self._uploads.get(name)
        if upload is None:
            raise RefusedError("no_upload", "this upload is over; it is begun again")
        try:
            act(upload)
        except (RefusedError, OSError):
            self.drop(name)
            raise
        return upload

    def _end_quiet(self) -> None:
        """Give up uploads of which nothing is heard, and where there are too many those that are quiet for longest."""
        uploads = sorted(self._uploads.items(), key=lambda item: -item[1].heard)
        for number, (name, upload) in enumerate(uploads):
            if number >= _UPLOADS_MAX - 1 or time.monotonic() - upload.heard > _QUIET_S:
                self.drop(name)

    def _bytes(self) -> int:
        return sum(size for _, size in self.packs.sizes()) + self.trees.size

    def _has_room(self, size: int) -> bool:
        """True when so much may be made ahead: it is within the limit, and the disk is left half of what is free."""
        return self._bytes() + size <= self._limit() and 2 * size < shutil.disk_usage(self.trees.path).free

    def _kept(self) -> set[str]:
        """The folders that stay."""
        with self._lock:
            now = time.monotonic()
            self._fresh = {sha256: at for sha256, at in self._fresh.items() if now - at < _FRESH_S}
            return {*self._needed(), *self._fresh}

    def _make_room(self, size: int) -> None:
        """Have so much free on the disk; RefusedError("disk_full") when that cannot be."""
        short = size - shutil.disk_usage(self._path).free
        if short > 0:
            with self._lock:
                self._reduce(max(0, self._bytes() - short))
        free = shutil.disk_usage(self._path).free
        if size > free:
            raise RefusedError("disk_full", "the folder takes {} here, and {} are free".format(_gb(size), _gb(free)))

    def _reduce(self, limit: int) -> None:
        """Remove packs, the least recently used first, until no more than `limit` bytes and _PACKS_MAX are left."""
        sizes = self.packs.sizes()
        left, count = sum(size for _, size in sizes) + self.trees.size, len(sizes)
        if left <= limit and count <= _PACKS_MAX:
            return
        left -= self.trees.clear() if left > limit else 0
        kept: set[str] = set()
        for sha256 in self._kept():
            manifest = self.manifest(sha256)
            kept |= self.packs.packs_of(manifest.contents if manifest else ())
        for pack, size in sizes:
            if pack not in kept and (left > limit or count > _PACKS_MAX):
                self.packs.remove(pack)
                left, count = left - size, count - 1


def _gb(size: int) -> str:
    return "{:.1f} GB".format(size / (1 << 30))


def _mtime(path: str) -> float:
    try:
        return os.stat(path).st_mtime
    except OSError:
        return 0.0


def _discard(path: str) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        remove(path)
    else:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
