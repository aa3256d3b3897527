"""Shows a run as it goes: every rank's output, what changes, and its end. `pool logs`, and attached.py, are this.

A reader keeps its offsets, so when the server is restarted under it, it goes on at the very byte.
"""

from __future__ import annotations

import contextlib
import sys
import time

from pool.cli import render
from pool.cli.progress import Progress
from pool.cli.terminal import Dress, Prefixer, Sanitiser
from pool.client import Client, died
from pool.errors import ServerError, parted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import AbstractContextManager
    from typing import Any

    #: `write(data, noted)`: write it all, and say to `noted` how many bytes were, each time that some were.
    Write = Callable[[bytes, Callable[[int], object]], object]

#: After this long without a server a reader gives up, and before that says that it waits.
_RECONNECT_S = 60.0
_PATIENCE_S = 2.0
_HOSTS_NAMED = 8
DEV_ENVIRONMENT = "dev-environment"
#: Why a job is not yet further is said beside how long it takes; on a terminal, in place.
_WAITING = {"submitted": "waits for free hosts", "placed": "", "starting": ""}


def _write_all(data: bytes, noted: Callable[[int], object]) -> None:
    render.write_bytes(data)
    noted(len(data))


class Follower:
    """Follows one run to its end from `places`, rank -> `attempt:offset`. No signal comes in `whole()`."""

    def __init__(
        self,
        run: dict[str, Any],
        *,
        ranks: list[int] | None = None,
        live: bool = True,
        quiet: bool = False,
        places: Mapping[int, str] | None = None,
        write: Write = _write_all,
        whole: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext,
        on_shown: Callable[[], object] = lambda: None,
    ) -> None:
        self.run = run
        self.incomplete = False  #: something of the log of now could not be had
        self.shown = dict(places or {})  #: rank -> `attempt:offset` of the next byte that was not shown
        self._ranks = ranks or [job["rank"] for job in run["jobs"]]
        self._live, self._quiet = live, quiet
        self._places = {rank: place for rank, place in self.shown.items() if rank in self._ranks}  # of the next to ask
        self._write, self._whole, self._on_shown = write, whole, on_shown
        self._rest: _Piece | None = None  #: what was being written when something came in between
        width, many, tty = len(str(max(self._ranks))), len(self._ranks) > 1, sys.stdout.isatty()
        self._dresses = {
            rank: Dress(Prefixer(rank, width) if many else None, Sanitiser() if tty else None) for rank in self._ranks
        }
        self._waits = False
        self._progress = Progress(quiet=quiet or not live)
        self._told: dict[int, tuple[Any, ...]] = {}

    def follow(self) -> dict[str, Any]:
        """Until the run's end (or, not `live`, the log's end of now); the run as it is then."""
        try:
            return self._follow()
        finally:
            self._progress.hide()

    def _follow(self) -> dict[str, Any]:
        lost_at = None
        if self._rest:
            self._put(self._rest)
        while True:
            try:
                for head, body in Client(start=lost_at is None or died()).events("follow", **self._asked()):
                    lost_at = None
                    if "end" in head:
                        self.run = head["end"]
                        self._finish()
                        return self.run
                    self._take(head, body)
            except ServerError as error:
                if lost_at is None and not error.details.get("cut_off"):
                    raise
                lost_at = lost_at or time.monotonic()
                self._wait_for_server(time.monotonic() - lost_at)

    def _wait_for_server(self, gone_s: float) -> None:
        """One that died is started again by the next attempt; one that was stopped comes back when a person says so."""
        if gone_s > _RECONNECT_S:
            name = self.run["name"]
            raise ServerError(f"the server is gone; {name} goes on without it", hint=f"pool attach {name}")
        if gone_s > _PATIENCE_S and not self._waits:
            self._waits = True
            render.note("pool: the server was stopped; waiting for it\ntry: pool server start")
        time.sleep(0.1)

    def _asked(self) -> dict[str, Any]:
        places = {str(rank): place for rank, place in self._places.items()}
        return {"run": self.run["id"], "ranks": self._ranks, "places": places, "live": self._live}

    def _take(self, head: dict[str, Any], body: bytes) -> None:
        if "run" in head:
            self.run = head["run"]
            self._tell()
        elif "notice" in head:
            self.incomplete = not self._live
            self._progress.hide()
            render.note(f"pool: rank {head['rank']}: {head['notice']}")
        else:
            with self._whole():
                rank, attempt, end = head["rank"], head["attempt"], head["offset"] + len(body)
                dress = self._dresses[rank]
                data = dress.feed(body)
                self._places[rank] = f"{attempt}:{end}"
                self._put(_Piece(rank, attempt, data, end - len(data) if dress.plain else None, end - dress.held))
            if self._live:
                self._tell()

    def _put(self, piece: _Piece) -> None:
        """Write it, or the rest of it; what was shown is known at every moment."""
        self._rest = piece

        def noted(number: int) -> None:
            piece.written += number
            offset = piece.offset()
            if offset is not None:
                self.shown[piece.rank] = f"{piece.attempt}:{offset}"

        if piece.data:
            self._progress.hide()
            self._write(piece.data[piece.written :], noted)
        else:
            noted(0)
        self._rest = None
        self._on_shown()

    def _finish(self) -> None:
        for dress in self._dresses.values():
            render.write_bytes(dress.finish())
        if self._live:
            self._tell(last=True)

    def _tell(self, *, last: bool = False) -> None:
        """Say what changed since the last time; of a rank that has ended, once all its output was shown."""
        if self._quiet:
            return
        changed: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
        for job in self.run["jobs"]:
            state = (job["shown"], job["reason"] if self._is_told(job) else None)
            if self._told.get(job["rank"]) != state and (last or self._is_shown(job)):
                self._told[job["rank"]] = state
                changed.setdefault((job["shown"], job["exit_code"], job["reason"]), []).append(job)
        for jobs in changed.values():
            self._progress.hide()
            render.note(_told(self.run, jobs))
            if self.run["type"] == DEV_ENVIRONMENT and jobs[0]["shown"] == "running":
                from pool.cli import way_in

                way_in.tell(self.run)
        self._show_wait()

    def _is_told(self, job: dict[str, Any]) -> bool:
        """True where a reason of its own makes a line: of what waits, each new one only where there is no terminal."""
        if job["shown"] in ("running", "done"):
            return False
        return not (self._progress.terminal and job["shown"] in _WAITING)

    def _show_wait(self) -> None:
        """What the run waits for, and how long, on a terminal."""
        waiting = [job for job in self.run["jobs"] if job["shown"] in _WAITING]
        if waiting and self._progress.terminal:
            why = parted(waiting[0]["reason"] or "")[0] or _WAITING[waiting[0]["shown"]]
            self._progress.tell(f"{self.run['name']} {waiting[0]['shown']}", said=why)
        else:
            self._progress.hide()

    def _is_shown(self, job: dict[str, Any]) -> bool:
        if not job["log_bytes"] or job["rank"] not in self._ranks:
            return True
        attempt, _, offset = self._places.get(job["rank"], "0:0").partition(":")
        return bool(int(attempt) == job["attempt"] and int(offset) >= job["log_bytes"])


