"""Provisioning real hosts: bare to served, again without a change, upgraded, undone; and each way it can fail."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pool.errors import (
    AuthenticationError,
    DiskFullError,
    HostError,
    HostKeyError,
    ProvisionError,
    PythonMissingError,
    SudoError,
    UnreachableError,
)
from pool.lab import loopback, processes
from pool.lab.loopback import LabHost
from pool.provision.inventory import runner_variables
from pool.provision.playbook import content, run_playbook
from pool.provision.preflight import preflight
from pool.provision.progress import Outcome, StepEvent
from pool.provision.zipapp import build_runner
from pool.ssh import connection, host_keys
from pool.ssh.destination import Target
from tests.conftest import REPOSITORY, pinned
from tests.e2e.conftest import Ssh

PYTHON = "/usr/bin/python3"
#: The folders that are made on a bare host, below ~/.local.
MADE = ("", "/bin", "/state", "/lib", "/lib/pool-runner")


class Site:
    """Bare hosts of a lab, pinned, and a way to run playbooks on them."""

    def __init__(self, root: str, folder: Path, hosts: int) -> None:
        self.folder, self.root = folder, root
        self.hosts = loopback.up(hosts, root=root)
        self.known_hosts = str(folder / "known_hosts")
        self.log = str(folder / "log" / "ansible.log")
        self.zipapp = str(folder / "runner.pyz")
        self.events: list[StepEvent] = []
        build_runner(self.zipapp)
        self.targets = [pinned(self.known_hosts, host) for host in self.hosts]

    def variables(self, target: Target) -> dict[str, Any]:
        """What the preflight finds."""
        with connection.connect(target, self.known_hosts) as made:
            found = preflight(target.name, functools.partial(connection.exec, made))
        assert found.scope == "user"
        digest = hashlib.sha256(Path(self.zipapp).read_bytes()).hexdigest()
        return dict(runner_variables(found, self.zipapp, sha256=digest))

    def play(self, playbook: str, **options: Any) -> dict[str, Outcome]:
        """Run one of the product's playbooks, or a file, on all hosts."""
        self.events.clear()
        targets = options.pop("targets", self.targets)
        variables = {t.name: self.variables(t) for t in targets} if playbook.endswith("host.yml") else {}
        given = options.pop("variables", None)
        for host in self.hosts:
            ours = {"runner_scope": "user", "runner_home": host.home, "ansible_python_interpreter": PYTHON}
            variables.setdefault(host.name, ours).update(given or {})
        arguments = {"known_hosts": self.known_hosts, "log": self.log, "on_event": self.events.append, **options}
        return run_playbook(playbook, targets, variables=variables, **arguments)

    def one_task(self, task: str, **options: Any) -> Outcome:
        """Run one task on all hosts; the first host's outcome."""
        path = self.folder / "task.yml"
        path.write_text(
            "- name: A play\n  hosts: all\n  gather_facts: false\n  strategy: free\n  tasks:\n    - name: It.\n"
            + "".join(f"      {line}\n" for line in task.strip().splitlines())
        )
        return self.play(str(path), **options)["gpu1"]


@pytest.fixture
def site(session_dir: str, tmp_path: Path) -> Iterator[Site]:
    """One host of this test's own."""
    root = os.path.join(session_dir, "site")
    yield Site(root, tmp_path, 1)
    loopback.down(root)


@pytest.fixture
def pair(session_dir: str, tmp_path: Path) -> Iterator[Site]:
    """Two hosts of this test's own."""
    root = os.path.join(session_dir, "site")
    yield Site(root, tmp_path, 2)
    loopback.down(root)


def tree(home: str) -> set[str]:
    """Every path below a home."""
    return {
        os.path.relpath(os.path.join(folder, name), home)
        for folder, folders, files in os.walk(home)
        for name in folders + files
    }


