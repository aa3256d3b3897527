"""Provision: playbooks/host.yml on hosts that are kept, from the plan to a job that has run on each.

    look closely ─▶ plan, shown ─▶ playbooks/host.yml ─▶ link ─▶ a job ─▶ ready
                                      └────────────────────┴───────┴─ failed: broken, with the reason

Hosts of one call go side by side. As soon as one is through the playbook it is linked, tried and ready, whatever the
others do meanwhile. A dry run ends with what the playbook would change.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from pool.errors import AuthenticationError, ConflictError, HostError, PoolError, UnreachableError
from pool.lifecycle import drain
from pool.lifecycle.assemble import known_hosts, link_target, target_of
from pool.lifecycle.smoke import smoke
from pool.lifecycle.visit import log_path, look_closely
from pool.provision.inventory import runner_variables
from pool.provision.playbook import run_playbook
from pool.provision.progress import StepEvent
from pool.provision.survey import Step, left_out, plan
from pool.provision.zipapp import build_runner
from pool.ssh.connection import connect
from pool.ssh.identity import ACCOUNT, public_key
from pool.states import HostStatus

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from pool.host import Host
    from pool.lifecycle.context import Context
    from pool.provision.preflight import Preflight, Scope
    from pool.provision.survey import Survey

_log = logging.getLogger(__name__)

#: From the playbook's end until the new link must have told the host's facts.
_LINK_S = 60.0
#: All steps together; each has a time of its own, so this ends only what none of them does.
_ALL_S = 6 * 3600.0
#: The plan's columns, in characters.
_COLUMNS = (9, 52)


@dataclass(frozen=True, slots=True)
class Manner:
    """How hosts are provisioned."""

    skip: frozenset[str] = frozenset()  #: roles that are left out
    reboot: bool = False  #: reboot a host on which nothing runs, where only that makes its driver work
    dry_run: bool = False  #: say what would be changed, and change nothing


@dataclass(frozen=True, slots=True)
class Entered:
    """A host that was looked at."""

    host: Host
    found: Preflight
    plan: tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class Added:
    """How provisioning one host ended."""

    name: str
    changed: int  #: Ansible tasks that changed something, or would
    error: PoolError | None = None
    plan: tuple[Step, ...] = ()
    log: str | None = None  #: the whole log of the playbook


def provision(ctx: Context, names: Sequence[str], manner: Manner, on_step: Callable[[StepEvent], None]) -> list[Added]:
    """Provision hosts of the pool again; one outcome a host, in order. NotFoundError, ConflictError before anything."""
    hosts = [ctx.store.hosts.named(name) for name in names]
    for host in hosts:
        if host.status in (HostStatus.NEW, HostStatus.PROVISIONING):
            raise ConflictError(f"{host.name} is being added right now", hint="pool ps")
    results: dict[str, Added] = {}
    entered = []
    for host, outcome in zip(hosts, ctx.every(lambda host: _enter(ctx, host, manner, on_step), hosts), strict=True):
        if isinstance(outcome, Exception):
            results[host.name] = Added(host.name, 0, told(host, outcome))
        else:
            entered.append(outcome)
    if entered:
        results |= converge(ctx, entered, manner, on_step)
    return [results[host.name] for host in hosts]


def look_and_plan(
    ctx: Context, host: Host, scope: Scope | None, manner: Manner, on_step: Callable[[StepEvent], None]
) -> Entered:
    """Log in, look around, show the plan. HostError; nothing is changed."""
    with step(host, "log in and look around", on_step) as ended:
        found, seen = look_closely(ctx, host, scope)
        ended.message = _no_root(found)
    steps = tuple(plan(found, seen, manner.skip))
    on_step(StepEvent(host.name, "plan", "plan", 0.0, _table(steps)))
    return Entered(host, found, steps)


def converge(
    ctx: Context, entered: Sequence[Entered], manner: Manner, on_step: Callable[[StepEvent], None]
) -> dict[str, Added]:
    """Run the playbook on hosts that are `provisioning` (a dry run: in whatever state), and see each through."""
    log = log_path(ctx, "provision")
    finish = _Finish(ctx, entered, on_step)
    try:
        zipapp = os.path.join(ctx.folder, "ansible", "runner.pyz")
        os.makedirs(os.path.dirname(zipapp), mode=0o700, exist_ok=True)
        sha256 = build_runner(zipapp)
        keys = [public_key(ctx.folder)]
        outcomes = run_playbook(
            "host.yml",
            [target_of(each.host) for each in entered],
            known_hosts=known_hosts(ctx),
            log=log,
            variables={
                each.host.name: runner_variables(each.found, zipapp, keys, sha256=sha256) | _chosen(manner)
                for each in entered
            },
            on_event=on_step if manner.dry_run else finish.take,
            check=manner.dry_run,
            skip=frozenset.intersection(*(left_out(each.found, manner.skip) for each in entered))
            | (frozenset() if manner.dry_run else {"dry_run"}),
            timeout_s=_ALL_S,
        )
    except Exception as error:  # whatever it is, no host may stay as if it were still being added
        outcomes = {}
        failed: dict[str, PoolError | None] = {each.host.name: told(each.host, error) for each in entered}
    else:
        failed = {name: outcome.error for name, outcome in outcomes.items()}
    results = {}
    for each in entered:
        name = each.host.name
        ended = failed[name] if manner.dry_run else finish.end(each.host, failed[name])
        changed = outcomes[name].changed if name in outcomes else 0
        results[name] = Added(name, changed, ended, each.plan, log)
    ctx.bell.ring()
    return results


class _Finish:
    """Sees hosts through after the playbook: link, job, ready; each in a thread of its own, as it is handed over."""

    def __init__(self, ctx: Context, entered: Sequence[Entered], on_step: Callable[[StepEvent], None]) -> None:
        self._ctx, self._on_step = ctx, on_step
        self._entered = {each.host.name: each for each in entered}
        self._threads: dict[str, threading.Thread] = {}
        self._errors: dict[str, PoolError] = {}

    def take(self, event: StepEvent) -> None:
        """One step of the playbook."""
        if event.status == "done":
            self._begin(self._entered[event.host].host)
        else:
            self._on_step(event)

    def end(self, host: Host, error: PoolError | None) -> PoolError | None:
        """Wait for the host's end, its status set; `error` is the playbook's."""
        if error is None:
            self._begin(host)
        if host.name in self._threads:
            self._threads[host.name].join()
            return self._errors.get(host.name)
        if error is not None:
            error = _with_leftover(self._ctx, host, error)
            self._ctx.store.hosts.move(host.id, HostStatus.BROKEN, error.reason(host.name))
        return error

    def _begin(self, host: Host) -> None:
        if host.name not in self._threads:
            thread = threading.Thread(target=self._see_through, args=(host,), name=f"finish {host.name}", daemon=True)
            self._threads[host.name] = thread
            thread.start()

    def _see_through(self, host: Host) -> None:
        ctx = self._ctx
        try:
            with step(host, "link to the runner", self._on_step) as ended:
                host, ended.message = _settle_login(ctx, host, self._entered[host.name].found.scope)
                ctx.keeper.keep(host)
                _await_link(ctx, host)
            if drain.why(ctx, host) is None:  # a host that is drained takes no job, not even this one
                with step(host, "run a job", self._on_step) as ended:
                    ended.message = smoke(ctx, host)
            drain.settle(ctx, host, provisioned=True)
        except Exception as error:
            self._errors[host.name] = told(host, error)
            ctx.keeper.drop(host.id)
            ctx.store.hosts.move(host.id, HostStatus.BROKEN, self._errors[host.name].reason(host.name))
        ctx.bell.ring()


@dataclass(slots=True)
class _Ended:
    message: str = ""
    began: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began


@contextlib.contextmanager
def step(host: Host, name: str, on_step: Callable[[StepEvent], None]) -> Iterator[_Ended]:
    """A step of ours, shown as those of a playbook are."""
    ended = _Ended()
    on_step(StepEvent(host.name, name, "started", 0.0))
    try:
        yield ended
    except PoolError as error:
        on_step(StepEvent(host.name, name, "failed", ended.seconds, str(error)))
        raise
    on_step(StepEvent(host.name, name, "ok", ended.seconds, ended.message))


def told(host: Host, error: Exception) -> PoolError:
    """The error as it is told; what is none of ours is a stumble of the server."""
    if isinstance(error, PoolError):
        return error
    _log.error("provisioning %s", host.name, exc_info=error)
    return PoolError(f"{host.name}: the server stumbled: {error!r}", hint="see server.log in the state folder")


def _enter(ctx: Context, host: Host, manner: Manner, on_step: Callable[[StepEvent], None]) -> Entered:
    """Look at a host of the pool; it becomes `provisioning` unless this is a dry run."""
    entered = look_and_plan(ctx, host, None, manner, on_step)
    if not manner.dry_run:
        ctx.store.hosts.move(host.id, HostStatus.PROVISIONING)
        ctx.bell.ring()
    return entered


def _chosen(manner: Manner) -> dict[str, Any]:
    """What the person who provisions has chosen, as the playbook is told."""
    return {"pool_skip": sorted(manner.skip)} | ({"nvidia_driver_reboot": "when_idle"} if manner.reboot else {})


def _settle_login(ctx: Context, host: Host, scope: Scope) -> tuple[Host, str]:
    """The host as it is linked from now on: with the runner's account, where it has one and sshd lets that in.

    With it, what a person should know where it has none.
    """
    login, said = None, ""
    if scope == "system":
        try:
            connect(link_target(ctx, replace(host, login=ACCOUNT)), known_hosts(ctx)).close()
            login = ACCOUNT
        except AuthenticationError:
            said = f"as {host.user}, for sshd does not let {ACCOUNT} in with this server's key"
    return ctx.store.hosts.set_login(host.id, login), said


def _await_link(ctx: Context, host: Host) -> None:
    """Until the runner has told its facts."""
    deadline = time.monotonic() + _LINK_S
    while True:
        try:
            ctx.keeper.request(host.id, "jobs")
            return
        except UnreachableError as error:
            if time.monotonic() > deadline:
                why = f"{host.name}: its runner did not answer within {_LINK_S:.0f} s: {error.reason(host.name)}"
                raise UnreachableError(why, hint=f"pool doctor {host.name}", host=host.name) from error
        time.sleep(0.2)


def _with_leftover(ctx: Context, host: Host, error: PoolError) -> PoolError:
    """The error; where a package manager was left at work on the host, that is said: it must not be killed."""
    if not isinstance(error, HostError) or isinstance(error, UnreachableError):
        return error
    seen: Survey | None = None
    with contextlib.suppress(Exception):  # what is wrong with the host is told already
        seen = look_closely(ctx, host)[1]
    if seen is None or not seen.package_manager:
        return error
    more = f"; {seen.package_manager} goes on there, and the next try waits for it"
    return type(error)(error.message + more, hint=error.hint, **error.details)


def _no_root(found: Preflight) -> str:
    """What a person should know who expected a system service and gets none."""
    why = {"password": "sudo asks for a password", "none": "there is no sudo"}.get(found.sudo)
    return f"{why}, so the runner will be a process of {found.user}" if why and found.scope == "user" else ""


def _table(steps: Sequence[Step]) -> str:
    what, there = _COLUMNS
    return "\n".join(f"{each.what:<{what}} {each.there:<{there}}  {each.todo}".rstrip() for each in steps)
