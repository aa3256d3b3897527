"""What this holds: a run (one launch of a task), its jobs (one a rank), and the spec a task file compiles to.

Frozen values; no state is stored for a run: `run_status` derives it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from pool.offer import Request
from pool.states import FINISHED, JobStatus


@dataclass(frozen=True, slots=True)
class Port:
    """One forwarded port: `local` None = the first free one >= `container`."""

    container: int
    local: int | None


@dataclass(frozen=True, slots=True)
class Retry:
    """When a finished job may be tried again."""

    on_events: tuple[str, ...]  #: of no-capacity, interruption, error
    duration_s: int | None  #: from the submission; None = for ever


@dataclass(frozen=True, slots=True)
class TaskSpec:
    """A task file after options, profile, interpolation and defaults: what the lifecycle needs, nothing else."""

    type: str  #: task | dev-environment
    request: Request
    nodes: int = 1
    name: str | None = None
    script: str | None = None  #: the commands as one shell script; None = the image's own command
    shell: str | None = None  #: None = bash where it exists, else sh
    env: dict[str, str] = field(default_factory=dict)  #: the user's, complete
    working_dir: str = "."  #: relative to the uploaded folder, inside it
    runtime: str = "auto"  #: auto | docker | process
    image: str | None = None
    pinned: tuple[str, str] | None = None  #: what `image` meant when the run was first launched, and what to say of it
    entrypoint: tuple[str, ...] | None = None
    python: str | None = None
    home_dir: str = "/root"
    user: str | None = None
    registry_auth: tuple[str, str] | None = None
    privileged: bool = False
    docker: bool = False
    shm_mib: int | None = None
    volumes: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    ports: tuple[Port, ...] = ()
    max_duration_s: int | None = None
    inactivity_s: int | None = None  #: a dev-environment that nobody is connected to for this long is stopped
    stop_duration_s: int = 30
    startup_order: str = "any"  #: any | master-first | workers-first
    stop_criteria: str = "all-done"  #: all-done | master-done
    retry: Retry | None = None
    priority: int = 0
    schedule: tuple[str, ...] = ()  #: cron lines, UTC, five fields each; empty = now
    utilization: tuple[int, int] | None = None  #: (percent every GPU must reach, within seconds), else it is stopped
    ide: str | None = None  #: vscode | cursor, of a dev-environment
    ide_version: str | None = None
    notes: tuple[str, ...] = ()  #: fields that have no effect on a pool, and why; shown in the plan


class RunStatus(StrEnum):
    """Derived from the jobs; the words of `JobStatus`, for the run as a whole."""

    SUBMITTED = "submitted"
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    DONE = "done"
    FAILED = "failed"
    STOPPED = "stopped"
    INTERRUPTED = "interrupted"


@dataclass(frozen=True, slots=True)
class Job:
    """One rank of a run, one attempt."""

    id: str
    run_id: str
    rank: int
    attempt: int
    status: JobStatus
    host_id: str | None = None
    host_name: str | None = None
    gpus: tuple[str, ...] = ()  #: UUIDs
    cpus: float = 0.0
    memory_mib: int = 0
    exit_code: int | None = None
    reason: str | None = None  #: a named cause, for people
    log_bytes: int | None = None  #: final size, once finished
    log_sha256: str | None = None
    started_at: float | None = None  #: Unix seconds, the host's clock
    finished_at: float | None = None
    unreachable: bool = False  #: the host does not answer: shown as `running?`


@dataclass(frozen=True, slots=True)
class Run:
    """One launch of a task."""

    id: str
    name: str
    user: str
    spec: TaskSpec
    submitted_at: float  #: Unix seconds, the server's clock
    folder: str | None = None  #: the caller's working folder
    code: str | None = None  #: the hash that names the uploaded folder
    repo_id: str = ""
    stop_asked: str | None = None  #: None | stop | abort
    jobs: tuple[Job, ...] = ()

    @property
    def status(self) -> RunStatus:
        """Derived; see `run_status`."""
        return run_status(self.jobs)

    @property
    def finished(self) -> bool:
        """True when no job needs anything more."""
        return all(job.status in FINISHED for job in self.jobs)

    @property
    def exit_code(self) -> int | None:
        """The exit code of the run: see `run_exit_code`; None while it goes on or where there is none."""
        return run_exit_code(self.jobs) if self.finished else None


_LIVE_ORDER = (
    (JobStatus.STOPPING, RunStatus.STOPPING),
    (JobStatus.SUBMITTED, RunStatus.SUBMITTED),
    (JobStatus.PLACED, RunStatus.STARTING),
    (JobStatus.STARTING, RunStatus.STARTING),
    (JobStatus.RUNNING, RunStatus.RUNNING),
)
_END_ORDER = (
    (JobStatus.FAILED, RunStatus.FAILED),
    (JobStatus.INTERRUPTED, RunStatus.INTERRUPTED),
    (JobStatus.STOPPED, RunStatus.STOPPED),
    (JobStatus.DONE, RunStatus.DONE),
)


def run_status(jobs: Sequence[Job]) -> RunStatus:
    """The status of a run: the least advanced live job decides, else the worst ending."""
    present = {job.status for job in jobs}
    live = not present <= FINISHED
    if live and present & {JobStatus.DONE, JobStatus.FAILED, JobStatus.INTERRUPTED, JobStatus.STOPPED}:
        return RunStatus.STOPPING if JobStatus.STOPPING in present else RunStatus.RUNNING
    for status, derived in _LIVE_ORDER if live else _END_ORDER:
        if status in present:
            return derived
    return RunStatus.SUBMITTED


def run_exit_code(jobs: Sequence[Job]) -> int | None:
    """0 when every job is done; else the code of the rank that failed first; None where no code was made."""
    if all(job.status == JobStatus.DONE for job in jobs):
        return 0
    failed = [j for j in jobs if j.status == JobStatus.FAILED and j.exit_code is not None]
    failed.sort(key=lambda j: (j.finished_at or 0.0, j.rank))
    return failed[0].exit_code if failed else None
