"""The shells that are open in a runner's jobs, on disk: the next runner hangs up on those of one that was killed.

`jobs/<job id>/shells/PID-START` is there while somebody is connected to that process. It is made by the runner, beside
the shell's start: a shell that a runner killed in that very moment leaves, or one whose process is not of this host (an
engine elsewhere), ends with its job.
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
from typing import Any, Iterator

from pool.runner import durable, processes, shell
from pool.runner.jobs import JobFolder, all_jobs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pool.runner.shell import Program

_NAME = re.compile(r"(\d+)-(\d+)\Z")


@contextlib.contextmanager
def noted(folder: JobFolder, program: Program) -> Iterator[None]:
    """While somebody is connected to it."""
    note = _Note(folder.file("shells"))
    threading.Thread(target=note.write, args=(program,), daemon=True).start()  # an engine may take its time to tell
    try:
        yield
    finally:
        note.remove()


def hang_up_left(state: str) -> None:
    """Hang up, beside, on all that another runner has left; to be called before any shell is opened."""
    boot = durable.boot_identity()
    for folder in all_jobs(state):
        with contextlib.suppress(OSError):
            here = (folder.started or {}).get("boot") == boot
            for name in os.listdir(folder.file("shells")):
                os.unlink(os.path.join(folder.file("shells"), name))
                found = _NAME.match(name)
                if here and found:
                    leader = {"pid": int(found.group(1)), "start": found.group(2)}
                    threading.Thread(target=_hang_up, args=(leader,), daemon=True).start()


def _hang_up(leader: dict[str, Any]) -> None:
    """Unless it has ended by itself: what it has left in the background goes on."""
    if processes.alive(leader):
        shell.hang_up(leader)


class _Note:
    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._path = ""
        self._over = False
        self._changing = threading.Lock()

    def write(self, program: Program) -> None:
        """On a full disk there is none, and a shell all the same."""
        with contextlib.suppress(OSError):
            leader = program.leader()
            if leader is None or leader["start"] is None:
                return
            with self._changing:
                if self._over:
                    return
                with contextlib.suppress(FileExistsError):
                    os.mkdir(self._folder, 0o700)
                path = os.path.join(self._folder, "{pid}-{start}".format(**leader))
                os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
                self._path = path

    def remove(self) -> None:
        with self._changing, contextlib.suppress(OSError):
            self._over = True
            if self._path:
                os.unlink(self._path)