class _Piece:
    """Some output on its way to stdout. Bytes that are shown as they are count one by one, others only together."""

    def __init__(self, rank: int, attempt: int, data: bytes, begin: int | None, end: int) -> None:
        self.rank, self.attempt, self.data = rank, attempt, data
        self.written = 0
        self._begin, self._end = begin, end

    def offset(self) -> int | None:
        """In the log, of the first byte that was not shown; None where that cannot be said."""
        if self.written == len(self.data):
            return self._end
        return None if self._begin is None else self._begin + self.written


def _told(run: dict[str, Any], jobs: list[dict[str, Any]]) -> str:
    """One line for all ranks of which the same is to be said."""
    text = f"pool: {run['name']}"
    if run["nodes"] > 1:
        text += f" rank{'s' if len(jobs) > 1 else ''} {_ranges([job['rank'] for job in jobs])}"
    text += f" {jobs[0]['shown']}"
    hosts = list(dict.fromkeys(job["host"] for job in jobs if job["host"]))
    if hosts:
        text += f" on {', '.join(hosts) if len(hosts) <= _HOSTS_NAMED else f'{len(hosts)} hosts'}"
    if jobs[0]["exit_code"]:
        text += f", exit code {jobs[0]['exit_code']}"
    if jobs[0]["reason"]:
        text += f": {parted(jobs[0]['reason'])[0]}"
    return text


def _ranges(ranks: list[int]) -> str:
    """`0-3, 7`, of ranks in order."""
    runs: list[list[int]] = []
    for rank in ranks:
        if runs and rank == runs[-1][-1] + 1:
            runs[-1].append(rank)
        else:
            runs.append([rank])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