@pytest.fixture(autouse=True)
def runs(session_dir: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder where runs make theirs; empty before and after each test."""
    path = Path(session_dir, "run")
    path.mkdir(mode=0o700, exist_ok=True)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(path))
    assert list(path.iterdir()) == []
    return path


def status(ssh: Ssh, host: LabHost) -> subprocess.CompletedProcess[str]:
    """What the runner's own command says."""
    return ssh(host, ".local/bin/pool-runner status")


def test_bare_host_to_served_and_back(pair: Site, ssh: Ssh) -> None:
    """add: the runner serves; again: nothing changes; newer program: restarted; remove: the home is as it was."""
    before = {host.name: tree(host.home) for host in pair.hosts}
    first = pair.play("host.yml")
    assert {name: (o.ok, o.error) for name, o in first.items()} == {"gpu1": (True, None), "gpu2": (True, None)}
    assert all(outcome.changed == 4 for outcome in first.values()), first
    pids = []
    for host in pair.hosts:
        done = status(ssh, host)
        assert done.returncode == 0, done
        assert '"running": true' in done.stdout
        pids.append(done.stdout)
    assert "Copy the program" in {event.step for event in pair.events if event.status == "changed"}

    again = pair.play("host.yml")
    assert {name: (o.ok, o.changed) for name, o in again.items()} == {"gpu1": (True, 0), "gpu2": (True, 0)}
    assert [status(ssh, host).stdout for host in pair.hosts] == pids

    with zipfile.ZipFile(pair.zipapp, "a") as archive:
        archive.comment = b"newer"
    upgraded = pair.play("runner.yml", variables={"runner_zipapp": pair.zipapp, "runner_python": PYTHON})
    assert [(o.ok, o.changed) for o in upgraded.values()] == [(True, 2), (True, 2)], upgraded
    after = [status(ssh, host) for host in pair.hosts]
    assert all(done.returncode == 0 for done in after)
    assert [done.stdout for done in after] != pids

    for _ in range(2):
        removed = pair.play("remove.yml")
        assert all(outcome.ok for outcome in removed.values()), removed
        assert {host.name: tree(host.home) for host in pair.hosts} == before
    assert all(outcome.changed == 0 for outcome in removed.values())


#: The step that tells whether anything of the runner differs.
COMPARE = "Compare what is there with what shall be"
DAMAGES = {
    "the command is gone": "rm .local/bin/pool-runner",
    "the command is another": "echo >> .local/bin/pool-runner",
    "the program is another": "echo >> .local/lib/pool-runner/runner.pyz",
    "the program is closed": "chmod 600 .local/lib/pool-runner/runner.pyz",
    "the program is newer than the runner": "touch .local/lib/pool-runner/runner.pyz",
    "the runner is ended": ".local/bin/pool-runner stop",
}


def test_a_whole_host_takes_one_step_and_any_damage_is_mended(site: Site, ssh: Ssh) -> None:
    """One step tells that nothing differs; whatever differs is seen to, and then one step is enough again."""
    host = site.hosts[0]
    assert site.play("host.yml")["gpu1"].ok
    for damage, command in DAMAGES.items():
        assert ssh(host, command).returncode == 0, damage
        mended = site.play("host.yml")["gpu1"]
        assert (mended.ok, mended.changed > 0) == (True, True), (damage, mended)
        assert '"running": true' in status(ssh, host).stdout, damage
    again = site.play("host.yml")["gpu1"]
    assert (again.ok, again.changed) == (True, 0), again
    assert [event.step for event in site.events if event.status == "ok"] == [COMPARE]


def test_only_what_was_made_is_removed(site: Site) -> None:
    """Folders that were there before stay, also empty ones, and so does whatever a person put beside."""
    home = Path(site.hosts[0].home)
    (home / ".local" / "lib").mkdir(parents=True)
    (home / ".local" / "bin").mkdir()
    (home / ".local" / "bin" / "mine").touch()
    assert all(outcome.ok for outcome in site.play("host.yml").values())
    (home / ".local" / "state" / "mine").touch()
    assert all(outcome.ok for outcome in site.play("remove.yml").values())
    left = tree(str(home))
    assert {".local/lib", ".local/bin/mine", ".local/state/mine"} <= left
    assert not any("pool" in path for path in left)


def test_a_dry_run_changes_nothing(site: Site) -> None:
    """`check` on a bare host and on a served one: no failure, no change."""
    bare = {host.name: tree(host.home) for host in site.hosts}
    assert all(outcome.ok for outcome in site.play("host.yml", check=True).values())
    assert {name: paths - {".pool-ansible"} for name, paths in _trees(site).items()} == bare
    folders = next(event.message for event in site.events if event.step == "Say which folders would be made")
    assert folders.split()[2:] == [f"{site.hosts[0].home}/.local{path}" for path in MADE]
    assert all(outcome.ok for outcome in site.play("host.yml").values())
    served = _trees(site)
    assert all((o.ok, o.changed) == (True, 0) for o in site.play("host.yml", check=True).values())
    assert _trees(site) == served


def _trees(site: Site) -> dict[str, set[str]]:
    return {host.name: tree(host.home) for host in site.hosts}


def test_an_interrupted_run_converges(site: Site, ssh: Ssh) -> None:
    """Stopped after the program was copied, run again: it ends served, and the newer program is the one that runs."""
    assert all(outcome.ok for outcome in site.play("host.yml").values())
    old = status(ssh, site.hosts[0]).stdout
    with zipfile.ZipFile(site.zipapp, "a") as archive:
        archive.comment = b"newer"

    def copied() -> bool:
        return any((e.step, e.status) == ("Copy the program", "changed") for e in site.events)

    stopped = site.play("host.yml", cancelled=copied)
    assert not all(outcome.ok for outcome in stopped.values())
    done = site.play("host.yml")
    assert all(outcome.ok for outcome in done.values()), done
    assert status(ssh, site.hosts[0]).stdout != old
    assert all(outcome.changed == 0 for outcome in site.play("host.yml").values())


def test_one_bad_host_does_not_hold_up_the_other(pair: Site, tmp_path: Path) -> None:
    """Unreachable, refused key, wrong host key: each its own error with step and hint; the other host is done."""
    key = str(tmp_path / "other")
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True, timeout=30)
    good, bad = pair.targets[1], pair.targets[0]
    wrong = str(tmp_path / "wrong")
    shutil.copy(pair.known_hosts, wrong)
    host_keys.pin(wrong, bad.address, bad.port, connection.paramiko.PKey.from_path(key))
    cases: list[tuple[Target, str, type[HostError]]] = [
        (replace(bad, port=1), pair.known_hosts, UnreachableError),
        (replace(bad, key=key), pair.known_hosts, AuthenticationError),
        (bad, wrong, HostKeyError),
        (bad, str(tmp_path / "empty"), HostKeyError),
    ]
    task = pair.folder / "t.yml"
    task.write_text("- hosts: all\n  gather_facts: false\n  tasks:\n    - name: It.\n      ansible.builtin.ping:\n")
    for target, known_hosts, expected in cases:
        outcomes = pair.play(str(task), targets=[target, good], known_hosts=known_hosts)
        error = outcomes["gpu1"].error
        assert type(error) is expected, outcomes
        assert (error.details["step"], error.details["log"]) == ("It", pair.log)
        assert error.hint
        if known_hosts != str(tmp_path / "empty"):
            assert outcomes["gpu2"].ok
    assert host_keys.lookup(str(tmp_path / "empty"), bad.address, bad.port) is None


