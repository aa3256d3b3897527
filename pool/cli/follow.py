"""Shows a run as it goes: every rank's output, what changes, and its end. `pool run`, `attach` and `logs` are this.

A reader keeps its offsets, so when the server is restarted under it, it goes on at the very byte.
"""

from __future__ import annotations

import sys
import time

from pool.cli import render
from pool.cli.terminal import Prefixer, Sanitiser
from pool.client import Client, died
from pool.errors import InterruptError, RunError, ServerError, parted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: After this long without a server a reader gives up, and before that says that it waits.
_RECONNECT_S = 60.0
_PATIENCE_S = 2.0
_HOSTS_NAMED = 8
DEV_ENVIRONMENT = "dev-environment"


class Follower:
    """Follows one run to its end."""

    def __init__(self, run: dict[str, Any], *, ranks: list[int] | None = None, live: bool = True, quiet: bool = False):
        self.run = run
        self.incomplete = False  #: something of the log of now could not be had
        self._ranks = ranks or [job["rank"] for job in run["jobs"]]
        self._live, self._quiet = live, quiet
        self._places: dict[int, str] = {}  # rank -> `attempt:offset` of the next byte
        width = len(str(max(self._ranks)))
        self._prefixers = {rank: Prefixer(rank, width) for rank in self._ranks} if len(self._ranks) > 1 else {}
        self._sanitisers = {rank: Sanitiser() for rank in self._ranks} if sys.stdout.isatty() else {}
        self._waits = False
        self._told: dict[int, tuple[Any, ...]] = {}

    def follow(self) -> dict[str, Any]:
        """Until the run's end (or, not `live`, the log's end of now); the run as it is then."""
        lost_at = None
        while True:
            try:
                for head, body in Client(start=lost_at is None or died()).stream("GET", self._path()):
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

    def _path(self) -> str:
        words = [f"rank={rank}" for rank in self._ranks]
        words += [f"from={rank}:{place}" for rank, place in self._places.items()]
        return f"/runs/{self.run['id']}/follow?live={int(self._live)}&" + "&".join(words)

    def _take(self, head: dict[str, Any], body: bytes) -> None:
        if "run" in head:
            self.run = head["run"]
            self._tell()
        elif "notice" in head:
            self.incomplete = not self._live
            render.note(f"pool: rank {head['rank']}: {head['notice']}")
        else:
            rank = head["rank"]
            self._places[rank] = f"{head['attempt']}:{head['offset'] + len(body)}"
            self._show(rank, self._sanitisers[rank].feed(body) if rank in self._sanitisers else body)
            if self._live:
                self._tell()

    def _show(self, rank: int, data: bytes) -> None:
        if rank in self._prefixers:
            data = self._prefixers[rank].feed(data)
        if data:
            render.write_bytes(data)

    def _finish(self) -> None:
        for rank, sanitiser in self._sanitisers.items():
            self._show(rank, sanitiser.finish())
        for prefixer in self._prefixers.values():
            render.write_bytes(prefixer.finish())
        if self._live:
            self._tell(last=True)

    def _tell(self, *, last: bool = False) -> None:
        """Say what changed since the last time; of a rank that has ended, once all its output was shown."""
        if self._quiet:
            return
        changed: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
        for job in self.run["jobs"]:
            state = (job["shown"], job["reason"] if job["shown"] not in ("running", "done") else None)
            if self._told.get(job["rank"]) != state and (last or self._is_shown(job)):
                self._told[job["rank"]] = state
                changed.setdefault((job["shown"], job["exit_code"], job["reason"]), []).append(job)
        for jobs in changed.values():
            render.note(_told(self.run, jobs))
            if self.run["type"] == DEV_ENVIRONMENT and jobs[0]["shown"] == "running":
                render.note(_way_in(self.run))

    def _is_shown(self, job: dict[str, Any]) -> bool:
        if not job["log_bytes"] or job["rank"] not in self._ranks:
            return True
        attempt, _, offset = self._places.get(job["rank"], "0:0").partition(":")
        return bool(int(attempt) == job["attempt"] and int(offset) >= job["log_bytes"])


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


def _way_in(run: dict[str, Any]) -> str:
    """What a person does with a dev-environment that is up."""
    return f"pool: it is up until: pool stop {run['name']}"


def _ranges(ranks: list[int]) -> str:
    """`0-3, 7`, of ranks in order."""
    runs: list[list[int]] = []
    for rank in ranks:
        if runs and rank == runs[-1][-1] + 1:
            runs[-1].append(rank)
        else:
            runs.append([rank])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def follow_to_end(follower: Follower) -> int:
    """Follow; Ctrl-C asks whether to stop the run or to let it go on. The run's exit code."""
    stopped = False
    while True:
        try:
            run = follower.follow()
            break
        except KeyboardInterrupt:
            answer = _ask_about(follower.run["name"])
            if answer == "detach":
                render.note(f"\nthe run goes on\ntry: pool attach {follower.run['name']}")
                return 0
            if answer == "stop":
                abort = stopped
                Client().post(f"/runs/{follower.run['id']}/stop", {"abort": abort})
                render.note("pool: killing it now" if abort else "pool: stopping it; Ctrl-C again to kill it")
                stopped = True
    return exit_code(run, stopped=stopped)


def exit_code(run: dict[str, Any], *, stopped: bool = False) -> int:
    """The run's exit code; InterruptError when the user stopped it here, RunError when it ended without one.

    A dev-environment that was stopped has ended well: 0.
    """
    if run["exit_code"] is not None:
        code: int = run["exit_code"]
        return code
    if stopped:
        raise InterruptError(f"{run['name']} was stopped")
    if run["type"] == DEV_ENVIRONMENT and run["status"] == "stopped":  # the one end that it has
        return 0
    why, hint = parted(next((job["reason"] for job in run["jobs"] if job["reason"]), ""))
    text = f"{run['name']} {run['status']}" + (f": {why}" if why else "")
    raise RunError(text, hint=hint or f"pool logs {run['name']}")


def _ask_about(name: str) -> str:
    """stop | detach | go on. Without a terminal an interrupt means stop, as with any program in the foreground."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return "stop"
    sys.stderr.write(f"\n{name}: [s]top it, [d]etach and let it run, or Enter to go on watching? ")
    sys.stderr.flush()
    try:
        answer = sys.stdin.readline().strip().lower()
    except KeyboardInterrupt:
        return "stop"
    return {"s": "stop", "stop": "stop", "d": "detach", "detach": "detach"}.get(answer, "go on")
