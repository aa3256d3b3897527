"""The tables of moves say what the diagrams above them say."""

from __future__ import annotations

import re

from pool import states
from pool.states import FINISHED, HOST_MOVES, JOB_MOVES, HostStatus, JobStatus


def test_every_state_is_in_the_diagram() -> None:
    """A state that is added is drawn."""
    drawn = set(re.findall(r"[a-z]+", states.__doc__ or ""))
    assert {str(state) for state in (*HostStatus, *JobStatus)} <= drawn


def test_what_must_never_happen() -> None:
    """Ends are ends; what may run is not called waiting again; only what ran can be called done."""
    assert {"done", "failed", "stopped", "interrupted"} == set(FINISHED)
    assert not HOST_MOVES[HostStatus.REMOVED]
    for state in (JobStatus.RUNNING, JobStatus.STOPPING):
        assert not JOB_MOVES[state] & {JobStatus.SUBMITTED, JobStatus.PLACED, JobStatus.STARTING}
    before_done = {state for state, moves in JOB_MOVES.items() if JobStatus.DONE in moves}
    assert before_done == {JobStatus.STARTING, JobStatus.RUNNING}
    assert all(HostStatus.REMOVED in moves for state, moves in HOST_MOVES.items() if state != HostStatus.REMOVED)