def test_failures_of_a_step(site: Site) -> None:
    """Disk full, no Python, sudo that asks, a plain failure: real programs' words, our errors."""
    full = site.one_task("ansible.builtin.command: dd if=/dev/zero of=/dev/full count=1")
    assert type(full.error) is DiskFullError
    python = site.one_task("ansible.builtin.ping:", variables={"ansible_python_interpreter": "/no/python3"})
    assert type(python.error) is PythonMissingError
    other = site.one_task("ansible.builtin.command: sh -c 'echo went wrong >&2; exit 3'")
    assert type(other.error) is ProvisionError
    assert other.error.message == "gpu1: It: went wrong"
    assert other.error.hint == f"less {site.log}"
    assert "went wrong" in Path(site.log).read_text()
    for words in ("sudo: a password is required", "ubuntu is not in the sudoers file."):
        for host in site.hosts:
            sudo = Path(host.home).parent / "bin" / "sudo"
            sudo.write_text(f"#!/bin/sh\necho '{words}' >&2\nexit 1\n")
            sudo.chmod(0o755)
        asked = site.one_task("ansible.builtin.command: id\nbecome: true\nbecome_user: nobody")
        assert type(asked.error) is SudoError, asked


def test_a_playbook_that_is_none(site: Site) -> None:
    """A playbook that Ansible cannot read is told with Ansible's reason, for every host."""
    outcome = site.one_task("no.such.module: {}")
    assert isinstance(outcome.error, ProvisionError)
    assert "no.such.module" in outcome.error.message


