"""What of a folder is left out: what git ignores there, and what `.poolignore` and `.dstackignore` name.

Git itself is asked, once for each repository, so that everything counts that counts for it: nested files,
`.git/info/exclude`, the user's own excludes, and that what is tracked is never ignored. Where there is no git,
`.gitignore` files are read as `.poolignore` is. The latter count for tracked files too.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterable

    from pathspec import GitIgnoreSpec

    _Specs = tuple[tuple[str, GitIgnoreSpec], ...]

_OURS = (".dstackignore", ".poolignore")
_GITS = ".gitignore"
_LIST = ("ls-files", "-z", "-o", "-i", "--exclude-standard", "--directory")


class Rules:
    """What is left out in one folder and below. Of nested files of one kind the deepest that says anything decides."""

    def __init__(self, ours: _Specs = (), gits: _Specs = (), git: frozenset[str] | None = None) -> None:
        """`git`: the paths from the top that git ignores; None where there is no git, and `gits` counts."""
        self._ours, self._gits, self._git = ours, gits, git

    def below(self, folder: str, at: str, names: Iterable[str], notes: list[str]) -> Rules:
        """The rules in a subfolder (or the top) with these names in it. `at`: its path, empty or with a `/` at its end.

        What is odd is added to `notes`.
        """
        ours, gits, git = self._ours, self._gits, self._git
        here = set(names)
        if ".git" in here and at:
            git = Git(folder).ignored(at, notes)
        for name in _OURS:
            if name in here:
                ours = (*ours, (at, _read(os.path.join(folder, name))))
        if git is None and _GITS in here:
            gits = (*gits, (at, _read(os.path.join(folder, _GITS))))
        return Rules(ours, gits, git)

    def leave_out(self, path: str, is_folder: bool) -> bool:
        """True for a path that stays behind, with all that is in it."""
        if self._git is None and self._gits and _says(self._gits, path, is_folder):
            return True
        if self._git is not None and path in self._git:
            return True
        return bool(self._ours) and _says(self._ours, path, is_folder)


def _says(specs: _Specs, path: str, is_folder: bool) -> bool:
    for at, spec in reversed(specs):
        said = spec.check_file(path[len(at) :] + ("/" if is_folder else "")).include
        if said is not None:
            return bool(said)
    return False


class Git:
    """Git, asked what it ignores in a folder, and at work on the answer."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._asked = self._start(*_LIST)

    def ignored(self, at: str, notes: list[str]) -> frozenset[str] | None:
        """The paths from the top (`at` is the folder's), or None where git does not say; a refusal is noted."""
        if self._asked is None:
            return None
        said, complaint = self._asked.communicate()
        if self._asked.returncode != 0:
            line = (os.fsdecode(complaint).strip().splitlines() or ["it failed"])[0]
            if "not a git repository" not in line:
                where = at.rstrip("/") or "this folder"
                notes.append(f"git does not say what it ignores in {where} ({line}); .gitignore is read without it")
            return None
        paths = [os.fsdecode(path) for path in said.split(b"\0") if path]
        if "./" in paths:  # the repository around it ignores the folder; but it was asked for
            return None
        hollow = self._hollow([path for path in paths if path.endswith("/")])
        found = {at + path.rstrip("/") for path in paths if path not in hollow}
        return frozenset(found | {f"{at}{path}{name}" for path in hollow for name in self._names(path)})

    def _hollow(self, folders: list[str]) -> set[str]:
        """Those of the folders which are not ignored, but all that is in them: a job may want to write there."""
        asked = self._start("check-ignore", "-z", "--stdin") if folders else None
        if asked is None:
            return set()
        said, _ = asked.communicate(b"\0".join(map(os.fsencode, folders)))
        return set(folders) - {os.fsdecode(path) for path in said.split(b"\0")}

    def _names(self, path: str) -> list[str]:
        try:
            return os.listdir(os.path.join(self._folder, path))
        except OSError:
            return []

    def _start(self, *words: str) -> subprocess.Popen[bytes] | None:
        import subprocess

        private = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX")
        env = {name: value for name, value in os.environ.items() if name not in private}
        try:
            return subprocess.Popen(
                ["git", "-C", self._folder, *words],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=env | {"GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"},
            )
        except OSError:
            return None


def is_in_git(folder: str) -> bool:
    """True when the folder or one above it is a repository."""
    here = os.path.realpath(folder)
    while True:
        if os.path.lexists(os.path.join(here, ".git")):
            return True
        above = os.path.dirname(here)
        if above == here:
            return False
        here = above


def _read(path: str) -> GitIgnoreSpec:
    from pathspec import GitIgnoreSpec

    from pool.errors import InputError

    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return GitIgnoreSpec.from_lines(file.read().splitlines())
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise InputError(f"{path}: {error}", hint="it is written as a .gitignore") from error
