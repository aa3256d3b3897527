"""What a run needs and the database must not hold: its environment, script and passwords, one 0600 file a run.

The file is written before the run is kept and removed when the run has ended.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from pool.errors import RunError
from pool.store.runs import spec_adapter

if TYPE_CHECKING:
    from collections.abc import Collection

    from pool.run import TaskSpec


class Secrets:
    """The folder of these files."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        os.makedirs(folder, mode=0o700, exist_ok=True)

    def keep(self, run_id: str, spec: TaskSpec) -> None:
        """Keep the whole spec of a run; whole after a crash, or absent."""
        temporary = self._file(run_id) + ".tmp"
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(spec_adapter().dump_json(spec))
            file.flush()
            os.fsync(fd)
        os.rename(temporary, self._file(run_id))

    def read(self, run_id: str) -> TaskSpec:
        """The whole spec; RunError when the file is gone or torn."""
        try:
            with open(self._file(run_id), "rb") as file:
                return spec_adapter().validate_json(file.read())
        except (OSError, ValueError) as error:
            raise RunError(f"the environment of run {run_id} is lost", hint="submit the run again") from error

    def forget(self, run_id: str) -> None:
        """Remove the file."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._file(run_id))

    def sweep(self, live: Collection[str]) -> None:
        """Remove the files of all runs but these: what a server that was killed has left."""
        for name in os.listdir(self._folder):
            if name.removesuffix(".json") not in live:
                os.unlink(os.path.join(self._folder, name))

    def _file(self, run_id: str) -> str:
        return os.path.join(self._folder, run_id + ".json")
