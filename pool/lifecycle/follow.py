"""Follow: the output of a run as it appears on its hosts, pulled by byte offset, with the run's states in between.

Nothing is kept here: the log on the host is the truth, so a reader that comes back with its offsets misses no byte
and sees none twice.
"""

from __future__ import annotations

import contextlib
import os
import queue
import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pool.errors import NotFoundError, PoolError, RunnerError, UnreachableError
from pool.run import Run
from pool.runner.frames import MAX_BODY
from pool.states import FINISHED, HostStatus, JobStatus

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from pool.lifecycle.context import Context
    from pool.run import Job

#: One reply of the host waits this long for a byte.
_WAIT_S = 20.0
#: Pieces of a long log that are asked for while another is on its way.
_AHEAD = 2
_QUIET_S = 5.0


@dataclass(frozen=True, slots=True)
class Output:
    """Log bytes of one rank from `offset` on; each attempt has a log of its own."""

    rank: int
    attempt: int
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Notice:
    """Something about one rank that a reader should know: its log is gone, its host is silent."""

    rank: int
    text: str


def follow(
    ctx: Context,
    run: Run,
    *,
    ranks: list[int] | None = None,
    places: Mapping[int, tuple[int, int]] | None = None,
    live: bool = True,
) -> Iterator[Output | Notice | Run | None]:
    """Yield output as it comes; the run whenever its state changed; None every few quiet seconds.

    With `live` it ends when the run has and every byte was given, else when every byte of now was given.
    `places[rank]` is `(attempt, offset)` to go on from; the newest attempt's start where not given. NotFoundError for
    a rank the run does not have.
    """
    wanted = ranks if ranks else [job.rank for job in run.jobs]
    unknown = set(wanted) - {job.rank for job in run.jobs}
    if unknown:
        raise NotFoundError(f"{run.name} has no rank {min(unknown)}: it has {len(run.jobs)}", hint="--rank 0")
    news: _News = queue.Queue(maxsize=16)
    gone = threading.Event()
    begin = {job.rank: (job.attempt, 0) for job in run.jobs} | dict(places or {})
    standing = _Standing(ctx, run.id)
    readers = [_Reader(ctx, standing, rank, begin[rank], live, news, gone) for rank in wanted]
    try:
        for reader in readers:
            threading.Thread(target=reader.read, name=f"follow {run.name} {reader.rank}", daemon=True).start()
        if live:
            states = threading.Thread(target=_watch_states, args=(ctx, standing, news, gone), daemon=True)
            states.start()
        yield from _merge(news, set(wanted), live)
    finally:
        gone.set()


def states(ctx: Context, run: Run) -> Iterator[Run | None]:
    """Yield the run whenever its state changed, until it has ended; None every few quiet seconds."""
    while not run.finished:
        seen, current = ctx.bell.count, ctx.store.runs.get(run.id)
        yield current if current != run else None
        run = current
        if not run.finished:
            ctx.bell.wait(seen, _QUIET_S)


def _merge(news: _News, reading: set[int], live: bool) -> Iterator[Output | Notice | Run | None]:
    """Until every reader is through and, with `live`, the run has ended."""
    shown = None
    ended = not live
    while reading or not ended:
        try:
            item = news.get(timeout=_QUIET_S)
        except queue.Empty:
            yield None
            continue
        if isinstance(item, int):
            reading.discard(item)
        elif isinstance(item, Run):
            ended = ended or item.finished
            states = [(job.status, job.unreachable, job.reason) for job in item.jobs]
            if states != shown:
                shown = states
                yield item
        else:
            yield item


class _Standing:
    """The run that is followed, as it stands: read once a change, however many ranks ask at that moment."""

    def __init__(self, ctx: Context, run_id: str) -> None:
        self.run_id = run_id
        self._ctx = ctx
        self._reading = threading.Lock()
        self._run: Run | None = None
        self._count, self._at = -1, 0.0

    def now(self) -> Run:
        """The run; never older than the last ring of the bell, nor than a second."""
        with self._reading:
            count, at = self._ctx.bell.count, time.monotonic()
            if self._run is None or count != self._count or at > self._at + 1.0:
                self._run = self._ctx.store.runs.get(self.run_id)
                self._count, self._at = count, at
            return self._run


def _watch_states(ctx: Context, standing: _Standing, news: _News, gone: threading.Event) -> None:
    """Hand over the run whenever the bell rings, until it has ended."""
    while not gone.is_set():
        seen, current = ctx.bell.count, standing.now()
        _hand(news, current, gone)
        if current.finished:
            return
        ctx.bell.wait(seen, _QUIET_S)


def _hand(news: _News, item: Output | Notice | Run | int, gone: threading.Event) -> None:
    """Hand over, unless the reader has left meanwhile: a slow reader holds back the pulling, never the job."""
    while not gone.is_set():
        try:
            news.put(item, timeout=1.0)
            return
        except queue.Full:
            continue


