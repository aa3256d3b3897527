"""The uploaded folder: kept once by content hash, unpacked for each job so that nothing can land outside its folder."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tarfile
from typing import IO

from pool.runner import durable
from pool.runner.ledger import RefusedError

_SHA = re.compile(r"[0-9a-f]{64}\Z")


class Archives:
    """Archives by sha256 in the folder `path`. Pieces may arrive in any order; a hash that differs is refused."""

    def __init__(self, path: str) -> None:
        self._path = path
        os.makedirs(path, mode=0o700, exist_ok=True)

    def file(self, sha256: str) -> str:
        """Where the archive is or will be; RefusedError for what is not a hash, because it becomes a path."""
        if not isinstance(sha256, str) or not _SHA.match(sha256):
            raise RefusedError("bad_request", "not a sha256: {!r}".format(sha256))
        return os.path.join(self._path, sha256 + ".tar")

    def has(self, sha256: str) -> bool:
        """True when the archive is complete here."""
        return os.path.exists(self.file(sha256))

    def write(self, sha256: str, offset: int, data: bytes) -> None:
        """Keep one piece."""
        fd = os.open(self.file(sha256) + ".part", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.pwrite(fd, data, offset)
        finally:
            os.close(fd)

    def finish(self, sha256: str) -> None:
        """All pieces are here: check the hash and keep the archive under it."""
        part = self.file(sha256) + ".part"
        digest = hashlib.sha256()
        with open(part, "rb") as file:
            for chunk in iter(lambda: file.read(1 << 20), b""):
                digest.update(chunk)
            os.fsync(file.fileno())
        if digest.hexdigest() != sha256:
            os.unlink(part)
            raise RefusedError("bad_archive", "the archive arrived damaged; it is sent again")
        os.rename(part, self.file(sha256))
        durable.sync_folder(self._path)

    def unpack(self, sha256: str, folder: str, uid: int, gid: int) -> None:
        """Unpack into the new folder `folder`, owned by `uid`. Links come last, so that no file goes through one."""
        try:
            with tarfile.open(self.file(sha256), "r:") as tar:  # plain: what is compressed may grow without bound
                _unpack(tar, folder, uid, gid)
        except tarfile.TarError as error:
            raise RefusedError("bad_archive", "not a tar file as we make them: {}".format(error)) from error


def _unpack(tar: tarfile.TarFile, folder: str, uid: int, gid: int) -> None:
    links = []
    for member in tar:
        path = _inside(folder, member.name)
        if member.isdir():
            _make_folder(path, uid, gid)
            os.chmod(path, member.mode & 0o755 | 0o700)
        elif member.isreg() and not member.issparse():
            _make_folder(os.path.dirname(path), uid, gid)
            _write_file(tar.extractfile(member), path, member, uid, gid)
        elif member.issym():
            _inside(folder, os.path.join(os.path.dirname(member.name), member.linkname))
            links.append((member.linkname, path))
        else:
            raise RefusedError("bad_archive", "{!r} is neither file, folder nor link".format(member.name))
    for target, path in links:
        _make_folder(os.path.dirname(path), uid, gid)
        os.symlink(target, path)
        os.lchown(path, uid, gid)
    root = os.path.realpath(folder)
    for target, path in links:  # a link may lead out by way of another
        if os.path.commonpath([root, os.path.realpath(path)]) != root:
            for _, made in links:
                os.unlink(made)
            raise RefusedError("bad_archive", "the link to {!r} points outside the folder".format(target))


def _inside(folder: str, name: str) -> str:
    """`folder/name`; RefusedError when that would be outside `folder`."""
    path = os.path.normpath(os.path.join(folder, name))
    if name.startswith("/") or (path != folder and not path.startswith(folder + os.sep)):
        raise RefusedError("bad_archive", "{!r} points outside the folder".format(name))
    return path


def _make_folder(path: str, uid: int, gid: int) -> None:
    """Make a folder and those above it that are missing."""
    if not os.path.isdir(path):
        _make_folder(os.path.dirname(path), uid, gid)
        os.mkdir(path, 0o755)
        os.chown(path, uid, gid)


def _write_file(source: IO[bytes] | None, path: str, member: tarfile.TarInfo, uid: int, gid: int) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as file:
        if source is not None:
            shutil.copyfileobj(source, file, 1 << 20)
        file.flush()
        os.fchmod(fd, member.mode & 0o755)
        os.fchown(fd, uid, gid)
        os.utime(fd, (member.mtime, member.mtime))
