"""Provisioning against Ansible alone and an empty play: a host again, eight at once against one, a new host."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from benchmarks.command import run, timed_run
from benchmarks.row import Measure, Row, Target, timed
from benchmarks.world import REPOSITORY, World, Worlds
from pool.provision.inventory import inventory, runner_variables, ssh_arguments
from pool.provision.playbook import run_playbook
from pool.provision.preflight import Preflight, preflight
from pool.provision.progress import Outcome
from pool.provision.survey import left_out
from pool.provision.zipapp import build_runner
from pool.ssh import connection
from pool.ssh.destination import Target as Place

_EMPTY = [{"hosts": "all", "gather_facts": False, "tasks": [{"ansible.builtin.ping": {}}]}]


def rows(worlds: Worlds) -> Iterator[Row]:
    world = worlds.of(8)
    plays = _Plays(world)
    alone = timed(lambda: plays.ours(1))
    yield Row(
        "playbooks/host.yml again, one host",
        alone,
        {"plain `ansible-playbook`": timed(lambda: plays.plain("host.yml", 1))},
        Target(1.1),
        runs=9,
    )
    yield Row("the same on 8 hosts", timed(lambda: plays.ours(8)), {"one host": alone}, Target(2), runs=9)
    again = timed_run(world.argv("provision", world.hosts[0]["name"], "-y"), env=world.env)
    yield Row(
        "`pool provision` of a provisioned host, plan and job included",
        again,
        {"an empty play": timed(lambda: plays.plain(plays.empty, 1))},
        Target(12),
        runs=7,
    )
    world.pool("rm", world.hosts[0]["name"], "-y")
    yield Row(
        "playbooks/host.yml, a new host (the runner alone)",
        plays.on_new_host(lambda: plays.ours(1, changes=True)),
        {"plain `ansible-playbook`": plays.on_new_host(lambda: plays.plain("host.yml", 1))},
        Target(1.1),
        runs=5,
    )


class _Plays:
    """The same steps on the same hosts with the same variables, by us and by `ansible-playbook`."""

    def __init__(self, world: World) -> None:
        self._world = world
        # A copy: the pool forgets the key of a host that it removes.
        self._pins = shutil.copy(os.path.join(world.state, "known_hosts"), world.folder)
        self._targets = [Place(h["name"], h["address"], h["port"], h["user"], h["key"]) for h in world.hosts]
        zipapp = os.path.join(world.folder, "runner.pyz")
        digest = build_runner(zipapp)
        found = {target.name: self._look(target) for target in self._targets}
        self._variables = {name: dict(runner_variables(each, zipapp, sha256=digest)) for name, each in found.items()}
        self._skip = sorted(frozenset.intersection(*map(left_out, found.values())) | {"dry_run"})
        self.empty = self._write("empty.yml", _EMPTY)

    def ours(self, count: int, *, changes: bool = False) -> None:
        """As the server does it; whether anything changes must be so."""
        outcomes = self._run("host.yml", count)
        assert all(outcome.ok and bool(outcome.changed) == changes for outcome in outcomes.values()), outcomes

    def on_new_host(self, work: Callable[[], None]) -> Measure:
        """Milliseconds of `work` alone, on the first host with nothing of pool on it."""

        def once() -> float:
            self._run("remove.yml", 1)
            return timed(work)()

        return once

    def plain(self, playbook: str, count: int) -> None:
        """As a person does it, with this repository's ansible.cfg; no connection of the last time is left open."""
        hosts = self._write("inventory.json", inventory(self._targets[:count], self._variables))
        path = os.path.join(REPOSITORY, "playbooks", playbook)
        env = self._world.env | {
            "ANSIBLE_SSH_ARGS": ssh_arguments(self._pins, own_key=True),
            "ANSIBLE_SSH_CONTROL_PATH_DIR": tempfile.mkdtemp(dir=self._world.folder),
        }
        run(["ansible-playbook", "-i", hosts, path, "--skip-tags", ",".join(self._skip)], env=env, cwd=REPOSITORY)

    def _run(self, playbook: str, count: int) -> dict[str, Outcome]:
        return run_playbook(
            playbook,
            self._targets[:count],
            known_hosts=self._pins,
            log=os.path.join(self._world.folder, "ansible.log"),
            variables=self._variables,
            on_event=lambda _: None,
            skip=self._skip,
        )

    def _look(self, target: Place) -> Preflight:
        with connection.connect(target, self._pins) as made:
            return preflight(target.name, partial(connection.exec, made))

    def _write(self, name: str, value: Any) -> str:
        path = os.path.join(self._world.folder, name)
        with open(path, "w", encoding="utf-8") as file:
            json.dump(value, file)
        return path
