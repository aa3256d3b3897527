"""A person attached to a run: its output, its ports, Ctrl-C, where to go on the next time. `pool run` and `attach`."""

from __future__ import annotations

import sys

from pool.cli import render
from pool.cli.follow import DEV_ENVIRONMENT, Follower
from pool.cli.interrupt import HangUp, Interrupts
from pool.cli.places import Places, kept_places
from pool.client import Client
from pool.errors import InterruptError, RunError, parted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pool.inside.ports import Forwards


def bound(ports: list[dict[str, Any]]) -> Forwards | None:
    """These ports bound here, of a run that is to be attached to. ConflictError before anything else is done."""
    if not ports:
        return None
    from pool.inside.ports import Forwards  # a run without ports does not wait for the import

    return Forwards(ports)


def stay(
    run: dict[str, Any],
    forwards: Forwards | None,
    *,
    ranks: list[int] | None = None,
    quiet: bool = False,
    from_start: bool = False,
) -> int:
    """Show the run from where its last reader stopped, to its end, and carry its ports. The run's exit code.

    A terminal that goes, or SIGTERM, ends this program by that signal and leaves the run alone.
    """
    places = {} if from_start else kept_places(run["id"])
    if any(rank in (ranks or places) and not place.endswith(":0") for rank, place in places.items()):
        render.note("pool: going on from where you stopped reading; --from-start shows it all")
    with Interrupts() as interrupts:
        follower = Follower(
            run,
            ranks=ranks,
            quiet=quiet,
            places=places,
            write=interrupts.write,
            whole=interrupts.held,
            on_shown=lambda: kept.shown(),
        )
        kept = Places(run["id"], lambda: dict(follower.shown))
        whole = False
        try:
            if forwards:
                forwards.start(run, ranks[0] if ranks else 0, say=(lambda _: None) if quiet else render.note)
            code = _follow(follower)
            whole = follower.run["finished"]
            return code
        except HangUp as gone:
            kept.close(whole=False)
            gone.end()
        finally:
            kept.close(whole=whole)
            if forwards:
                forwards.close(patient=whole)


def _follow(follower: Follower) -> int:
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
    answers = {"s": "stop", "stop": "stop", "d": "detach", "detach": "detach", "": "go on"}
    while True:
        sys.stderr.write(f"\n{name}: [s]top it, [d]etach and let it run, or Enter to go on watching? ")
        sys.stderr.flush()
        try:
            answer = sys.stdin.readline().strip().lower()
        except KeyboardInterrupt:
            return "stop"
        if answer in answers:
            return answers[answer]
