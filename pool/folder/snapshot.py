"""A folder as it is now: its manifest, and where each content is read from when it has to be sent."""

from __future__ import annotations

import hashlib
import os
import stat

from pool.errors import InputError
from pool.folder.extra import add_extra
from pool.folder.index import Index
from pool.folder.secrets import may_be_secret
from pool.folder.walk import Found, show, unreadable, walk
from pool.runner import manifest as manifests

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pool.runner.manifest import Entry, Manifest

#: Above this it is asked whether the folder is the right one.
SIZE_LIMIT = 1 << 30
_PIECE = 1 << 20
_TRIES = 5


class Large:
    """What has to be read and may have to be sent, when that is more than one may expect."""

    def __init__(self, size: int, count: int, largest: list[tuple[str, int]]) -> None:
        """`largest`: the entries of the folder that most of it is in, with their bytes."""
        self.size, self.count, self.largest = size, count, largest


class Snapshot:
    """See `take`."""

    def __init__(self, manifest: Manifest, sources: dict[str, str]) -> None:
        self.manifest = manifest
        self.sources = sources  #: path of a file with the content, by sha256
        self.left_out: list[str] = []  #: what is not sent, and why
        self.notes: list[str] = []
        self.secrets: list[str] = []  #: files that may hold secrets, which nobody was told of before


def repo_id(folder: str) -> str:
    """A stable id of the folder, for DSTACK_REPO_ID: the same folder gives the same one."""
    return hashlib.sha256(os.path.realpath(folder).encode(errors="surrogateescape")).hexdigest()[:16]


def take(
    folder: str,
    *,
    git: bool = False,
    files: Sequence[str] = (),
    limit: int = SIZE_LIMIT,
    on_large: Callable[[Large], None] = lambda _: None,
    progress: Callable[[int, int], None] = lambda _, __: None,
) -> Snapshot:
    """Read what is new in the folder, and say what it is as a whole.

    `git`: with `.git`. `files`: more of them, `local[:remote]`. `on_large` is called before more than `limit` bytes are
    read that were never read before, and raises when they are not to be. `progress(done, total)` is told bytes read.
    InputError for what cannot be read.
    """
    index = Index(repo_id(folder))
    found = walk(folder, git=git)
    add_extra(found, folder, files)
    known = {path: _known(index, path, info) for path, (info, _) in found.paths.items()}
    new = _new(found, known)
    if new.size > limit:
        on_large(new)
    read = 0
    entries: list[Entry] = []
    sources: dict[str, str] = {}
    for path in sorted(found.paths):
        info, place = found.paths[path]
        if stat.S_ISDIR(info.st_mode):
            entries.append([manifests.FOLDER, path, info.st_mode & 0o777])
        elif stat.S_ISLNK(info.st_mode):
            entries.append([manifests.LINK, path, _target(place)])
        else:
            sha256 = known[path]
            if sha256 is None:
                info, sha256 = _read(path, place, index)
                read += info.st_size
                progress(read, new.size)
            mtime = max(0, info.st_mtime_ns)
            entries.append([manifests.FILE, path, info.st_mode & 0o777, mtime, info.st_size, sha256])
            sources[sha256] = place
    made = Snapshot(_manifest(entries, found, folder), sources)
    made.secrets = index.first_time([path for path in sorted(found.paths) if may_be_secret(path)])
    made.left_out, made.notes = sorted(found.left_out), found.notes
    if index.changed or made.secrets:
        index.save()
    return made


def _known(index: Index, path: str, info: os.stat_result) -> str | None:
    return index.hash_of(path, info) if stat.S_ISREG(info.st_mode) else None


def _manifest(entries: list[Entry], found: Found, folder: str) -> Manifest:
    """Without the links that lead out, and what else cannot be made on a host; InputError for far too much."""
    out = {entry[1]: entry for entry in manifests.leaving(entries)}
    for path, entry in out.items():
        found.left_out.append(f"{show(path)}: the link to {show(entry[2])} leaves the folder")
    made = manifests.encode([entry for entry in entries if entry[1] not in out])
    if len(entries) > manifests.MAX_ENTRIES or len(made.data) > manifests.MAX_BYTES:
        message = f"{folder} has {len(entries)} files and folders; more than {manifests.MAX_ENTRIES} cannot be sent"
        raise InputError(message, hint="name what is not code in .poolignore, and keep data on the hosts: `volumes`")
    return made


def _new(found: Found, known: dict[str, str | None]) -> Large:
    """What has to be read: bytes, files, and where most of it is."""
    size, count = 0, 0
    parts: dict[str, int] = {}
    for path, (info, _) in found.paths.items():
        if stat.S_ISREG(info.st_mode) and known[path] is None:
            size, count = size + info.st_size, count + 1
            top = path.partition("/")[0]
            parts[top] = parts.get(top, 0) + info.st_size
    return Large(size, count, sorted(parts.items(), key=lambda part: -part[1])[:5])


def _target(place: str) -> str:
    try:
        return os.readlink(place)
    except OSError as error:
        raise unreadable(place, error) from error


def _read(path: str, place: str, index: Index) -> tuple[os.stat_result, str]:
    """The file's hash, and what it was when it had that; kept in the index."""
    for _ in range(_TRIES):
        try:
            fd = os.open(place, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError as error:
            raise unreadable(place, error) from error
        try:
            before = os.fstat(fd)
            digest, size = hashlib.sha256(), 0
            while size <= before.st_size and (piece := os.read(fd, _PIECE)):  # one may grow for ever
                digest.update(piece)
                size += len(piece)
            after = os.fstat(fd)
        except OSError as error:
            raise unreadable(place, error) from error
        finally:
            os.close(fd)
        same = (before.st_mtime_ns, before.st_ctime_ns, before.st_size) == (after.st_mtime_ns, after.st_ctime_ns, size)
        if same and stat.S_ISREG(before.st_mode):
            index.keep(path, before, digest.hexdigest())
            return before, digest.hexdigest()
    raise InputError(f"{show(place)} keeps changing", hint="name it in .poolignore, or wait until it is written")
