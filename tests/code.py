"""Folders of tests, as values: made on disk, read from it, as manifest and contents."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

from pool.runner.code import Code
from pool.runner.manifest import Manifest, encode, flagged


def listed(*entries: tuple[Any, ...]) -> tuple[Manifest, dict[str, bytes]]:
    """`("d", path, mode)`, `("f", path, data, mode, mtime)`, `("l", path, target)` -> manifest and contents by hash."""
    made: list[list[Any]] = []
    contents = {}
    for kind, path, what, *more in entries:
        if kind == "f":
            mode, mtime = mode_and_date(*more)
            digest = hashlib.sha256(what).hexdigest()
            contents[digest] = what
            made.append(["f", path, mode, mtime, len(what), digest])
        else:
            made.append([kind, path, what])
    return encode(made), contents


def mode_and_date(mode: int = 0o644, mtime: int = 1_000_000_007) -> tuple[int, int]:
    """Those of a file where they are not given."""
    return mode, mtime


def keep(code: Code, manifest: Manifest, contents: dict[str, bytes]) -> int:
    """Send it to a store as a server does; the bytes that it wanted."""
    upload, wanted, size = code.begin(manifest.sha256, manifest.data)
    if upload:
        data = b"".join(contents[sha256] for sha256, _ in flagged(manifest.contents, wanted))
        assert len(data) == size
        code.write(upload, 0, data)
        code.finish(upload)
    return size


def tree(folder: Path) -> dict[bytes, tuple[Any, ...]]:
    """Path -> (kind, mode, content, mtime in ns) of everything below."""
    found: dict[bytes, tuple[Any, ...]] = {}
    top = os.fsencode(folder)
    for here, folders, files in os.walk(top):
        for name in folders + files:
            path = os.path.join(here, name)
            info = os.lstat(path)
            mode, short = info.st_mode & 0o7777, os.path.relpath(path, top)
            if os.path.islink(path):
                found[short] = ("l", os.readlink(path))
            elif os.path.isdir(path):
                found[short] = ("d", mode)
            else:
                with open(path, "rb") as file:
                    found[short] = ("f", mode, file.read(), info.st_mtime_ns)
    return found


def list_code(host: Any, manifest: Manifest) -> tuple[str, bytes]:
    """Send a folder's list over a bridge or a link: the upload, and which contents are wanted."""
    data = manifest.data
    head, wanted = host.request("code_list", data, sha256=manifest.sha256, offset=0, size=len(data))
    return head["upload"], wanted


def send_code(host: Any, manifest: Manifest, contents: dict[str, bytes]) -> None:
    """The whole folder, of at most one piece."""
    upload, wanted = list_code(host, manifest)
    if upload:
        host.request(
            "code_write",
            b"".join(contents[sha256] for sha256, _ in flagged(manifest.contents, wanted)),
            upload=upload,
            offset=0,
        )
        host.request("code_finish", upload=upload)
