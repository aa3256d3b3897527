"""The uploaded folders on the server, by content hash: received once, sent to each host that lacks it."""

from __future__ import annotations

import hashlib
import os
import re
from typing import TYPE_CHECKING

from pool.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable

_SHA = re.compile(r"[0-9a-f]{64}")


def _file(folder: str, sha256: str) -> str:
    if not _SHA.fullmatch(sha256):
        raise InputError(f"not a sha256: {sha256!r}")
    return os.path.join(folder, "code", sha256 + ".tar")


def has(folder: str, sha256: str) -> bool:
    """True when the state folder `folder` has the archive."""
    return os.path.exists(_file(folder, sha256))


def keep(folder: str, sha256: str, chunks: Iterable[bytes]) -> None:
    """Keep an archive; InputError when its bytes do not have this hash. Whole after a crash, or absent."""
    target = _file(folder, sha256)
    os.makedirs(os.path.dirname(target), mode=0o700, exist_ok=True)
    digest = hashlib.sha256()
    temporary = f"{target}.{os.urandom(4).hex()}"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(fd, "wb") as file:
            for chunk in chunks:
                digest.update(chunk)
                file.write(chunk)
            file.flush()
            os.fsync(fd)
        if digest.hexdigest() != sha256:
            raise InputError("the folder's archive arrived damaged", hint="run the command again")
        os.rename(temporary, target)
    except BaseException:
        os.unlink(temporary)
        raise
