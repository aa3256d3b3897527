"""Whether this host takes new jobs: who has drained it, why and since when. On disk before an answer goes out.

Each who drains it has a drain of their own, so that a playbook that ends takes back what it did and nobody else's. The
host takes jobs again once none is left. A file that cannot be read drains it too: rather no job than one too many.
Jobs that run are not touched.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from typing import Any, Callable, Iterator

from pool.runner import durable
from pool.runner.ledger import RefusedError

FILE = "drain.json"
_BY_MAX, _REASON_MAX = 64, 300


class Drain:
    """The drains of one state folder. Safe to use from several threads; one process at a time (the daemon's lock)."""

    def __init__(self, state: str, changed: Callable[[dict[str, Any]], None] = lambda _: None) -> None:
        """`changed(told)` is called, and must not block, whenever a drain came or went."""
        self._path = os.path.join(state, FILE)
        self._changed = changed
        self._lock = threading.Lock()
        self._number, self._drains = _read(self._path)

    @property
    def told(self) -> dict[str, Any]:
        """What servers are told: `{"number", "by": [{"by", "reason", "at"}]}`; a higher number is a later word."""
        with self._lock:
            return self._told()

    @contextlib.contextmanager
    def none(self) -> Iterator[None]:
        """What is done inside is done while nobody drains the host; RefusedError("draining") when somebody does."""
        with self._lock:
            if self._drains:
                raise RefusedError("draining", "the host takes no new jobs: {}".format(sentence(self._told())))
            yield

    def begin(self, by: str, reason: str) -> bool:
        """Drain the host; True when this changed something. The same `by` again only changes its reason."""
        by, reason = _line(by, _BY_MAX), _line(reason, _REASON_MAX)
        if not by:
            raise RefusedError("bad_request", "a drain needs a name: who drains the host")
        with self._lock:
            known = self._drains.get(by)
            if known and (known["reason"] == reason or not reason):
                return False
            at = known["at"] if known else time.time()
            self._save({**self._drains, by: {"reason": reason or "drained", "at": at}})
        return True

    def end(self, by: str | None = None) -> bool:
        """Take back the drain of `by`, or every one; True when there was one. The host may still be drained."""
        with self._lock:
            left = {} if by is None else dict(self._drains)
            left.pop(_line(by, _BY_MAX), None)
            if left == self._drains:
                return False
            self._save(left)
        return True

    def _told(self) -> dict[str, Any]:
        drains = sorted(self._drains.items(), key=lambda item: item[1]["at"])
        return {"number": self._number, "by": [{"by": by, **drain} for by, drain in drains]}

    def _save(self, drains: dict[str, dict[str, Any]]) -> None:
        durable.write_json(self._path, {"number": self._number + 1, "drains": drains}, 0o644)
        self._number, self._drains = self._number + 1, drains
        self._changed(self._told())


def sentence(told: dict[str, Any]) -> str:
    """Why the host takes no jobs, for people: `new fans (alice)`; empty when it takes some."""
    return "; ".join("{} ({})".format(drain["reason"], drain["by"]) for drain in told["by"])


def _read(path: str) -> tuple[int, dict[str, dict[str, Any]]]:
    try:
        stored = durable.read_json(path)
    except OSError:
        stored = {}
    if stored is None and not os.path.exists(path):
        return 0, {}
    try:
        drains = {
            str(by): {"reason": str(drain["reason"]), "at": float(drain["at"])}
            for by, drain in (stored or {})["drains"].items()
        }
        return int((stored or {})["number"]), drains
    except (KeyError, TypeError, ValueError, AttributeError):
        reason = "{} cannot be read".format(path)
        return int(time.time()), {"pool-runner": {"reason": reason, "at": time.time()}}


def _line(text: object, longest: int) -> str:
    """`text` as one plain line: it is shown in terminals and lists."""
    return " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())[:longest]
