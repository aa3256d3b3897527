"""Doctor: playbooks/check.yml on hosts of the pool: the checks that provisioning ends with. Nothing is changed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pool.lifecycle.assemble import known_hosts, target_of
from pool.lifecycle.provision import told
from pool.lifecycle.visit import log_path, look_around
from pool.provision.inventory import runner_variables
from pool.provision.playbook import run_playbook

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pool.errors import PoolError
    from pool.host import Host
    from pool.lifecycle.context import Context
    from pool.provision.preflight import Preflight
    from pool.provision.progress import StepEvent

#: The roles that are checked, as a person calls what they see to.
_PARTS = {"nvidia_driver": "driver", "docker": "docker", "nvidia_container_toolkit": "toolkit", "runner": "runner"}


@dataclass(frozen=True, slots=True)
class Check:
    """One part of a host: how it stands."""

    what: str  #: driver | docker | toolkit | runner
    status: str  #: ok | failed
    said: str  #: what is wrong


@dataclass(frozen=True, slots=True)
class Checked:
    """What was found of one host."""

    name: str
    checks: tuple[Check, ...] = ()
    error: PoolError | None = None  #: why it could not be checked
    log: str | None = None


def doctor(ctx: Context, names: Sequence[str], on_step: Callable[[StepEvent], None]) -> list[Checked]:
    """Check these hosts side by side; one result a host, in order. NotFoundError for one that is not in the pool."""
    hosts = [ctx.store.hosts.named(name) for name in names]
    results: dict[str, Checked] = {}
    entered: list[tuple[Host, Preflight]] = []
    for host, found in zip(hosts, ctx.every(lambda host: look_around(ctx, host), hosts), strict=True):
        if isinstance(found, Exception):
            results[host.name] = Checked(host.name, error=told(host, found))
        else:
            entered.append((host, found))
    if entered:
        results |= _check(ctx, entered, on_step)
    return [results[name] for name in names]


def _check(
    ctx: Context, entered: Sequence[tuple[Host, Preflight]], on_step: Callable[[StepEvent], None]
) -> dict[str, Checked]:
    log = log_path(ctx, "doctor")
    events: list[StepEvent] = []

    def keep(event: StepEvent) -> None:
        events.append(event)
        on_step(event)

    outcomes = run_playbook(
        "check.yml",
        [target_of(host) for host, _ in entered],
        known_hosts=known_hosts(ctx),
        log=log,
        variables={
            host.name: runner_variables(found, zipapp="none") | {"pool_report": False} for host, found in entered
        },
        on_event=keep,
    )
    return {name: Checked(name, _checks(name, events), outcome.error, log) for name, outcome in outcomes.items()}


def _checks(name: str, events: Sequence[StepEvent]) -> tuple[Check, ...]:
    """A part with a step that failed is failed; a part without any step was left out, for it is not wanted there."""
    mine = [event for event in events if event.host == name]
    checks = []
    for role, what in _PARTS.items():
        steps = [event for event in mine if event.role == role and event.status not in ("started", "skipped")]
        bad = [event.message for event in steps if event.status in ("failed", "unreachable")]
        if steps:
            checks.append(Check(what, "failed" if bad else "ok", bad[0].removeprefix(f"{name}: ") if bad else ""))
    return tuple(checks)
