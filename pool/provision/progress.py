"""Follows one playbook: turns ansible-runner's events into steps a person can read, and into each host's outcome."""

from __future__ import annotations

import difflib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from pool.errors import HostError, ProvisionError
from pool.provision.failure import classify, first_line
from pool.provision.openssh import Target

#: Actions that only arrange others or settle what is done: shown when they fail, or have something to say.
_SILENT: Final = frozenset(
    f"{prefix}{name}"
    for prefix in ("", "ansible.builtin.")
    for name in (
        *("include_tasks", "include_role", "import_tasks", "include_vars", "meta", "validate_argument_spec"),
        *("set_fact", "assert", "debug"),
    )
)
#: Roles that serve others, and are run again and again: shown while they are at work and when they fail.
_SERVING: Final = frozenset({"look", "journal"})
#: The step with which a playbook says that it is through with a host, while it goes on with others.
LAST: Final = "Hand the host over"
#: Of what a step of a dry run would change, no more lines than this are shown.
_LINES_MAX: Final = 40


@dataclass(frozen=True, slots=True)
class StepEvent:
    """One step of one host, as it happens."""

    host: str
    step: str
    status: str  #: started | waiting | ok | changed | skipped | failed | unreachable | done (the host's last step)
    seconds: float  #: how long it took; while it is waited for, how long it has been so far
    message: str = ""  #: why, when it failed; what would change, of a dry run; else what is worth knowing
    role: str = ""  #: the role that the step is of


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a playbook ended on one host."""

    host: str
    ok: bool
    changed: int  #: steps that changed something
    step: str | None  #: the step that failed
    error: HostError | None
    log: str  #: path of the whole log of the run


@dataclass
class _Host:
    began: float = 0.0
    changed: int = 0
    step: str | None = None  #: the last that was started
    failed: HostError | None = None
    done: bool = False


@dataclass
class Progress:
    """The state of a playbook on all its hosts; `take` one event at a time, then ask for `outcomes`."""

    targets: Sequence[Target]
    log: str
    on_event: Callable[[StepEvent], None]
    _hosts: dict[str, _Host] = field(default_factory=dict)
    _said: list[str] = field(default_factory=list)
    _ended: bool = False

    def __post_init__(self) -> None:
        self._hosts = {target.name: _Host() for target in self.targets}

    def take(self, event: Mapping[str, Any]) -> None:
        """Take in one event of ansible-runner; unknown ones are passed over."""
        kind, data = str(event.get("event")), event.get("event_data") or {}
        if kind == "playbook_on_stats":
            self._stats(data)
        elif kind in ("verbose", "error") and str(event.get("stdout", "")).startswith(("ERROR", "[ERROR")):
            self._said.append(str(event["stdout"]))
        host = self._hosts.get(str(data.get("host")))
        if host is None:
            return
        name, step, role = str(data["host"]), _step(data), str(data.get("role") or "")
        silent = data.get("task_action") in _SILENT
        if kind == "runner_on_start" and not silent:
            host.step, host.began = step, time.monotonic()
            self.on_event(StepEvent(name, step, "started", 0.0, "", role))
        elif kind == "runner_on_async_poll":
            waited = round(time.monotonic() - host.began, 1)  # Ansible names this one for the module that polls
            self.on_event(StepEvent(name, host.step or step, "waiting", waited, "", role))
        elif kind == "runner_on_ok" and step == LAST:
            host.done = True
            self.on_event(StepEvent(name, step, "done", _seconds(data)))
        elif kind in ("runner_on_ok", "runner_on_skipped"):
            result = data.get("res") or {}
            changed = kind == "runner_on_ok" and bool(result.get("changed"))
            host.changed += changed
            said = _said(data, result) if kind == "runner_on_ok" else ""
            if said or not (silent or role in _SERVING):
                status = "changed" if changed else kind.removeprefix("runner_on_")
                self.on_event(StepEvent(name, step, status, _seconds(data), said, role))
        elif kind in ("runner_on_failed", "runner_on_unreachable"):
            self._failed(name, host, step, data, unreachable=kind == "runner_on_unreachable")

    def outcomes(self, ended: str) -> dict[str, Outcome]:
        """How each host ended; `ended` says why the run as a whole did: successful, failed, canceled or timeout."""
        return {name: self._outcome(name, host, ended) for name, host in self._hosts.items()}

    def _outcome(self, name: str, host: _Host, ended: str) -> Outcome:
        error = host.failed
        if error is None and not host.done:
            error = self._unfinished(name, host, ended)
        step = str(error.details.get("step") or "") or host.step if error else None
        return Outcome(name, error is None, host.changed, step, error, self.log)

    def _unfinished(self, name: str, host: _Host, ended: str) -> HostError:
        at = f" during: {host.step}" if host.step else " before the first step"
        if ended == "canceled":
            message = f"{name}: interrupted{at}"
        elif ended == "timeout":
            message = f"{name}: it took too long; stopped{at}"
        elif self._said:
            message = f"{name}: Ansible could not run: {first_line(self._said[0].split('ERROR', 1)[1].lstrip(']!: '))}"
        else:
            message = f"{name}: Ansible ended early,{at.removeprefix(' ') if self._ended else at}"
        return ProvisionError(message, hint=f"less {self.log}", host=name, step=host.step, log=self.log)

    def _failed(self, name: str, host: _Host, step: str, data: Mapping[str, Any], *, unreachable: bool) -> None:
        if data.get("ignore_errors"):
            self.on_event(StepEvent(name, step, "ok", _seconds(data), "", str(data.get("role") or "")))
            return
        target = next(t for t in self.targets if t.name == name)
        host.failed = classify(
            name,
            step,
            data.get("res") or {},
            unreachable=unreachable,
            log=self.log,
            address=target.address,
            port=target.port,
            user=target.user,
        )
        status = "unreachable" if unreachable else "failed"
        role = str(data.get("role") or "")
        self.on_event(StepEvent(name, step, status, _seconds(data), host.failed.message, role))

    def _stats(self, data: Mapping[str, Any]) -> None:
        self._ended = True
        bad = {*(data.get("failures") or {}), *(data.get("dark") or {})}
        for name in {*(data.get("processed") or {}), *(data.get("ok") or {})} & set(self._hosts):
            host = self._hosts[name]
            if name not in bad:
                host.done, host.failed = True, None  # a step that failed was rescued


def _step(data: Mapping[str, Any]) -> str:
    return first_line(str(data.get("task") or data.get("play") or "connecting")).rstrip(".")


def _seconds(data: Mapping[str, Any]) -> float:
    duration = data.get("duration")
    return round(float(duration), 3) if isinstance(duration, int | float) else 0.0


def _said(data: Mapping[str, Any], result: Mapping[str, Any]) -> str:
    """What a step has to say to a person: the words of one that is there for that; of a dry run, what would change."""
    if str(data.get("task_action")).endswith("debug"):
        return first_line(result["msg"]) if isinstance(result.get("msg"), str) else ""
    return _difference(result) if result.get("changed") else ""


def _difference(result: Mapping[str, Any]) -> str:
    """What would change, as `diff` shows it; nothing when Ansible was not asked for it."""
    lines: list[str] = []
    for one in (result, *(item for item in result.get("results") or () if isinstance(item, Mapping))):
        found: Any = one.get("diff") or []
        for diff in found if isinstance(found, list) else [found]:
            before, after = _text_of(diff.get("before")), _text_of(diff.get("after"))
            header = str(diff.get("after_header") or diff.get("before_header") or "")
            compared = list(difflib.unified_diff(before, after, "before", header or "after", lineterm="", n=1))
            lines += compared or str(diff.get("prepared") or "").splitlines()
    shown = ["".join(c if c.isprintable() else "?" for c in line) for line in lines[:_LINES_MAX]]
    return "\n".join(shown + (["…"] if len(lines) > _LINES_MAX else []))


def _text_of(value: Any) -> list[str]:
    if isinstance(value, Mapping):
        return [f"{key}: {value[key]}" for key in sorted(value)]
    return str(value or "").splitlines()
