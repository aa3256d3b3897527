"""Folders made ahead: after a job has got its folder another copy is made while nobody waits, which the next takes.

A spare is exact, and nobody but the runner comes near it. The next code is most often the same but for a few files:
then these are changed in the spare, and it is renamed. What is in memory is all that is known of spares, so that a new
runner begins with none.
"""

from __future__ import annotations

import os
import sys
import threading
from typing import Callable

from pool.runner.jobs import remove
from pool.runner.manifest import Entry, Manifest
from pool.runner.unfold import Reader, change, unfold

#: Spares are for the codes that are run now, and for folders that are quick to copy.
_SPARES, _LARGEST = 2, 2 << 30
#: A spare is made so long after a job got its folder, so that it does not slow the job's start.
_PAUSE_S = 0.7
#: How nice the thread is that makes them.
_NICE = 10


class _Spare:
    __slots__ = ("manifest", "owner", "path")

    def __init__(self, path: str, manifest: Manifest, owner: tuple[int, int]) -> None:
        self.path, self.manifest, self.owner = path, manifest, owner


class Trees:
    """Makes folders in `path`, which is on the disk of those who take them. Safe to use from several threads."""

    def __init__(self, path: str, reader: Callable[[], Reader], has_room: Callable[[int], bool]) -> None:
        self.path, self._reader, self._has_room = path, reader, has_room
        remove(path)  # what an earlier runner made
        os.makedirs(path, mode=0o700)
        self._changed = threading.Condition()
        self._spares: list[_Spare] = []
        self._wanted: tuple[Manifest, tuple[int, int]] | None = None
        self._worker: threading.Thread | None = None

    @property
    def size(self) -> int:
        """Bytes of all spares."""
        with self._changed:
            return sum(spare.manifest.total for spare in self._spares)

    def take(self, manifest: Manifest, owner: tuple[int, int], to: str) -> None:
        """Make the folder `to`, owned by (uid, gid); it is there whole, or not at all."""
        spare = self._nearest(manifest, owner)
        made = self._new()
        try:
            if spare is not None:
                os.rename(spare.path, made)
                self._change(spare, manifest, made)
            if not os.path.exists(made):
                self._make(manifest, owner, made)
            os.rename(made, to)
        except BaseException:
            remove(made)
            raise
        self._make_later(manifest, owner)

    def clear(self) -> int:
        """Remove every spare; how many bytes that were."""
        with self._changed:
            spares, self._spares = self._spares, []
        for spare in spares:
            remove(spare.path)
        return sum(spare.manifest.total for spare in spares)

    # -- inside -------------------------------------------------------------------------------------------------

    def _new(self) -> str:
        return os.path.join(self.path, "new-" + os.urandom(8).hex())

    def _make(self, manifest: Manifest, owner: tuple[int, int], path: str) -> None:
        reader = self._reader()
        try:
            unfold(manifest, path, owner, reader)
        except BaseException:
            remove(path)
            raise
        finally:
            reader.close()

    def _change(self, spare: _Spare, manifest: Manifest, path: str) -> None:
        """Make the folder of a spare that of `manifest`; where that goes wrong it is gone."""
        if spare.manifest.sha256 == manifest.sha256:
            return
        reader = self._reader()
        try:
            change(spare.manifest, manifest, path, spare.owner, reader)
        except Exception as error:
            sys.stderr.write("a folder made ahead: {!r}\n".format(error))
            remove(path)
        finally:
            reader.close()

    def _nearest(self, manifest: Manifest, owner: tuple[int, int]) -> _Spare | None:
        """Take out the spare from which least is to be done, if that is less than to make a new one."""
        with self._changed:
            best, least = None, len(manifest.entries) // 2 + 1
            for spare in self._spares:
                if spare.owner == owner:
                    steps = _difference(spare.manifest, manifest)
                    if steps < least:
                        best, least = spare, steps
            if best is not None:
                self._spares.remove(best)
            return best

    def _make_later(self, manifest: Manifest, owner: tuple[int, int]) -> None:
        if manifest.total > _LARGEST:
            return
        with self._changed:
            self._wanted = (manifest, owner)
            if self._worker is None:
                self._worker = threading.Thread(target=self._work, name="trees", daemon=True)
                self._worker.start()
            self._changed.notify_all()

    def _work(self) -> None:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)  # of this thread alone, on Linux
        while True:
            with self._changed:
                while self._wanted is None:
                    self._changed.wait()
                wanted = None
                while wanted != self._wanted:  # until no other job comes for a moment
                    wanted = self._wanted
                    self._changed.wait(_PAUSE_S)
                self._wanted = None
            if wanted is not None:
                try:
                    self._make_spare(*wanted)
                except Exception as error:  # no room, code that is gone: a spare is only for speed
                    sys.stderr.write("a folder made ahead: {!r}\n".format(error))

    def _make_spare(self, manifest: Manifest, owner: tuple[int, int]) -> None:
        with self._changed:
            same = [each for each in self._spares if (each.manifest.sha256, each.owner) == (manifest.sha256, owner)]
            old = [] if same else self._spares[: max(0, len(self._spares) - _SPARES + 1)]
            self._spares = [each for each in self._spares if each not in old]
        for each in old:
            remove(each.path)
        if same or not self._has_room(manifest.total):
            return
        making = self._new()
        self._make(manifest, owner, making)
        spare = _Spare(making.replace("new-", "spare-"), manifest, owner)
        os.rename(making, spare.path)
        with self._changed:
            self._spares.append(spare)


def _difference(old: Manifest, new: Manifest) -> int:
    """How many entries one has that the other has not."""
    if old.sha256 == new.sha256:
        return 0
    before, after = (set(map(_key, manifest.entries)) for manifest in (old, new))
    return len(before ^ after)


def _key(entry: Entry) -> tuple[object, ...]:
    return tuple(entry)