def test_cancel_and_timeout_leave_nothing(site: Site, runs: Path) -> None:
    """Given up within seconds; no process, connection or folder of the run stays here, and no step on the host."""
    task = "ansible.builtin.command: sleep 808"
    begun: list[float] = []

    def cancelled() -> bool:
        """From a moment after the task has begun on the host."""
        if not begun and any(event.step == "It" for event in site.events):
            begun.append(time.monotonic())
        return bool(begun) and time.monotonic() - begun[0] > 1

    late = site.one_task(task, cancelled=cancelled)
    assert time.monotonic() - begun[0] < 15
    assert isinstance(late.error, ProvisionError)
    assert "interrupted during: It" in late.error.message
    slow = site.one_task(task, timeout_s=2)
    assert slow.error is not None
    assert "took too long" in slow.error.message
    assert list(runs.iterdir()) == []
    deadline = time.monotonic() + 30
    while (left := _commands("ansible-playbook", site.root)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert left == []
    assert _commands("sleep 808", site.root) == []


def test_a_package_manager_is_not_torn_out_of_its_work(site: Site, tmp_path: Path) -> None:
    """What would be half installed goes on, and the step that started it."""
    shutil.copy(shutil.which("sleep") or "", tmp_path / "dpkg")
    task = f"ansible.builtin.command: {tmp_path}/dpkg 20"
    given_up = site.one_task(task, cancelled=lambda: bool(_commands("dpkg 20", site.root)))
    assert given_up.error is not None
    assert len(_commands("dpkg 20", site.root)) == 1


def _commands(word: str, root: str) -> list[str]:
    """Commands that hold `word`, of this machine's processes of the run and of the lab."""
    found = []
    for pid in {*processes.belonging(root), *_children(os.getpid())}:
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if word in command:
            found.append(command)
    return found


def _children(pid: int) -> set[int]:
    done = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=False)
    return {int(word) for word in done.stdout.split()}


