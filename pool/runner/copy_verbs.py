"""How a server has files copied out of a job's folder, or into it; see service.py, and transfer.py for who does it."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from typing import IO, Any, Callable

from pool.runner.jobs import PREPARED, JobFolder
from pool.runner.ledger import RefusedError
from pool.runner.peer import Owners, Peer
from pool.runner.streams import Stream, StreamError

_CHUNK = 1 << 18
#: How long it may take to end by itself, once nobody reads it or writes to it.
_CLEARS_S = 10.0


class CopyVerbs:
    """One method a verb. A job that has ended has its folder still; no copy counts as one of its processes."""

    def __init__(self, state: str, owners: Owners) -> None:
        self._state, self._owners = state, owners

    def open_copy_out(self, peer: Peer, head: dict[str, Any]) -> tuple[dict[str, Any], Callable[[Stream], None]]:
        """The tar of what is at `path`, relative to the job's folder: `{"folder", "bytes", "files"}`.

        The last frame has the head `{"skipped": [path, …]}`.
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
        finally:
            os.close(telling)
        self._told = os.fdopen(reading, "rb")
        self.first = self._next()
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
                chunk = os.read(output.fileno(), _CHUNK)
                if not chunk:
                    break
                stream.write(chunk)
            last = self._next()
            if "error" in last:
                stream.close(str(last["error"]))
                return
            stream.write(skipped=last["skipped"])
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
                    source.write(frame.body)
                except OSError:  # it has said why
                    break
            with contextlib.suppress(OSError):
                source.close()
            last = self._next()
            if "error" in last:
                stream.close(str(last["error"]))
                return
            stream.write(done=True)
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

    def _next(self) -> dict[str, Any]:
        line = self._told.readline()
        if not line:
            return {"error": "the copy was ended"}
        found: dict[str, Any] = json.loads(line)
        return found

    def _end(self) -> None:
        for file in (self._process.stdin, self._process.stdout):
            if file is not None:
                with contextlib.suppress(OSError):
                    file.close()
        with contextlib.suppress(subprocess.TimeoutExpired):  # it clears away what is not whole
            self._process.wait(_CLEARS_S)
        self._process.kill()
        self._process.wait()
        self._told.close()

    @staticmethod
    def _pipe(file: IO[bytes] | None) -> IO[bytes]:
        assert file is not None
        return file
