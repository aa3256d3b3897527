"""How a server has files copied out of a job's folder, or into it; see service.py, and transfer.py for who does it."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import threading
import time
from typing import IO, Any, Callable

from pool.runner.jobs import PREPARED, JobFolder
from pool.runner.ledger import RefusedError
from pool.runner.peer import Owners, Peer
from pool.runner.streams import Stream, StreamError

_CHUNK = 1 << 18
#: How long it may take to end by itself, once nobody reads it or writes to it.
_CLEARS_S = 10.0
#: How long it may take until it has begun, which a request waits for; and until it has gone on a bit, or has ended.
_BEGINS_S, _STALLS_S = 20.0, 300.0
#: More than it ever has to say at a time.
_LINE_MAX = 1 << 20
_HANGS = "the copy hangs: the host's files do not answer"


class CopyVerbs:
    """One method a verb. A job that has ended has its folder still; no copy counts as one of its processes."""

    def __init__(self, state: str, owners: Owners) -> None:
        self._state, self._owners = state, owners

    def open_copy_out(self, peer: Peer, head: dict[str, Any]) -> tuple[dict[str, Any], Callable[[Stream], None]]:
        """The tar of what is at `path`, relative to the job's folder: `{"folder", "bytes"}`; see tree.measure.

        The last frame has the head `{"skipped": [path, …], "changed": [path, …], "more"}`; see tree.Left.
        """
        copy = _Copy(self._state, self._folder(peer, head), ["out", str(head["path"])])
        return copy.first, copy.send

    def open_copy_in(self, peer: Peer, head: dict[str, Any]) -> tuple[dict[str, Any], Callable[[Stream], None]]:
        """Take a tar of what is called `name`, to `path`, as cp does: `{"place"}`, where it goes.

        A frame with the head `{"done": true}` tells when all is there.
        """
        words = ["in", str(head["path"]), str(head["name"]), "folder" if head["folder"] else "file"]
        copy = _Copy(self._state, self._folder(peer, head), words)
        return copy.first, copy.take

    def _folder(self, peer: Peer, head: dict[str, Any]) -> JobFolder:
        folder = self._owners.own(peer, head["job"])
        if folder.status()["state"] == PREPARED:
            raise RefusedError("waits", "job {} has not started".format(folder.job))
        return folder


class _Copy:
    """One program that copies."""

    def __init__(self, state: str, folder: JobFolder, words: list[str]) -> None:
        reading, telling = os.pipe()
        argv = [sys.executable, "-I", "-S", sys.argv[0], "--state", state]
        pipe = subprocess.PIPE
        try:
            self._process = subprocess.Popen(
                [*argv, "transfer", folder.job, str(telling), *words],
                stdin=pipe,
                stdout=pipe,
                stderr=subprocess.DEVNULL,
                pass_fds=[telling],
                cwd="/",
                start_new_session=True,
            )
        except BaseException:
            os.close(reading)
            raise
        finally:
            os.close(telling)
        self._told, self._said = reading, bytearray()
        self.first = self._next(_BEGINS_S)
        if "error" in self.first:
            self._end()
            raise RefusedError("cannot_copy", str(self.first["error"]))

    def send(self, stream: Stream) -> None:
        """Its tar, to the stream."""
        output = self._pipe(self._process.stdout)
        watching = threading.Thread(target=self._watch, args=(stream,), daemon=True)
        watching.start()
        try:
            while True:
                if not _ready(output.fileno(), select.POLLIN, _STALLS_S):
                    stream.close(_HANGS)
                    return
                chunk = os.read(output.fileno(), _CHUNK)
                if not chunk:
                    break
                stream.write(chunk)
            last = self._next()
            if "error" in last:
                stream.close(str(last["error"]))
                return
            stream.write(head=last)
            stream.end()
        finally:
            self._end()
            stream.close()
            watching.join()

    def take(self, stream: Stream) -> None:
        """The stream's tar; what comes after its end or an error of ours is passed over."""
        source = self._pipe(self._process.stdin)
        try:
            while True:
                frame = stream.read()
                if frame is None:
                    break
                try:
                    self._give(source.fileno(), frame.body)
                except TimeoutError as error:
                    stream.close(str(error))
                    return
                except OSError:  # it has said why
                    break
            with contextlib.suppress(OSError):
                source.close()
            last = self._next()
            if "error" in last:
                stream.close(str(last["error"]))
                return
            stream.write(head={"done": True})
            stream.end()
            while stream.read() is not None:
                pass
        finally:
            self._end()

    def _watch(self, stream: Stream) -> None:
        """End it as soon as nobody reads any more."""
        try:
            while stream.read() is not None:
                pass
        except StreamError:
            self._process.kill()

    def _give(self, fd: int, data: bytes) -> None:
        """All of it, to its input. OSError where it takes no more, and TimeoutError."""
        left = memoryview(data)
        os.set_blocking(fd, False)
        while left:
            if not _ready(fd, select.POLLOUT, _STALLS_S):
                raise TimeoutError(_HANGS)
            left = left[os.write(fd, left) :]

    def _next(self, limit_s: float = _STALLS_S) -> dict[str, Any]:
        """What it says next, or its error; also when it says nothing."""
        until = time.monotonic() + limit_s
        while b"\n" not in self._said and len(self._said) < _LINE_MAX:
            if not _ready(self._told, select.POLLIN, until - time.monotonic()):
                self._process.kill()
                return {"error": _HANGS}
            chunk = os.read(self._told, _CHUNK)
            if not chunk:
                return {"error": "the copy was ended"}
            self._said += chunk
        line, _, rest = bytes(self._said).partition(b"\n")
        self._said[:] = rest
        try:
            found: dict[str, Any] = json.loads(line)
        except ValueError:
            return {"error": "the copy was ended"}
        return found

    def _end(self) -> None:
        for file in (self._process.stdin, self._process.stdout):
            if file is not None:
                with contextlib.suppress(OSError):
                    file.close()
        with contextlib.suppress(subprocess.TimeoutExpired):  # it clears away what is not whole
            self._process.wait(_CLEARS_S)
        self._process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):  # one that the kernel holds is waited for by subprocess
            self._process.wait(_CLEARS_S)
        os.close(self._told)

    @staticmethod
    def _pipe(file: IO[bytes] | None) -> IO[bytes]:
        assert file is not None
        return file


def _ready(fd: int, event: int, limit_s: float) -> bool:
    """False when it is not by then; poll, because a daemon has many files."""
    poll = select.poll()
    poll.register(fd, event)
    return bool(poll.poll(max(0.0, limit_s) * 1000))
