"""Programs inside of running jobs, from this end: what `pool ssh RUN` and its like are made of, and part of the SDK.

with Shell("brave-otter-1", 0, ["nvidia-smi", "-L"]) as shell:
    for fd, data in shell.output(): …
shell.code
"""

from __future__ import annotations

import time

from pool.client import Client
from pool.errors import HostError, PoolError, ServerError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from pool.runner.streams import OwnStream

_AGAIN_S = 0.5


def opened(
    verb: str, run: str, rank: int, *, waits: Callable[[str], object], **head: Any
) -> tuple[dict[str, Any], OwnStream]:
    """As `Client.open`, once the job runs; `waits` is told why not yet, whenever that changes. PoolError."""
    told = None
    while True:
        try:
            return Client().open(verb, run=run, rank=rank, **head)
        except PoolError as error:  # the server may think that it runs a moment before its host does
            if error.details.get("cause") != "waits":
                raise
            if error.message != told:
                told = error.message
                waits(told)
        time.sleep(_AGAIN_S)


class Shell:
    """The job's shell, or a command in it. One thread may read, another one write; `close` it in the end."""

    def __init__(
        self,
        run: str,
        rank: int = 0,
        command: list[str] | None = None,
        tty: dict[str, Any] | None = None,
        waits: Callable[[str], object] = lambda _: None,
    ) -> None:
        """One word is a line for the shell, several are quoted for it. `tty`: `{"rows", "cols", "term"}`. PoolError."""
        self.code: int | None = None  #: its exit code, once it has ended
        self._run = run
        self._stream = opened("shell", run, rank, waits=waits, argv=command or None, tty=tty)[1]

    def __enter__(self) -> Shell:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def output(self) -> Iterator[tuple[int, bytes]]:
        """`(1 or 2, bytes)` as they come, until it has ended. ServerError, HostError when it is cut off."""
        from pool.runner.streams import CutOffError, StreamError

        try:
            while frame := self._stream.read():
                if "exit" in frame.head:
                    self.code = int(frame.head["exit"])
                    return
                yield (2 if frame.head.get("fd") == 2 else 1), frame.body
        except CutOffError:
            pass
        except StreamError as error:
            raise HostError(f"the shell was cut off: {error}", hint=f"pool attach {self._run}") from None
        raise ServerError("the connection to the server was cut off", hint=f"pool attach {self._run}")

    def write(self, data: bytes = b"", **head: Any) -> bool:
        """Send it input, `size=[rows, columns]` or `signal="INT"`; False when nobody takes it any more."""
        from pool.runner.streams import StreamError

        try:
            self._stream.write(data, head)
        except StreamError:
            return False
        return True

    def end(self) -> None:
        """Its input is through; a signal may still be sent."""
        self.write(eof=True)

    def close(self) -> None:
        """Be done with it; if it has not ended, the host ends it."""
        self._stream.close("" if self.code is not None else "whoever started it has gone")
