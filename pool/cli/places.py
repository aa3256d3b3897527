"""Where the reader of a run stopped: per rank `attempt:offset` of the next byte, in a small file of the state folder.

Kept at least each second while output is shown, and at the end; forgotten once the whole run was shown, so that
`pool attach` then shows it again. Files of runs that nobody came back to are removed after a month.
"""

from __future__ import annotations

import json
import os
import time
from _thread import allocate_lock, start_new_thread  # `threading` takes longer to import than a short run has output

from pool import config

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_EVERY_S = 1.0
_OLD_S = 30 * 86400


class Places:
    """The places of one run; `now` tells them as they are."""

    def __init__(self, run_id: str, now: Callable[[], dict[int, str]]) -> None:
        self._folder = config.path("places")
        self._path = os.path.join(self._folder, run_id)
        self._now = now
        self._keeping = allocate_lock()
        self._kept: dict[int, str] = {}
        self._begun = self._closed = False

    def shown(self) -> None:
        """Some output was shown: its place is kept within the second."""
        if not self._begun:
            self._begun = True
            start_new_thread(self._keep_forever, ())

    def close(self, *, whole: bool) -> None:
        """The last of it. `whole`: the run was shown to its end."""
        if not whole:
            self._keep()
        with self._keeping:
            self._closed = True
            if whole:
                try:
                    os.unlink(self._path)
                except OSError:
                    return  # there was none

    def _keep(self) -> None:
        """Write them, whole or not at all. A full disk is no reason to stop showing a run."""
        with self._keeping:
            places = self._now()
            if places == self._kept or self._closed:
                return
            try:
                if not self._kept:
                    _make(self._folder)
                part = f"{self._path}.{os.getpid()}"
                with open(part, "w", encoding="utf-8") as file:
                    json.dump(places, file)
                os.replace(part, self._path)
            except OSError:
                return
            self._kept = places

    def _keep_forever(self) -> None:
        while not self._closed:
            time.sleep(_EVERY_S)
            self._keep()


def kept_places(run_id: str) -> dict[int, str]:
    """The places where the last reader of the run stopped; empty where none did, or the file is of no use."""
    try:
        with open(os.path.join(config.path("places"), run_id), encoding="utf-8") as file:
            found = {int(rank): text.split(":") for rank, text in json.load(file).items()}
        return {rank: f"{int(attempt)}:{int(offset)}" for rank, (attempt, offset) in found.items()}
    except (OSError, ValueError, AttributeError):
        return {}


def _make(folder: str) -> None:
    """The folder, without files that nobody came back to."""
    os.makedirs(folder, mode=0o700, exist_ok=True)
    with os.scandir(folder) as entries:
        for entry in entries:
            if time.time() - entry.stat().st_mtime > _OLD_S:
                os.unlink(entry.path)