#: What readers hand over; a rank's number says that its reader is through.
_News = queue.Queue[Output | Notice | Run | int]


class _Reader:
    """Reads one rank's log to its end."""

    def __init__(
        self,
        ctx: Context,
        standing: _Standing,
        rank: int,
        place: tuple[int, int],
        live: bool,
        news: _News,
        gone: threading.Event,
    ) -> None:
        self.rank = rank
        self._attempt, self._offset = place
        self._ctx, self._standing, self._live = ctx, standing, live
        self._news, self._gone = news, gone
        self._silent = False

    def read(self) -> None:
        try:
            while not self._gone.is_set() and not self._step():
                pass
        except PoolError as error:
            self._say(str(error))
        finally:
            _hand(self._news, self.rank, self._gone)

    def _step(self) -> bool:
        """Give what is there, or wait for some; True at the end."""
        seen = self._ctx.bell.count
        job = self._job()
        kept = kept_log(self._ctx, job, self._offset)
        if kept is not None:
            self._give(kept[0])
            return self._is_through(kept[1], ended=True)
        if job.status in (JobStatus.SUBMITTED, JobStatus.PLACED, JobStatus.STARTING) or job.host_id is None:
            if not self._live or job.status in FINISHED:
                return self._is_last()
            self._ctx.bell.wait(seen, _QUIET_S)
            return False
        try:
            size, ended = self._pull(job)
        except RunnerError as error:
            if job.status in FINISHED and error.details.get("cause") == "no_such_job":
                if job.started_at is not None:
                    self._say("its log is no longer on the host")
                return self._is_last()
            raise
        except UnreachableError as error:
            if self._ctx.store.hosts.get(job.host_id).status == HostStatus.REMOVED:
                self._say(f"{job.host_name} was removed, and the log with it")
                return self._is_last()
            if not self._live:
                raise
            if not self._silent:  # once an outage, not once an attempt
                self._silent = True
                self._say(str(error))
            self._ctx.bell.wait(seen, 30.0)
            return False
        self._silent = False
        return self._is_through(size, ended)

    def _job(self) -> Job:
        newest = self._standing.now().jobs[self.rank]
        if newest.attempt == self._attempt:
            return newest
        return self._ctx.store.runs.job(f"{self._standing.run_id}-{self.rank}-{self._attempt}")

    def _pull(self, job: Job) -> tuple[int, bool]:
        """Give what is on the host, a few pieces asked for at once; the log's size, and whether it has ended."""
        asked = deque([self._ask(job, self._offset)])
        try:
            while True:
                head, data = asked.popleft()(_WAIT_S + 15)
                size, ahead = int(head["size"]), self._offset + MAX_BODY * (1 + len(asked))
                whole = len(data) == MAX_BODY  # else what was asked for after it is not what comes next
                while whole and len(asked) < _AHEAD and ahead < size and not self._gone.is_set():
                    asked.append(self._ask(job, ahead))
                    ahead += MAX_BODY
                self._give(data)
                if not asked or not whole:
                    return size, bool(head["eof"])
        finally:
            for answer in asked:
                with contextlib.suppress(PoolError):
                    answer(1.0)

    def _ask(self, job: Job, offset: int) -> Callable[[float], tuple[dict[str, Any], bytes]]:
        wait_s = _WAIT_S if self._live else 0
        return self._ctx.keeper.ask(str(job.host_id), "read_log", job=job.id, offset=offset, wait_s=wait_s)

    def _give(self, data: bytes) -> None:
        if data:
            _hand(self._news, Output(self.rank, self._attempt, self._offset, data), self._gone)
            self._offset += len(data)

    def _is_through(self, size: int, ended: bool) -> bool:
        return self._offset >= size and (not self._live or (ended and self._is_last()))

    def _is_last(self) -> bool:
        """True when no later attempt can come; else wait for it, or go on with its log."""
        seen, run = self._ctx.bell.count, self._standing.now()
        newest = run.jobs[self.rank].attempt
        if newest == self._attempt:
            if run.finished or not self._live:
                return True
            self._ctx.bell.wait(seen, _QUIET_S)
        else:
            self._attempt, self._offset = newest, 0
        return False

    def _say(self, text: str) -> None:
        _hand(self._news, Notice(self.rank, text), self._gone)


def kept_log(ctx: Context, job: Job, offset: int) -> tuple[bytes, int] | None:
    """A piece of the log of a job whose host was removed, as kept by `remove`, and its size; None without one."""
    try:
        with open(os.path.join(ctx.folder, "logs", job.id), "rb") as file:
            file.seek(offset)
            return file.read(MAX_BODY), os.fstat(file.fileno()).st_size
    except FileNotFoundError:
        return None
