"""`files:` of a task: more files and folders that go along, `local[:remote]`.

A local path is absolute, of the home (`~`), or from the folder; a remote one is in the folder that is sent. Without it
a path in the folder keeps its place, and any other comes to lie at the top under its own name.
"""

from __future__ import annotations

import os
import stat

from pool.errors import InputError
from pool.folder.walk import Found, show, walk_all

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

_HINT = "files: [local:remote], as ~/data/labels.csv:data/labels.csv"


def add_extra(found: Found, folder: str, files: Sequence[str]) -> None:
    """Add them to what was found in the folder; InputError for what is not there or has no place in it."""
    for written in files:
        local, _, remote = written.partition(":")
        place = os.path.normpath(os.path.join(folder, os.path.expanduser(local)))
        path = _remote(written, remote) if remote else _own_place(written, place, folder)
        try:
            place = os.path.realpath(place, strict=True)
            info = os.stat(place)
        except OSError as error:
            raise InputError(f"files: {show(local)}: {error.strerror}", hint=_HINT) from error
        _add(found, path, place, info)


def _remote(written: str, remote: str) -> str:
    path = os.path.normpath(remote)
    if path.startswith("/"):
        message = f"files: {show(written)}: its place has to be in the folder that is sent, not {show(remote)}"
        raise InputError(message, hint=f"files: [{show(written.partition(':')[0])}:{show(path.lstrip('/'))}]")
    if path == ".." or path.startswith("../") or path == ".":
        raise InputError(f"files: {show(written)}: its place is not in the folder that is sent", hint=_HINT)
    return path


def _own_place(written: str, place: str, folder: str) -> str:
    inside = os.path.relpath(place, folder)
    path = os.path.basename(place) if inside == ".." or inside.startswith("../") else inside
    if path in ("", "."):
        raise InputError(f"files: {show(written)}: the folder itself is sent anyway", hint=_HINT)
    return path


def _add(found: Found, path: str, place: str, info: os.stat_result) -> None:
    above = os.path.dirname(path)
    if above and above not in found.paths:
        _add(found, above, "", _new_folder())
    elif above and not stat.S_ISDIR(found.paths[above][0].st_mode):
        raise InputError(f"files: {show(path)}: {show(above)} is not a folder", hint=_HINT)
    for old in [old for old in found.paths if old == path or old.startswith(path + "/")] if place else ():
        del found.paths[old]
    found.paths[path] = (info, place)
    if stat.S_ISDIR(info.st_mode):
        if place:
            inside = walk_all(place)
            found.paths.update({f"{path}/{name}": what for name, what in inside.paths.items()})
            found.left_out += [f"{path}/{line}" for line in inside.left_out]
    elif not stat.S_ISREG(info.st_mode):
        raise InputError(f"files: {show(path)} is a special file", hint=_HINT)


def _new_folder() -> os.stat_result:
    return os.stat_result((stat.S_IFDIR | 0o755, *([0] * 9)))
