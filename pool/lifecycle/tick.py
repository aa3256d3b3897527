"""The server's loop: looks at every live run and does the next thing, again and again, until nothing is left to do.

It acts on what the store says, not on what happened, so it does not matter who else died in between. Placing is done
here, one run after the other; what talks to hosts is done beside, one thread a run.
"""

from __future__ import annotations

import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from pool.errors import PoolError
from pool.lifecycle import launch, stop
from pool.lifecycle.place import place
from pool.states import FINISHED, JobStatus

if TYPE_CHECKING:
    from pool.lifecycle.context import Context
    from pool.run import Run

_log = logging.getLogger(__name__)

#: Without a bell, look again after this long: stops are repeated, undone launches are tried anew.
_IDLE_S = 5.0
#: A run whose launch was undone waits this long before it is placed again.
_AGAIN_S = 2.0
_REPEAT_S = 1.0
#: Of two looks the second waits this long: a gang's start and end ring once a rank, and one look sees them all.
_APART_S = 0.01


class Loop:
    """The loop of one server; `start` it once."""

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._ending = threading.Event()
        self._busy: dict[str, float] = {}  # run id -> when to look again (inf while a thread has it)
        self._lock = threading.Lock()
        self._threads = ThreadPoolExecutor(64, thread_name_prefix="run")

    def start(self) -> None:
        """Begin, in a thread of its own."""
        threading.Thread(target=self._run, name="loop", daemon=True).start()

    def end(self) -> None:
        """Begin nothing new."""
        self._ending.set()
        self._ctx.bell.ring()

    def _run(self) -> None:
        seen = -1
        while not self._ending.is_set():
            count, looked_at = self._ctx.bell.count, time.monotonic()
            try:
                self._look()
            except Exception:
                _log.exception("the loop stumbled; it goes on")
                time.sleep(1)
            seen = count
            with self._lock:
                soon = min(self._busy.values(), default=float("inf")) - time.monotonic()
            self._ctx.bell.wait(seen, max(0.0, min(_IDLE_S, soon)))
            self._ending.wait(looked_at + _APART_S - time.monotonic())

    def _look(self) -> None:
        live = self._ctx.store.runs.live()
        with self._lock:
            now = time.monotonic()
            self._busy = {run_id: until for run_id, until in self._busy.items() if until > now}
            idle = [run for run in live if run.id not in self._busy]
        place(self._ctx, [run for run in idle if not stop.why_to_stop(run)])
        for run in idle:
            waited = any(job.status == JobStatus.SUBMITTED for job in run.jobs)
            current = self._ctx.store.runs.get(run.id) if waited else run  # it may just have been placed
            if _needs_act(current):
                with self._lock:
                    self._busy[run.id] = float("inf")
                self._threads.submit(self._act, current)

    def _act(self, run: Run) -> None:
        again = 0.0
        try:
            why = stop.why_to_stop(run)
            if why:
                stop.stop(self._ctx, run, why[0], abort=why[1])
                again = _REPEAT_S  # asked; the end arrives as an event, and a silent host is asked again
            else:
                launch.launch(self._ctx, run)
                after = self._ctx.store.runs.get(run.id)
                again = (
                    _AGAIN_S if any(j.status in (JobStatus.SUBMITTED, JobStatus.STARTING) for j in after.jobs) else 0
                )
        except PoolError as error:
            _log.warning("%s: %s", run.name, error)
            again = _AGAIN_S
        except Exception:
            _log.exception("run %s", run.name)
            again = _IDLE_S
        finally:
            with self._lock:
                self._busy[run.id] = time.monotonic() + again
            self._ctx.bell.ring()


def _needs_act(run: Run) -> bool:
    """True when `launch` or `stop` has something to do for the run."""
    if all(job.status in FINISHED for job in run.jobs):
        return False
    if stop.why_to_stop(run):
        return True
    return any(job.status in (JobStatus.PLACED, JobStatus.STARTING) for job in run.jobs)
