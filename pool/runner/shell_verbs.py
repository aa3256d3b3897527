"""How a server comes to a shell inside of a job; see service.py, and shell.py for the stream."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any, Callable

from pool.runner import open_shells, shell
from pool.runner.jobs import EXITED, RUNNING, JobFolder
from pool.runner.ledger import RefusedError
from pool.runner.peer import Owners, Peer
from pool.runner.process_shell import ProcessShell
from pool.runner.streams import Stream

if TYPE_CHECKING:
    from pool.runner.shell import Program

#: Becomes the first shell of `$@` that the image has, with what stands in `$1` for it to do, if anything does.
_IN_IMAGE = (
    'unset TINI_KILL_PROCESS_GROUP; line=$1; shift; for shell in "$@"; do '
    'if command -v "$shell" >/dev/null 2>&1; then if [ -n "$line" ]; then exec "$shell" -c "$line"; fi; '
    'exec "$shell"; fi; done; echo "pool: the image has no shell $1" >&2; exit 127'
)


class ShellVerbs:
    """One method a verb."""

    def __init__(self, state: str, owners: Owners) -> None:
        """Also hangs up on shells that a runner before this one has left."""
        self._state, self._owners = state, owners
        open_shells.hang_up_left(state)

    def open_shell(self, peer: Peer, head: dict[str, Any]) -> tuple[dict[str, Any], Callable[[Stream], None]]:
        """The job's shell, inside of the running job, and what it has to do: `argv`, one word that is a line for it, or
        several that are quoted for it; without, it reads its input.

        `tty`: `{"rows", "cols", "term"}` for a terminal; without it, pipes. Refused with `waits` before the job runs,
        with `ended` after.
        """
        folder = self._owners.own(peer, head["job"])
        state = folder.status()["state"]
        if state == EXITED or (state == RUNNING and not folder.supervised()):
            raise RefusedError("ended", "job {} has ended".format(folder.job))
        if state != RUNNING:
            raise RefusedError("waits", "job {} has not started".format(folder.job))
        words = [str(word) for word in head.get("argv") or ()]
        line = words[0] if len(words) == 1 else " ".join(map(shlex.quote, words))
        program = self._program(folder, line, head.get("tty"))

        def serve(stream: Stream) -> None:
            with open_shells.noted(folder, program):
                shell.serve(stream, program)

        return {}, serve

    def _program(self, folder: JobFolder, line: str, tty: dict[str, Any] | None) -> Program:
        spec = folder.spec
        if "container" not in spec:
            return ProcessShell(self._state, folder.job, ["-c", line] if line else [], tty)
        from pool.runner.container_shell import ContainerShell

        shells = (spec["container"]["config"].get("Entrypoint") or [])[4:] if spec["container"]["terminal"] else []
        return ContainerShell(folder.job, ["sh", "-c", _IN_IMAGE, "pool", line, *(shells or ["bash", "sh"])], tty)
