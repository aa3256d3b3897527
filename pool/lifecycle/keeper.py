"""Keeps a link to every host with a runner: a thread a host opens it, reopens it, says when it comes and goes."""

from __future__ import annotations

import logging
import random
import threading
import time
from typing import TYPE_CHECKING, Any

from pool.errors import FencedError, PoolError, UnreachableError

if TYPE_CHECKING:
    from collections.abc import Callable

    from pool.host import Host
    from pool.runner.streams import Stream
    from pool.ssh.link import Link

_log = logging.getLogger(__name__)

#: A link that is up again within this time was not down for anyone: sshd or the runner was restarted.
_BLIP_S = 3.0

#: Waits between attempts double from the first to the second, with full jitter, so that a thousand hosts do not knock
#: at once after a power cut. sshd's PerSourcePenalties counts failures: no faster than this.
_RETRY_S = (0.5, 30.0)
#: How long a request waits for a link that is being opened.
_OPENING_S = 15.0


class Keeper:
    """The links of one server, by host id."""

    def __init__(
        self,
        open_link: Callable[[Host, Callable[[dict[str, Any]], None], Callable[[], None]], Link],
        *,
        on_up: Callable[[Host, Link], None],
        on_down: Callable[[Host, str], None],
        on_event: Callable[[Host, dict[str, Any]], None],
        on_fenced: Callable[[], None],
    ) -> None:
        self._open_link = open_link
        self._on_up, self._on_down, self._on_event, self._on_fenced = on_up, on_down, on_event, on_fenced
        self._kept: dict[str, _Kept] = {}
        self._lock = threading.Lock()

    def keep(self, host: Host) -> None:
        """Keep a link to `host` from now on; a link kept to it before is closed (its address may have changed)."""
        kept = _Kept(host)
        with self._lock:
            old = self._kept.get(host.id)
            self._kept[host.id] = kept
        if old:
            old.drop()
        threading.Thread(target=self._run, args=(kept,), name=f"keeper {host.name}", daemon=True).start()

    def drop(self, host_id: str) -> None:
        """Close the link and keep none."""
        with self._lock:
            kept = self._kept.pop(host_id, None)
        if kept:
            kept.drop()

    def close(self) -> None:
        """Close every link."""
        for host_id in list(self._kept):
            self.drop(host_id)

    def is_up(self, host_id: str) -> bool:
        """True while requests can be sent."""
        kept = self._kept.get(host_id)
        return kept is not None and kept.link is not None and kept.link.up

    def request(
        self, host_id: str, verb: str, body: bytes = b"", *, timeout: float = 30.0, **head: Any
    ) -> tuple[dict[str, Any], bytes]:
        """`Link.request` to that host; waits for a link that is being opened. UnreachableError without one."""
        return self.ask(host_id, verb, body, **head)(timeout)

    def ask(
        self, host_id: str, verb: str, body: bytes = b"", **head: Any
    ) -> Callable[[float], tuple[dict[str, Any], bytes]]:
        """`Link.ask` to that host, likewise."""
        waited = self._link(host_id).ask(verb, body, **head)

        def answer(timeout: float) -> tuple[dict[str, Any], bytes]:
            try:
                return waited(timeout)
            except FencedError:
                self._on_fenced()
                raise

        return answer

    def open(self, host_id: str, verb: str, *, timeout: float = 30.0, **head: Any) -> tuple[dict[str, Any], Stream]:
        """`Link.open` to that host, likewise."""
        try:
            return self._link(host_id).open(verb, timeout=timeout, **head)
        except FencedError:
            self._on_fenced()
            raise

    def _link(self, host_id: str) -> Link:
        kept = self._kept.get(host_id)
        if kept is None:
            raise UnreachableError("the host has no link", hint="pool ps")
        return kept.wait(_OPENING_S)

    def _run(self, kept: _Kept) -> None:
        pause = _RETRY_S[0]
        while not kept.dropped.is_set():
            if self._hold(kept):
                pause = _RETRY_S[0]
            else:
                kept.dropped.wait(random.uniform(0, pause))  # noqa: S311 - jitter, not a secret
                pause = min(pause * 2, _RETRY_S[1])

    def _hold(self, kept: _Kept) -> bool:
        """Open the link, settle with the host, and stay until it is lost; False when it did not come to that."""
        link, settled = None, False
        try:
            link = self._open_link(kept.host, lambda head: self._on_event(kept.host, head), kept.link_went_down)
            kept.opened(link)
            with kept.telling:
                self._on_up(kept.host, link)  # settle with the host first, then let requests through
                kept.settled()
            settled = True
            kept.gone.wait()
            kept.lost(f"the link to {kept.host.name} is down")
        except FencedError:
            kept.dropped.set()
            self._on_fenced()
        except Exception as error:
            if not isinstance(error, PoolError):
                _log.exception("link to %s", kept.host.name)
            kept.failed(error if isinstance(error, PoolError) else UnreachableError(repr(error)))
        if link is not None:
            link.close()
        if settled and not kept.dropped.is_set():
            timer = threading.Timer(_BLIP_S, self._tell_down, (kept,))
            timer.daemon = True
            timer.start()
        elif kept.lost_for() > _BLIP_S:
            self._tell_down(kept)
        return settled

    def _tell_down(self, kept: _Kept) -> None:
        """Say that the host is not reached, unless it is again."""
        with kept.telling:
            if kept.dropped.is_set() or (kept.link is not None and kept.link.up):
                return
            try:
                self._on_down(kept.host, kept.reason)
            except Exception:  # the store's disk is full, say: the link is opened again all the same
                _log.exception("link to %s", kept.host.name)


class _Kept:
    """One host's link: opening, up, or failed with a reason."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.link: Link | None = None
        self.gone = threading.Event()
        self.dropped = threading.Event()
        self.telling = threading.Lock()  #: "up" and "down" are told one after the other
        self.reason = ""
        self._lost_at = float("-inf")
        self._usable = threading.Condition()
        self._ready = False
        self._error: PoolError | None = None

    def opened(self, link: Link) -> None:
        self.gone.clear()
        self.link = link
        if self.dropped.is_set():
            link.close()
        if not link.up:
            self.gone.set()

    def settled(self) -> None:
        with self._usable:
            self._ready, self._error = self.link is not None and self.link.up, None
            self._usable.notify_all()

    def failed(self, error: PoolError) -> None:
        with self._usable:
            self._ready, self._error, self.reason = False, error, error.reason(self.host.name)
            self._usable.notify_all()

    def lost(self, reason: str) -> None:
        self._lost_at, self.reason = time.monotonic(), reason

    def lost_for(self) -> float:
        return time.monotonic() - self._lost_at

    def link_went_down(self) -> None:
        with self._usable:
            self._ready = False
            self._error = None
        self.gone.set()

    def drop(self) -> None:
        self.dropped.set()
        self.gone.set()
        if self.link:
            self.link.close()
        self.failed(UnreachableError(f"the link to {self.host.name} was closed"))

    def wait(self, timeout_s: float) -> Link:
        with self._usable:
            self._usable.wait_for(lambda: self._ready or self._error is not None, timeout_s)
            if self._ready and self.link is not None:
                return self.link
            raise UnreachableError(str(self._error or f"the link to {self.host.name} is not up"), hint="pool ps")
