"""Running playbooks: the same cases on the fake and on ansible-runner with real hosts."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pool.errors import DiskFullError, InputError, ProvisionError
from pool.lab.loopback import LabHost
from pool.provision.playbook import RunPlaybook, run_playbook
from pool.provision.progress import Outcome, StepEvent
from tests.conftest import REPOSITORY, pinned
from tests.fakes import FakePlaybook

PLAYBOOK = """
- name: A play
  hosts: all
  gather_facts: false
  strategy: free
  tasks:
    - name: First.
      ansible.builtin.command: "true"
    - name: Second.
      ansible.builtin.command: dd if=/dev/zero of={{ into }} count=1
      changed_when: false
      tags: [Second]
"""

Play = Callable[..., dict[str, Outcome]]


@pytest.fixture(params=["fake", "real"])
def play(request: pytest.FixtureRequest, lab: list[LabHost], tmp_path: Path) -> Play:
    """`play(failing=…)`: run two steps on both hosts of the lab; on those in `failing` the disk is full."""
    known_hosts = str(tmp_path / "known_hosts")
    targets = [pinned(known_hosts, host) for host in lab]
    path = tmp_path / "play.yml"
    path.write_text(PLAYBOOK)

    def run(*, failing: tuple[str, ...] = (), playbook: str = str(path), **options: object) -> dict[str, Outcome]:
        full = {name: ("Second", DiskFullError(f"{name}: Second: no room on the host")) for name in failing}
        fake = FakePlaybook(steps=("First", "Second"), changes=frozenset({"First"}), failures=full)
        chosen: RunPlaybook = fake if request.param == "fake" else run_playbook
        variables = {
            target.name: {
                "into": "/dev/full" if target.name in failing else "/dev/null",
                "ansible_python_interpreter": "/usr/bin/python3",
            }
            for target in targets
        }
        arguments = {
            "targets": targets,
            "known_hosts": known_hosts,
            "log": str(tmp_path / "log"),
            "variables": variables,
            "on_event": lambda event: None,
            **options,
        }
        return chosen(playbook, **arguments)  # type: ignore[arg-type]

    run.targets = targets  # type: ignore[attr-defined]
    return run


def test_every_host_takes_every_step(play: Play) -> None:
    """Each step is started and ended on each host, in order; the outcome counts what changed."""
    events: list[StepEvent] = []
    outcomes = play(on_event=events.append)
    assert set(outcomes) == {"gpu1", "gpu2"}
    for name, outcome in outcomes.items():
        assert (outcome.host, outcome.ok, outcome.changed, outcome.step, outcome.error) == (name, True, 1, None, None)
        assert [(e.step, e.status) for e in events if e.host == name] == [
            ("First", "started"),
            ("First", "changed"),
            ("Second", "started"),
            ("Second", "ok"),
        ]
    assert all(event.seconds > 0 for event in events if event.status != "started")


def test_steps_that_are_left_out(play: Play) -> None:
    """A step with a tag that is skipped is not taken, and nothing is told of it."""
    events: list[StepEvent] = []
    outcomes = play(failing=("gpu2",), skip={"Second"}, on_event=events.append)
    assert all(outcome.ok for outcome in outcomes.values())
    assert {event.step for event in events} == {"First"}


def test_one_host_fails(play: Play) -> None:
    """A failing host has its step and its cause in its outcome; the other is not held up."""
    events: list[StepEvent] = []
    outcomes = play(failing=("gpu2",), on_event=events.append)
    assert outcomes["gpu1"].ok
    bad = outcomes["gpu2"]
    assert (bad.ok, bad.changed, bad.step) == (False, 1, "Second")
    assert isinstance(bad.error, DiskFullError)
    assert "gpu2" in bad.error.message
    assert bad.log
    last = [event for event in events if event.host == "gpu2"][-1]
    assert (last.step, last.status, last.message) == ("Second", "failed", bad.error.message)


def test_cancelled(play: Play) -> None:
    """A run that is given up has an outcome for each host that says so."""
    outcomes = play(cancelled=lambda: True)
    for outcome in outcomes.values():
        assert not outcome.ok
        assert isinstance(outcome.error, ProvisionError)
        assert "interrupted" in outcome.error.message


def test_what_the_caller_raises_comes_out(play: Play) -> None:
    """An exception of `on_event` ends the run and is raised to the caller."""

    def broken(event: StepEvent) -> None:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        play(on_event=broken)


def test_values_that_may_not_be_given(play: Play) -> None:
    """A playbook that is none, and values that Ansible would expand, are refused before anything is run."""
    for options in (
        {"playbook": "no-such.yml"},
        {"playbook": "../host.yml"},
        {"variables": {"gpu1": {"x": "{{ 1 }}"}}},
        {"targets": [replace(play.targets[0], address="-oProxyCommand=id")]},  # type: ignore[attr-defined]
    ):
        with pytest.raises(InputError):
            play(**options)


def test_nobody(play: Play) -> None:
    """No host, nothing to do."""
    assert play(targets=[]) == {}


def test_several_at_once_from_other_threads(play: Play) -> None:
    """Runs do not share anything, and none needs the main thread."""
    found: list[dict[str, Outcome]] = []
    threads = [threading.Thread(target=lambda: found.append(play())) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert [all(outcome.ok for outcome in outcomes.values()) for outcomes in found] == [True, True]


_WHILE_IMPORTED = """
import importlib.metadata, sys, threading, time
from pool.errors import PoolError
from pool.provision.playbook import run_playbook
from pool.ssh.destination import Target

# ansible_runner's last act of being imported: the second run begins while the first is in it.
reached, found = threading.Event(), importlib.metadata.entry_points
def entry_points(**query):
    reached.set()
    time.sleep(0.5)
    return found(**query)
importlib.metadata.entry_points = entry_points

def play(log):
    target = Target("gpu1", "127.0.0.1", 1, "root", "/none")
    outcome = run_playbook(
        "host.yml", [target], known_hosts="/none", log=log, variables={}, on_event=lambda event: None
    )
    print(type(outcome["gpu1"].error).__name__)

first = threading.Thread(target=play, args=(sys.argv[1],))
first.start()
assert reached.wait(60)
play(sys.argv[2])
first.join()
"""


def test_a_run_may_begin_while_the_library_is_still_imported(tmp_path: Path) -> None:
    """The first two runs of a fresh server: both get as far as the host, which refuses."""
    argv = [sys.executable, "-c", _WHILE_IMPORTED, str(tmp_path / "one.log"), str(tmp_path / "two.log")]
    done = subprocess.run(argv, capture_output=True, text=True, cwd=REPOSITORY, timeout=120, check=False)
    assert done.stdout == "UnreachableError\nUnreachableError\n", done.stderr
