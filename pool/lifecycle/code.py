"""Folders on their way from the server to hosts: only what a host has not, as one stream, and how far that is."""

from __future__ import annotations

import os
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from pool.errors import DiskFullError, InputError, PoolError, RunError, RunnerError
from pool.runner.code import DEFAULT_GB
from pool.runner.frames import MAX_BODY
from pool.runner.ledger import RefusedError
from pool.runner.manifest import flagged

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pool.host import Host
    from pool.lifecycle.context import Context

#: Pieces that are under way at once.
_AHEAD = 8
_ANSWER_S = 120.0
#: From then on it is said how far it is, so often.
_SAY_AFTER_S, _SAY_EVERY_S = 2.0, 1.0
#: What arrived damaged, or was lost with a runner that was started anew, is sent again so often.
_TRIES = 3
_AGAIN = {"no_upload", "bad_code"}


def limit_bytes() -> int:
    """What folders may take on the server: `POOL_CODE_GB`, else as on hosts."""
    try:
        return int(float(os.environ.get("POOL_CODE_GB") or DEFAULT_GB) * (1 << 30))
    except (ValueError, OverflowError):
        return DEFAULT_GB << 30


def translated(refusal: RefusedError) -> PoolError:
    """What the server's own folders refuse, as an error for who sent one."""
    if refusal.cause == "disk_full":
        return DiskFullError(f"the server: {refusal}", hint="df -h, or keep data on the hosts: .poolignore")
    return InputError(str(refusal), hint="run the command again", cause=refusal.cause)


class Sending:
    """One folder on its way to one host."""

    def __init__(self, ctx: Context, host: Host, sha256: str, say: Callable[[str], None]) -> None:
        """`say(text)` is told how far it is, when it takes long."""
        self._ctx, self._host, self._sha256, self._say = ctx, host, sha256, say
        self._upload = ""
        self._sent = self._size = 0
        self._pieces: Iterator[bytes] = iter(())
        self._tries = 0
        self._began = self._said = time.monotonic()

    def go_on(self, for_s: float) -> bool:
        """Send for so long; True when the host has it all. HostError; RunError when the server has it no more."""
        deadline = time.monotonic() + for_s
        while True:
            try:
                return self._go_on(deadline)
            except RefusedError:
                message = "the folder of this run is no longer on the server"
                raise RunError(message, hint="submit the run again") from None
            except DiskFullError as error:
                hint = f"make room on {self._host.name}, or keep data out of the folder: .poolignore"
                raise DiskFullError(error.message, hint=hint, **error.details) from error
            except RunnerError as error:
                if "unknown verb" in error.message:
                    hint = f"pool provision {self._host.name}   brings its runner up to date"
                    raise type(error)(error.message, hint=hint, **error.details) from error
                self._tries += 1
                if error.details.get("cause") not in _AGAIN or self._tries >= _TRIES:
                    raise
                self._upload = ""

    def _go_on(self, deadline: float) -> bool:
        if not self._upload and self._begin():
            return True
        answers: deque[Callable[[float], object]] = deque()
        while time.monotonic() < deadline:
            piece = next(self._pieces, b"")
            if not piece:
                break
            head: dict[str, Any] = {"upload": self._upload, "offset": self._sent}
            answers.append(self._ctx.keeper.ask(self._host.id, "code_write", piece, **head))
            self._sent += len(piece)
            if len(answers) >= _AHEAD:
                answers.popleft()(_ANSWER_S)
                self._tell()
        while answers:
            answers.popleft()(_ANSWER_S)
        if self._sent < self._size:
            return False
        self._ctx.keeper.request(self._host.id, "code_finish", upload=self._upload, timeout=_ANSWER_S)
        return True

    def _begin(self) -> bool:
        """Send the folder's list; True when the host has all that is in it."""
        manifest = self._ctx.code.manifest(self._sha256)
        if manifest is None:
            raise RefusedError("no_code", "the folder is not here any more")
        head: dict[str, Any] = {}
        body, data = b"", manifest.data
        for offset in range(0, len(data), MAX_BODY):
            head, body = self._ctx.keeper.request(
                self._host.id,
                "code_list",
                data[offset : offset + MAX_BODY],
                sha256=self._sha256,
                offset=offset,
                size=len(data),
                timeout=_ANSWER_S,
            )
        self._upload, self._sent = str(head["upload"]), 0
        if not self._upload:
            return True
        wanted = flagged(manifest.contents, body)
        self._size = sum(size for _, size in wanted)
        self._pieces = _pieces(self._ctx.code.extents(wanted))
        return False

    def _tell(self) -> None:
        now = time.monotonic()
        if now - self._began > _SAY_AFTER_S and now - self._said > _SAY_EVERY_S:
            self._said = now
            self._say(f"sending the folder to {self._host.name}: {self._sent >> 20} of {self._size >> 20} MB")


def _pieces(extents: list[tuple[str, int, int]]) -> Iterator[bytes]:
    """The bytes of these `(file, offset, bytes)`, in pieces of MAX_BODY."""
    piece = bytearray()
    for path, offset, size in extents:
        try:
            file = open(path, "rb", buffering=0)  # noqa: SIM115 - closed below
        except FileNotFoundError:
            raise RefusedError("no_code", "a part of the folder is not here any more") from None
        with file:
            file.seek(offset)
            while size:
                data = file.read(min(MAX_BODY - len(piece), size))
                if not data:
                    raise RefusedError("no_code", "a part of the folder is cut off")
                size -= len(data)
                if len(data) == MAX_BODY:  # most of a folder that is new: not copied once more
                    yield data
                    continue
                piece += data
                if len(piece) == MAX_BODY:
                    yield bytes(piece)
                    piece.clear()
    if piece:
        yield bytes(piece)
