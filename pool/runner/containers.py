"""The containers of one runner's jobs, as the runner sees them: which are gone, and which were left and have to go.

Each job's supervisor removes its own. Left are those of a supervisor that was killed, of a host that rebooted, and of
an engine that did not answer at the time.
"""

from __future__ import annotations

import json
import sys

from pool.runner import container, durable
from pool.runner.engine import Engine, EngineError, EngineGoneError
from pool.runner.jobs import JobFolder
from pool.runner.ledger import RefusedError


class Containers:
    """Those of the runner of one state folder."""

    def __init__(self, state: str) -> None:
        self._state = state
        self._engine = Engine()
        self._look = True

    def look(self) -> None:
        """Something may have been left: sweep until nothing is."""
        self._look = True

    def gone(self, folder: JobFolder) -> bool:
        """True once the job has no container; one it still has is removed, whatever it does."""
        spec = durable.read_json(folder.file("spec.json")) or {}
        if "container" not in spec or (folder.exit or {}).get("removed"):
            return True
        return container.remove(self._engine, folder.job)

    def sweep(self) -> None:
        """Remove what was left; does nothing, and asks nobody, unless something may be."""
        if self._look and self._swept():
            self._look = False

    def _swept(self) -> bool:
        """Remove this runner's containers that may go; False when it has to be done again."""
        wanted = json.dumps({"label": ["{}={}".format(container.LABEL_RUNNER, self._state)]})
        try:
            found = self._engine.ask("GET", "/containers/json", timeout_s=container.PATIENCE_S, all="1", filters=wanted)
        except (EngineError, EngineGoneError):
            return False
        jobs = [(each["Labels"].get(container.LABEL_JOB, ""), each["State"]) for each in found]
        removed = [container.remove(self._engine, job) for job, state in jobs if self._may_go(job, state == "running")]
        return all(removed)

    def _may_go(self, job: str, running: bool) -> bool:
        """True for one of an ended job, and for one that does not run and whose job is not known: it may be work."""
        try:
            folder = JobFolder(self._state, job)
        except RefusedError:
            return False
        if folder.exists:
            return folder.exit is not None
        if running:
            sys.stderr.write("the container of job {} runs, and the job is not known here\n".format(job))
        return not running
