"""What the files of a folder were when they were last read, so that unchanged ones need not be read again.

As git's index: a file is taken for unchanged while size, dates and inode are. One that was changed so shortly before it
was read that another change might not show in its dates is read again the next time.
"""

from __future__ import annotations

import json
import os
import time

from pool import config

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: Of clocks that tick in seconds, and of those that do not.
_COARSE_NS, _FINE_NS = 2_000_000_000, 50_000_000
_VERSION = 1


class Index:
    """The index of the folder with the id `repo_id`."""

    def __init__(self, repo_id: str) -> None:
        os.makedirs(config.path("index"), mode=0o700, exist_ok=True)
        self._path = os.path.join(config.path("index"), repo_id)
        self._files: dict[str, list[Any]] = {}
        self._seen: dict[str, list[Any]] = {}
        self._warned: list[str] = []
        try:
            with open(self._path, "rb") as file:
                stored = json.load(file)
            if stored["version"] == _VERSION:
                self._files, self._warned = dict(stored["files"]), list(stored["warned"])
        except (OSError, ValueError, KeyError, TypeError):
            pass  # none yet, or torn: everything is read again

    def hash_of(self, path: str, info: os.stat_result) -> str | None:
        """The content's hash, when the file is as it was; None when it has to be read."""
        found = self._files.get(path)
        if found is None or found[:4] != _mark(info):
            return None
        self._seen[path] = found
        return str(found[4])

    def keep(self, path: str, info: os.stat_result, sha256: str) -> None:
        """The file was read and has this hash; `info` is from before, and the same as after."""
        newest = max(info.st_mtime_ns, info.st_ctime_ns)
        coarse = info.st_mtime_ns % 1_000_000 == 0 and info.st_ctime_ns % 1_000_000 == 0
        if time.time_ns() - newest > (_COARSE_NS if coarse else _FINE_NS):
            self._seen[path] = [*_mark(info), sha256]

    def first_time(self, names: list[str]) -> list[str]:
        """Those of the names that nobody was warned about yet; they are, from now on."""
        new = [name for name in names if name not in self._warned]
        self._warned += new
        return new

    def save(self) -> None:
        """Keep what was asked about or kept, for the next time."""
        text = json.dumps({"version": _VERSION, "files": self._seen, "warned": self._warned})
        temporary = f"{self._path}.{os.getpid()}"
        with open(temporary, "w", encoding="ascii") as file:
            file.write(text)
        os.rename(temporary, self._path)

    @property
    def changed(self) -> bool:
        """True when saving would tell the next one something new."""
        return self._seen != self._files


def _mark(info: os.stat_result) -> list[int]:
    return [info.st_size, info.st_mtime_ns, info.st_ctime_ns, info.st_ino]
