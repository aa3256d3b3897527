"""What there is in a folder: every path that is sent, in a stable order, and what is left out and why."""

from __future__ import annotations

import os
import stat

from pool.errors import InputError
from pool.folder.ignore import Git, Rules, is_in_git

#: Left out everywhere: made again where it runs.
_CACHES = "__pycache__"


class Found:
    """Paths below a folder, each with what `lstat` says of it and where it is; and lines about the rest."""

    def __init__(self) -> None:
        self.paths: dict[str, tuple[os.stat_result, str]] = {}
        self.left_out: list[str] = []
        self.notes: list[str] = []


def walk(folder: str, *, git: bool = False) -> Found:
    """Everything in the folder but what is ignored; `.git` only with `git`. InputError for what cannot be read."""
    found = Found()
    ignored = Git(folder).ignored("", found.notes) if is_in_git(folder) else None
    _walk(folder, "", Rules(git=ignored), found, git)
    return found


def walk_all(folder: str) -> Found:
    """Everything in the folder, ignored or not, but `.git`."""
    found = Found()
    _walk(folder, "", None, found, False)
    return found


def _walk(top: str, at: str, rules: Rules | None, found: Found, git: bool) -> None:
    todo = [(top, at, rules)]
    while todo:
        here, at, rules = todo.pop()
        try:
            with os.scandir(here) as scanned:
                entries = list(scanned)
        except OSError as error:
            raise unreadable(here, error) from error
        if rules is not None:
            rules = rules.below(here, at, [entry.name for entry in entries], found.notes)
        for entry in entries:
            path = at + entry.name
            if entry.name == ".git" and not git:
                continue
            is_folder = entry.is_dir(follow_symlinks=False)
            if (entry.name == _CACHES and is_folder) or (rules is not None and rules.leave_out(path, is_folder)):
                continue
            try:
                info = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue  # it went away meanwhile
            if is_folder:
                todo.append((entry.path, path + "/", None if entry.name == ".git" else rules))
            elif not (stat.S_ISREG(info.st_mode) or stat.S_ISLNK(info.st_mode)):
                kind = "a socket" if stat.S_ISSOCK(info.st_mode) else "a special file"
                found.left_out.append(f"{show(path)}: {kind} cannot be sent")
                continue
            found.paths[path] = (info, entry.path)


def unreadable(path: str, error: OSError) -> InputError:
    """Code that is half there is worse than none."""
    hint = "let it be read, or name it in .poolignore"
    return InputError(f"{show(path)} cannot be read: {error.strerror or error}", hint=hint)


def show(name: str) -> str:
    """A file's name for a message: on one line, nothing in it that a terminal would obey."""
    return name if name.isprintable() else ascii(name)
