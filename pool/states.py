"""States and the only legal moves between them.

Host::

    new ──▶ provisioning ──▶ ready ⇄ draining ──▶ removed
                │  ▲           ⇅        ⇅
                ▼  │          unreachable
              broken

A host that is drained says so itself, so it comes back from `unreachable` or `provisioning` as `draining`.

Job (one rank, one attempt)::

    submitted ⇄ placed ──▶ starting ──▶ running ──▶ done | failed
        │          │           └───────────┴──▶ interrupted
        │          │           └───────────┴──▶ stopping ──▶ stopped
        └──────────┴──▶ stopped, at once: nothing runs yet

A run has no stored state: `pool.run.run_status` derives it from its jobs. `Store.move` is the only writer.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final


class HostStatus(StrEnum):
    """Where a host stands."""

    NEW = "new"  #: added, nothing done on it yet
    PROVISIONING = "provisioning"  #: Ansible is at work
    READY = "ready"  #: its link is up; it may be given jobs
    DRAINING = "draining"  #: keeps its jobs, gets no new ones
    UNREACHABLE = "unreachable"  #: the link is down; its jobs show as `running?`
    BROKEN = "broken"  #: provisioning failed; the reason is kept
    REMOVED = "removed"  #: what adding did was undone


class JobStatus(StrEnum):
    """Where a job stands."""

    SUBMITTED = "submitted"  #: waits for hosts
    PLACED = "placed"  #: has its allocation; its host is being made ready and nothing of it runs
    STARTING = "starting"  #: the start was asked for; it may run: only its host can tell
    RUNNING = "running"  #: the supervisor has started the process
    STOPPING = "stopping"  #: a stop was asked for
    DONE = "done"  #: exit code 0
    FAILED = "failed"  #: another exit code, or a named cause
    STOPPED = "stopped"  #: ended because a stop was asked for
    INTERRUPTED = "interrupted"  #: the host rebooted or is proven gone


HOST_MOVES: Final[dict[HostStatus, frozenset[HostStatus]]] = {
    HostStatus.NEW: frozenset({HostStatus.PROVISIONING, HostStatus.BROKEN, HostStatus.REMOVED}),
    HostStatus.PROVISIONING: frozenset({HostStatus.READY, HostStatus.DRAINING, HostStatus.BROKEN, HostStatus.REMOVED}),
    HostStatus.READY: frozenset(
        {HostStatus.PROVISIONING, HostStatus.DRAINING, HostStatus.UNREACHABLE, HostStatus.REMOVED}
    ),
    HostStatus.DRAINING: frozenset(
        {HostStatus.READY, HostStatus.PROVISIONING, HostStatus.UNREACHABLE, HostStatus.REMOVED}
    ),
    HostStatus.UNREACHABLE: frozenset(
        {HostStatus.READY, HostStatus.DRAINING, HostStatus.PROVISIONING, HostStatus.REMOVED}
    ),
    HostStatus.BROKEN: frozenset({HostStatus.PROVISIONING, HostStatus.REMOVED}),
    HostStatus.REMOVED: frozenset(),
}

_ENDS: Final = frozenset({JobStatus.FAILED, JobStatus.STOPPING, JobStatus.INTERRUPTED})

JOB_MOVES: Final[dict[JobStatus, frozenset[JobStatus]]] = {
    JobStatus.SUBMITTED: frozenset({JobStatus.PLACED, JobStatus.STOPPED, JobStatus.FAILED}),
    JobStatus.PLACED: frozenset({JobStatus.STARTING, JobStatus.SUBMITTED, JobStatus.STOPPED, *_ENDS}),
    JobStatus.STARTING: frozenset({JobStatus.RUNNING, JobStatus.SUBMITTED, JobStatus.DONE, *_ENDS}),
    JobStatus.RUNNING: frozenset({JobStatus.DONE, *_ENDS}),
    JobStatus.STOPPING: frozenset({JobStatus.STOPPED, JobStatus.INTERRUPTED}),
    JobStatus.DONE: frozenset(),
    JobStatus.FAILED: frozenset(),
    JobStatus.STOPPED: frozenset(),
    JobStatus.INTERRUPTED: frozenset(),
}

#: A job in one of these needs nothing more.
FINISHED: Final = frozenset(status for status, moves in JOB_MOVES.items() if not moves)
