"""Stand-ins for the seams; `tests/contract` runs the same cases on each and on the real thing."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from pool.errors import HostError, ProvisionError
from pool.provision.inventory import JSON, inventory
from pool.provision.openssh import Target
from pool.provision.playbook import find_playbook
from pool.provision.progress import Outcome, StepEvent


@dataclass(frozen=True)
class PlaybookCall:
    """What a fake playbook was asked to do."""

    playbook: str
    targets: tuple[Target, ...]
    variables: Mapping[str, Mapping[str, JSON]]
    check: bool


@dataclass
class FakePlaybook:
    """`run_playbook` without Ansible: every host takes the steps, each with its name for a tag; `failures` fail."""

    steps: Sequence[str] = ("Copy the program", "Start the runner")
    changes: frozenset[str] = frozenset()  #: steps that change something
    failures: Mapping[str, tuple[str, HostError]] = field(default_factory=dict)  #: host -> (step, error)
    calls: list[PlaybookCall] = field(default_factory=list)

    def __call__(
        self,
        playbook: str,
        targets: Sequence[Target],
        *,
        known_hosts: str,
        log: str,
        variables: Mapping[str, Mapping[str, JSON]],
        on_event: Callable[[StepEvent], None],
        cancelled: Callable[[], bool] = lambda: False,
        check: bool = False,
        skip: Collection[str] = (),
        timeout_s: float = 3600,
    ) -> dict[str, Outcome]:
        """Take the steps on each host in turn."""
        find_playbook(playbook)
        inventory(targets, variables)
        self.calls.append(PlaybookCall(playbook, tuple(targets), variables, check))
        steps = [step for step in self.steps if step not in skip]
        return {target.name: self._one(target.name, steps, log, on_event, cancelled) for target in targets}

    def _one(
        self,
        host: str,
        steps: Sequence[str],
        log: str,
        on_event: Callable[[StepEvent], None],
        cancelled: Callable[[], bool],
    ) -> Outcome:
        changed = 0
        for step in steps:
            if cancelled():
                error = ProvisionError(f"{host}: interrupted during: {step}", host=host, step=step, log=log)
                return Outcome(host, False, changed, step, error, log)
            on_event(StepEvent(host, step, "started", 0.0))
            where, failure = self.failures.get(host, ("", None))
            if failure is not None and where == step:
                on_event(StepEvent(host, step, "failed", 0.1, failure.message))
                return Outcome(host, False, changed, step, failure, log)
            changed += step in self.changes
            on_event(StepEvent(host, step, "changed" if step in self.changes else "ok", 0.1))
        return Outcome(host, True, changed, None, None, log)
