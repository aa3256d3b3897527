"""What tests of shells and copies share: a stream's output, by where it went, and its exit code; files, both ways."""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pool.inside.files import _Reader
from pool.runner import tree
from pool.runner.streams import OwnStream, Stream, StreamError
from tests.runner_host import Bridge


class Said:
    """All that comes of a program until it has ended; read in the background, so that nothing waits for it."""

    def __init__(self, stream: Stream | OwnStream) -> None:
        self.stream = stream
        self.out: dict[int, bytes] = {1: b"", 2: b""}
        self._code: int | None = None
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def until(self, text: bytes, fd: int = 1) -> None:
        """Until it has said this."""
        with self._changed:
            assert self._changed.wait_for(lambda: text in self.out[fd], 30), self.out

    def code(self, timeout_s: float = 30.0) -> int | None:
        """Its exit code; None when the stream ended without one."""
        self._thread.join(timeout_s)
        assert not self._thread.is_alive(), self.out
        self.stream.close()
        return self._code

    def _read(self) -> None:
        with contextlib.suppress(StreamError):
            while (frame := self.stream.read()) is not None:
                with self._changed:
                    if "exit" in frame.head:
                        self._code = int(frame.head["exit"])
                    self.out[frame.head.get("fd", 1)] += frame.body
                    self._changed.notify_all()


def said(stream: Stream | OwnStream, stdin: bytes | None = b"") -> tuple[int | None, bytes, bytes]:
    """Exit code, stdout and stderr of a program that is given this and the end of its input; None: neither."""
    heard = Said(stream)
    if stdin is not None:
        stream.write(stdin)
        stream.end()
    code = heard.code()
    return code, heard.out[1], heard.out[2]


def fetched(bridge: Bridge, job: str, path: str, target: str) -> None:
    """Copy out of a job's folder, to the path `target` here."""
    stream = bridge.open("copy_out", job=job, path=path)
    reader = _Reader(stream, lambda _: None)  # type: ignore[arg-type]
    tree.unpack(reader.read, target)
    reader.rest()
    stream.close()


def sent(bridge: Bridge, job: str, source: str, path: str) -> None:
    """Copy into a job's folder."""
    stream = bridge.open("copy_in", job=job, path=path, name=os.path.basename(source), folder=os.path.isdir(source))
    tree.pack(source, stream.write)
    stream.end()
    answer = stream.read()
    assert answer and answer.head == {"done": True}
    stream.close()


@contextlib.contextmanager
def deep(path: Path, depth: int = 1200) -> Iterator[None]:
    """A new folder with so many in each other, and a file in the last; what removes folders seldom gets so far."""
    here = os.getcwd()
    path.mkdir()
    os.chdir(path)
    try:
        for _ in range(depth):
            os.mkdir("d")
            os.chdir("d")
        Path("file").write_bytes(b"deep")
        os.chdir(here)
        yield
    finally:
        os.chdir(here)
        subprocess.run(["rm", "-rf", path], check=True)


def used(shell: Said) -> None:
    """A shell on a terminal of 33 rows and 111 columns: that size, a new one, Ctrl-C, and its exit code, which is 5."""
    shell.stream.write(b"stty size; tty; echo $TERM\r")
    for text in (b"33 111", b"/dev/pts/", b"xterm-256color"):
        shell.until(text)
    shell.stream.write(head={"size": [44, 99]})
    shell.stream.write(b"stty size\r")
    shell.until(b"44 99")
    shell.stream.write(b"sh -c 'echo asl\"\"eep; exec sleep 1000'\r")
    shell.until(b"asleep")
    shell.stream.write(b"\x03")
    shell.stream.write(b"echo code $?\r")
    shell.until(b"code 130")
    shell.stream.write(b"exit 5\r")
    assert shell.code() == 5


def size(rows: int, columns: int) -> dict[str, Any]:
    """A terminal."""
    return {"rows": rows, "cols": columns, "term": "xterm-256color"}
