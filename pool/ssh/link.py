"""The link to a host: one SSH session that runs `pool-runner bridge`, with many requests under way over it.

One channel per host suffices (MaxSessions 1) and nothing is forwarded. Either side gives up on silence by its own
pings: SSH keepalives do not notice a dead network in time. A link never heals; its keeper opens the next one.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from typing import TYPE_CHECKING, Any, Final

from pool.errors import DiskFullError, FencedError, RunnerError, UnreachableError
from pool.runner import frames
from pool.runner.frames import Decoder, Frame, FrameError
from pool.runner.streams import Stream, Streams
from pool.runner.version import PROTOCOL_MAX, PROTOCOL_MIN
from pool.ssh.connection import connect, start

if TYPE_CHECKING:
    from collections.abc import Callable

    import paramiko

    from pool.ssh.destination import Target

#: A user's own runner comes first: a lab host may share a machine that has one for all.
_BRIDGE: Final = (
    "sh",
    "-c",
    '[ -x "$HOME/.local/bin/pool-runner" ] && exec "$HOME/.local/bin/pool-runner" bridge; '
    "exec /usr/local/bin/pool-runner bridge",
)
_START_S: Final = 20.0
#: Nothing heard for this long, three pings unanswered: the host is unreachable.
_SILENCE_S: Final = 3 * frames.PING_EVERY_S
_CHUNK: Final = 1 << 20


class Link:
    """An open link. `on_event(head)` is called from its reading thread, `on_down()` once when it is lost."""

    def __init__(
        self,
        target: Target,
        known_hosts: str,
        *,
        pool_id: str,
        epoch: int,
        on_event: Callable[[dict[str, Any]], None],
        on_down: Callable[[], None],
    ) -> None:
        """Connect and say hello; HostError in any of its kinds, FencedError when a newer server has the host."""
        self.target = target
        self._on_event, self._on_down = on_event, on_down
        self._connection = connect(target, known_hosts)
        self._channel = self._open_channel()
        self._sending, self._losing = threading.Lock(), threading.Lock()
        self._waiting: dict[int, queue.SimpleQueue[Frame | None]] = {}
        self._numbers = iter(range(1, 1 << 31))
        self._streams = Streams(self._send_if_up)
        self._down = threading.Event()
        self._heard = self._sent = time.monotonic()
        threading.Thread(target=self._read, name=f"link {target.name}", daemon=True).start()
        threading.Thread(target=self._ping, name=f"ping {target.name}", daemon=True).start()
        try:
            self.hello = self.request("hello", protocol=[PROTOCOL_MIN, PROTOCOL_MAX], pool=pool_id, epoch=epoch)[0]
        except BaseException:
            self.close()
            raise

    @property
    def up(self) -> bool:
        """False once the link is lost or closed."""
        return not self._down.is_set()

    def request(
        self, verb: str, body: bytes = b"", *, timeout: float = 30.0, **head: Any
    ) -> tuple[dict[str, Any], bytes]:
        """Ask the runner and wait for its answer: `(head, body)`.

        RunnerError when it refuses (`details["cause"]` says why); UnreachableError when the link is lost or it does not
        answer in time: then it is not known whether it was done, and only asking again tells.
        """
        return self.ask(verb, body, **head)(timeout)

    def ask(self, verb: str, body: bytes = b"", **head: Any) -> Callable[[float], tuple[dict[str, Any], bytes]]:
        """Ask without waiting; what is returned waits so many seconds for the answer, and is to be called once."""
        number = next(self._numbers)
        self._say(Frame(frames.REQUEST, number, {"verb": verb, **head}, body))
        return lambda timeout: self._answer(number, verb, timeout)

    def open(self, verb: str, *, timeout: float = 30.0, **head: Any) -> tuple[dict[str, Any], Stream]:
        """Open a stream: the head of the answer, and the stream, to be closed in the end. Errors as of `request`."""
        number = next(self._numbers)
        stream = self._streams.add(number)
        try:
            self._say(Frame(frames.OPEN, number, {"verb": verb, **head}))
            return self._answer(number, verb, timeout)[0], stream
        except BaseException:
            stream.close("nobody waits for it any more")
            raise

    def _say(self, frame: Frame) -> None:
        """Send what an answer will come to."""
        self._waiting[frame.stream] = queue.SimpleQueue()
        try:
            if self._down.is_set():
                raise self._lost()
            self._send(frame)
        except BaseException:
            del self._waiting[frame.stream]
            raise

    def _answer(self, number: int, verb: str, timeout: float) -> tuple[dict[str, Any], bytes]:
        try:
            answer = self._waiting[number].get(timeout=timeout)
        except queue.Empty:
            raise UnreachableError(f"{self.target.name} did not answer {verb!r} within {timeout:.0f} s") from None
        finally:
            del self._waiting[number]
        if answer is None:
            raise self._lost()
        if answer.kind == frames.ERROR:
            raise _refusal(self.target.name, answer.head)
        return answer.head, answer.body

    def close(self) -> None:
        """End the session; waiting requests fail."""
        self._lose()
        self._connection.close()

    def _open_channel(self) -> paramiko.Channel:
        channel = start(self._connection, _BRIDGE, timeout=_START_S)
        channel.settimeout(frames.PING_EVERY_S)
        return channel

    def _send(self, frame: Frame) -> None:
        data = frames.encode(frame)
        with self._sending:
            try:
                self._channel.sendall(data)
            except (OSError, EOFError):
                self._lose()
                raise self._lost() from None
            self._sent = time.monotonic()

    def _send_if_up(self, frame: Frame) -> None:
        with contextlib.suppress(UnreachableError):
            self._send(frame)

    def _read(self) -> None:
        """Only reads: were it to send as well, a host that is sending too would wait for us and we for it."""
        decoder = Decoder()
        try:
            while not self._down.is_set():
                try:
                    chunk = self._channel.recv(_CHUNK)
                except TimeoutError:
                    continue
                if chunk == b"":
                    break
                self._heard = float("inf")  # the host is not silent while we are busy with what it said
                for frame in decoder.feed(chunk):
                    self._take(frame)
                self._heard = time.monotonic()
        except (OSError, EOFError, FrameError):
            pass
        finally:
            self.close()

    def _ping(self) -> None:
        """Keep the other side sure of us, and give up when we are no longer sure of it."""
        while not self._down.wait(frames.PING_EVERY_S):
            if time.monotonic() - self._heard >= _SILENCE_S:
                self.close()
            elif time.monotonic() - self._sent >= frames.PING_EVERY_S - 1:
                with contextlib.suppress(UnreachableError):
                    self._send(Frame(frames.PING, 0, {}))

    def _take(self, frame: Frame) -> None:
        if frame.kind == frames.EVENT:
            self._on_event(frame.head)
        elif frame.kind in (frames.REPLY, frames.ERROR):
            waiting = self._waiting.get(frame.stream)
            if waiting is not None:
                waiting.put(frame)
        else:
            self._streams.take(frame)

    def _lose(self) -> None:
        """Mark the link lost, once: wake every waiting request and tell the keeper."""
        with self._losing:
            if self._down.is_set():
                return
            self._down.set()
        for waiting in list(self._waiting.values()):
            waiting.put(None)
        self._streams.lost(f"the link to {self.target.name} is down")
        self._on_down()

    def _lost(self) -> UnreachableError:
        said = b""
        if self._channel.recv_stderr_ready():
            said = self._channel.recv_stderr(4096)
        text = said.decode(errors="replace").strip().splitlines()
        cause = f": {text[-1][:200]}" if text else ""
        return UnreachableError(f"the link to {self.target.name} is down{cause}", hint="pool ps")


def _refusal(host: str, head: dict[str, Any]) -> Exception:
    cause, message = str(head.get("cause")), str(head.get("message"))
    if cause == "stale":
        return FencedError(message)
    kind = DiskFullError if cause == "disk_full" else RunnerError
    return kind(f"{host}: {message}", cause=cause, host=host, **(head.get("details") or {}))
