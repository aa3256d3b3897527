"""What is shown of a playbook: steps with their role, what takes long, what a dry run would change, the last step."""

from __future__ import annotations

from typing import Any

from pool.provision.progress import LAST, Progress, StepEvent
from pool.ssh.destination import Target

TASK = {"host": "gpu1", "task": "Write the settings.", "task_action": "ansible.builtin.template", "role": "docker"}


def shown(*events: tuple[str, dict[str, Any]]) -> list[StepEvent]:
    """What a person is told of these events."""
    told: list[StepEvent] = []
    progress = Progress([Target("gpu1", "10.0.0.7", 22, "ubuntu", "/key")], "/log", told.append)
    for kind, data in events:
        progress.take({"event": kind, "event_data": TASK | data})
    return told


def test_a_step_has_the_role_it_is_of() -> None:
    """Started, waited for, ended: the same step of the same role."""
    poll = ("runner_on_async_poll", {"task": "async_status"})
    told = shown(("runner_on_start", {}), poll, ("runner_on_ok", {"res": {"changed": True}}))
    assert [event.status for event in told] == ["started", "waiting", "changed"]
    assert {(event.step, event.role) for event in told} == {("Write the settings", "docker")}


def test_what_a_dry_run_would_change() -> None:
    """A unified diff, bounded and printable; of a folder the states; nothing of what would stay."""
    diff = {"before": "a\nb\n", "after": "a\n\x1b[2Jc\n", "after_header": "/etc/docker/daemon.json"}
    said = shown(("runner_on_ok", {"res": {"changed": True, "diff": diff}}))[0].message
    assert said.splitlines() == ["--- before", "+++ /etc/docker/daemon.json", "@@ -1,2 +1,2 @@", " a", "-b", "+?[2Jc"]
    state = {"before": {"state": "absent", "path": "/x"}, "after": {"state": "directory", "path": "/x"}}
    assert "+state: directory" in shown(("runner_on_ok", {"res": {"changed": True, "diff": [state]}}))[0].message
    assert shown(("runner_on_ok", {"res": {"changed": False, "diff": diff}}))[0].message == ""
    long = {"before": "", "after": "".join(f"{line}\n" for line in range(1000))}
    rows = shown(("runner_on_ok", {"res": {"changed": True, "diff": long}}))[0].message.splitlines()
    assert (len(rows), rows[-1]) == (41, "…")


def test_what_only_arranges_is_silent_unless_it_speaks() -> None:
    """An include is not shown; a message for people is."""
    include = {"task_action": "ansible.builtin.include_tasks"}
    assert shown(("runner_on_start", include), ("runner_on_ok", include | {"res": {"changed": False}})) == []
    speaks = {"task_action": "ansible.builtin.debug", "res": {"msg": "no card: left out"}}
    assert [event.message for event in shown(("runner_on_ok", speaks))] == ["no card: left out"]


def test_what_serves_other_roles_is_shown_while_it_is_at_work() -> None:
    """The journal and the look at the host come many times: their ends are told only when they are failures."""
    for role in ("look", "journal"):
        serving = {"role": role, "task_action": "ansible.builtin.command"}
        ended: list[tuple[str, dict[str, Any]]] = [("runner_on_ok", serving | {"res": {"changed": True}})]
        assert [event.status for event in shown(("runner_on_start", serving), *ended)] == ["started"]
        assert [event.status for event in shown(("runner_on_failed", serving | {"res": {"msg": "no"}}))] == ["failed"]


def test_a_host_is_handed_over_while_others_go_on() -> None:
    """The last step of the playbook says `done`, and counts as the host's end even when the run is then cancelled."""
    told: list[StepEvent] = []
    targets = [Target(name, "10.0.0.7", 22, "ubuntu", "/key") for name in ("gpu1", "gpu2")]
    progress = Progress(targets, "/log", told.append)
    last = {"host": "gpu1", "task": LAST, "task_action": "ansible.builtin.debug", "res": {"msg": "done"}}
    progress.take({"event": "runner_on_ok", "event_data": last})
    assert [(event.host, event.status) for event in told] == [("gpu1", "done")]
    outcomes = progress.outcomes("canceled")
    assert (outcomes["gpu1"].ok, outcomes["gpu2"].ok) == (True, False)


def test_a_step_that_failed_and_was_rescued() -> None:
    """Shown as failed; the host's outcome is that of the play."""
    told: list[StepEvent] = []
    progress = Progress([Target("gpu1", "10.0.0.7", 22, "ubuntu", "/key")], "/log", told.append)
    progress.take({"event": "runner_on_failed", "event_data": TASK | {"res": {"msg": "it is down"}}})
    progress.take({"event": "playbook_on_stats", "event_data": {"ok": {"gpu1": 1}, "processed": {"gpu1": 1}}})
    assert [(event.status, event.role) for event in told] == [("failed", "docker")]
    assert progress.outcomes("successful")["gpu1"].ok