def test_nothing_of_the_person_gets_in(site: Site, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable, ansible.cfg or known_hosts of the person counts, and a secret of theirs reaches no file."""
    monkeypatch.setenv("CANARY", "canary-7f3a")
    monkeypatch.setenv("ANSIBLE_HOST_KEY_CHECKING", "False")
    monkeypatch.setenv("ANSIBLE_SSH_ARGS", "-o StrictHostKeyChecking=no")
    monkeypatch.setenv("ANSIBLE_CHECK_MODE_MARKERS", "True")
    monkeypatch.setenv("ANSIBLE_FORKS", "nonsense")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ansible.cfg").write_text("[defaults]\nforks = nonsense\nhost_key_checking = False\n")
    seen: list[str] = []

    def look(event: StepEvent) -> None:
        for run in runs.iterdir():
            assert run.stat().st_mode & 0o077 == 0
        for folder, _, files in os.walk(runs):
            seen.extend(f"ansible file {name}" for name in files if b"canary-7f3a" in Path(folder, name).read_bytes())
        for pid in _children(os.getpid()):
            with contextlib.suppress(OSError):
                if b"canary-7f3a" in Path(f"/proc/{pid}/environ").read_bytes() and pid != os.getpid():
                    seen.append(Path(f"/proc/{pid}/cmdline").read_bytes().decode())

    task = "ansible.builtin.debug:\n  msg: \"<{{ lookup('env', 'CANARY') }}>\""
    assert site.one_task(task, on_event=look).ok
    assert [what for what in seen if "ansible" in what] == []
    assert "<>" in Path(site.log).read_text()
    assert "canary-7f3a" not in Path(site.log).read_text()
    host_keys.forget(site.known_hosts, site.hosts[0].address, site.hosts[0].port)
    assert isinstance(site.one_task("ansible.builtin.ping:").error, HostKeyError)


def test_signals_are_left_alone(site: Site) -> None:
    """Ctrl-C is the caller's after a run, also one from the main thread."""
    assert threading.current_thread() is threading.main_thread()
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    assert site.one_task("ansible.builtin.ping:").ok
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_runs_that_were_killed_are_swept(site: Site, runs: Path) -> None:
    """The folder of a run whose process was killed goes with the next run; that of a live one stays."""
    dead, live = runs / "pool-ansible-dead", runs / "pool-ansible-live"
    for folder in (dead, live):
        (folder / "c").mkdir(parents=True)
        (folder / "lock").touch()
    with (live / "lock").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert site.one_task("ansible.builtin.ping:").ok
        assert not dead.exists()
        assert live.exists()
    shutil.rmtree(live)


def test_the_playbooks_run_alone(site: Site, ssh: Ssh) -> None:
    """`ansible-playbook -i inventory playbooks/host.yml`, without pool: builds the program, asks for the home."""
    lines = [
        f"{t.name} ansible_host={t.address} ansible_port={t.port} ansible_user={t.user} "
        f"ansible_ssh_private_key_file={t.key} runner_scope=user"
        for t in site.targets
    ]
    inventory = site.folder / "inventory.ini"
    inventory.write_text("[gpu]\n" + "\n".join(lines) + f"\n[all:vars]\nansible_python_interpreter={PYTHON}\n")
    env = {k: v for k, v in os.environ.items() if not k.startswith(("ANSIBLE_", "PYTHONPATH"))} | {
        "ANSIBLE_SSH_ARGS": f"-F none -o ControlMaster=no -o UserKnownHostsFile={site.known_hosts}",
        "ANSIBLE_HOME": str(site.folder / "ansible"),
        "ANSIBLE_REMOTE_TMP": "$HOME/.pool-ansible",
        "PATH": f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}",
    }
    before = _trees(site)
    for playbook in ("host.yml", "remove.yml"):
        argv = ["ansible-playbook", "-i", str(inventory), f"playbooks/{playbook}"]
        done = subprocess.run(argv, cwd=REPOSITORY, env=env, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert all((status(ssh, host).returncode == 0) == (playbook == "host.yml") for host in site.hosts)
    assert _trees(site) == before


def test_the_example_inventory_reads(tmp_path: Path) -> None:
    """The inventory that people copy is one, and every playbook is sound for it."""
    path = f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"
    env = os.environ | {"PATH": path, "ANSIBLE_HOME": str(tmp_path)}
    for playbook in sorted(os.listdir(os.path.join(content(), "playbooks"))):
        if playbook.endswith(".yml"):
            argv = ["ansible-playbook", "-i", "inventory.example.ini", f"playbooks/{playbook}", "--syntax-check"]
            done = subprocess.run(
                argv, cwd=REPOSITORY, env=env, capture_output=True, text=True, timeout=60, check=False
            )
            assert done.returncode == 0, done.stderr
            assert "WARNING" not in done.stderr
            lines = (REPOSITORY / "playbooks" / playbook).read_text().splitlines()
            assert len(lines) < 60
