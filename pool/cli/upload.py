"""The folder of a run on its way to the server: what a person is asked and told about it."""

from __future__ import annotations

import sys

from pool.cli import render
from pool.cli.progress import Progress
from pool.errors import InputError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from pool.folder.snapshot import Large, Snapshot

#: A folder that changes while it is sent is read again so often.
_TRIES = 3
#: How many of the files that are left out, or may be secret, are named.
_NAMED = 10


class Wish:
    """How the folder is to be sent, as it was typed, and the task's `files`."""

    def __init__(self, args: argparse.Namespace, files: Sequence[str]) -> None:
        """InputError for a size limit that is none."""
        from pool.folder.snapshot import SIZE_LIMIT

        self._git, self._yes, self._files = args.git, args.yes, files
        self._progress = Progress(quiet=args.quiet)
        self._limit = _size(args.size_limit) if args.size_limit else SIZE_LIMIT
        self._agreed = 0
        self._told = False

    def upload(self, folder: str) -> str:
        """Have the server have the folder as it is now; its hash. InterruptError on a no to the question."""
        tries = 0
        while True:
            tries += 1
            try:
                return self._upload(folder)
            except InputError as error:
                changed = error.details.get("changed") or error.details.get("cause") == "bad_code"
                if not changed or tries == _TRIES:
                    raise
            finally:
                self._progress.hide()

    def _upload(self, folder: str) -> str:
        from pool.folder.send import send
        from pool.folder.snapshot import take

        snapshot = take(
            folder,
            git=self._git,
            files=self._files,
            limit=self._limit,
            on_large=self._ask,
            progress=lambda done, total: self._progress.tell("reading the folder", done, total),
        )
        self._progress.hide()
        if not self._told:
            self._tell(snapshot)
        send(snapshot, lambda done, total: self._progress.tell("sending the folder", done, total))
        return snapshot.manifest.sha256

    def _ask(self, large: Large) -> None:
        """Go on only with a yes that somebody typed."""
        from pool.folder.walk import show

        if large.size <= self._agreed:
            return
        for name, size in large.largest:
            render.note(f"{_shown(size):>8}  {show(name)}")
        files = "1 new file" if large.count == 1 else f"{large.count} new files"
        what = f"{_shown(large.size)} in {files}"
        if self._yes or not (sys.stdin.isatty() and sys.stderr.isatty()):
            raise InputError(
                f"the folder has {what}: more than the limit of {_shown(self._limit)}",
                hint=f"--size-limit {large.size // (1 << 30) + 1}GB, or name what is not code in .poolignore",
            )
        render.confirm(f"Send {what}? (.poolignore leaves out)", yes=False)
        self._agreed = large.size

    def _tell(self, snapshot: Snapshot) -> None:
        from pool.folder.walk import show

        self._told = True
        for line in snapshot.notes:
            render.note(f"pool: {line}")
        for line in snapshot.left_out[:_NAMED]:
            render.note(f"pool: left out {line}")
        if len(snapshot.left_out) > _NAMED:
            render.note(f"pool: left out {len(snapshot.left_out) - _NAMED} more")
        if snapshot.secrets:
            more = len(snapshot.secrets) - _NAMED
            names = ", ".join(map(show, snapshot.secrets[:_NAMED])) + (f" and {more} more" if more > 0 else "")
            render.note(f"pool: sent along, though it may hold secrets: {names}; .poolignore keeps files here")


def _size(written: str) -> int:
    from pool.task.size import parse_size

    try:
        return int(parse_size(written) * (1 << 20))
    except ValueError as error:
        raise InputError(f"--size-limit: {written!r} is not a size", hint="--size-limit 5GB") from error


def _shown(size: int) -> str:
    """As sizes are written for `--size-limit`: 1GB are 2**30 bytes."""
    return f"{size / (1 << 30):.1f}GB" if size >= 1 << 30 else f"{size / (1 << 20):.0f}MB"
