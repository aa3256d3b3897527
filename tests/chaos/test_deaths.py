"""Whoever dies between a person and a job: the job does not notice, and its end and log arrive as they are."""

from __future__ import annotations

import itertools
import os
import random
import threading
import time
from pathlib import Path

import pytest

from pool.errors import BlockedError
from pool.runner import durable, processes
from tests.chaos.world import Pool, World, kill, sha256
from tests.conftest import Result
from tests.runner_host import until

#: Counts aloud and in a file of its own, with the time, until it is told to end.
_COUNT = (
    'i=0; while [ ! -e "{end}" ]; do i=$((i+1)); echo "$i"; echo "$i $(date +%s%N)" >> "{beats}.$DSTACK_NODE_RANK"; '
    "sleep 0.1; done; exit 7"
)
#: A job that was held up for longer has noticed.
_GAP_S = 2.0


def test_a_run_outlives_everyone(world: World, pool: Pool, tmp_path: Path, rounds: int) -> None:
    """kill -9 of the CLI, the server, both runners, all ssh sessions, in turn and together, under a gang of two."""
    end, beats = tmp_path / "end", tmp_path / "beats"
    name = "outlives"
    assert pool.submit(name, [_COUNT.format(end=end, beats=beats)], nodes=2, gpu="1").rc == 0
    pool.until_shown(name, "running")
    attached = pool.cli.start("attach", name)
    followers = [pool.follow(name, rank, str(tmp_path / f"followed.{rank}")) for rank in range(2)]
    deaths = {
        "cli": lambda: kill([processes.identity(attached.pid)]) if attached.poll() is None else None,
        "server": pool.kill_server,
        "runners": world.kill_runners,
        "sessions": world.kill_sessions,
        "all": lambda: [harm() for harm in (pool.kill_server, world.kill_sessions, world.kill_runners)],
    }
    for _ in range(rounds):
        for harm in deaths.values():
            harm()
            pool.settle()
            pool.until_shown(name, "running")
    attached.communicate()
    end.touch()
    run = pool.end_of(name)
    assert (run["status"], run["exit_code"]) == ("failed", 7)
    for rank, job in enumerate(run["jobs"]):
        seen = [line.split() for line in Path(f"{beats}.{rank}").read_text().splitlines()]
        wanted = "".join(f"{number}\n" for number, _ in seen).encode()
        assert pool.log(name, rank) == wanted
        assert (job["log_bytes"], job["log_sha256"]) == (len(wanted), sha256(wanted))
        assert followers[rank].wait(60) == 0, followers[rank].communicate()
        assert Path(tmp_path / f"followed.{rank}").read_bytes() == wanted
        times = [int(at) / 1e9 for _, at in seen]
        assert max(after - before for before, after in itertools.pairwise(times)) < _GAP_S
    assert world.held() == {}


def test_a_killed_follower_starts_again_at_the_first_byte(
    world: World, pool: Pool, tmp_path: Path, seed: random.Random
) -> None:
    """Killed at any moment, and again: each time the bytes are a beginning of the log, and at last all of it."""
    script = "for i in $(seq 1 40); do seq $((i*1000)) $((i*1000+999)); sleep 0.05; done; head -c 1000000 /dev/zero"
    assert pool.submit("follower", [script]).rc == 0
    wanted = b"".join(b"%d\n" % number for number in range(1000, 41_000)) + bytes(1_000_000)
    for number in range(4):
        follower = pool.follow("follower", 0, str(tmp_path / str(number)))
        time.sleep(seed.uniform(0.1, 0.8))
        follower.kill()
        follower.communicate()
        assert wanted.startswith((tmp_path / str(number)).read_bytes())
    last = pool.follow("follower", 0, str(tmp_path / "last"))
    world.kill_sessions()
    assert last.wait(60) == 0
    assert sha256((tmp_path / "last").read_bytes()) == sha256(wanted)
    assert pool.end_of("follower")["jobs"][0]["log_sha256"] == sha256(wanted)


@pytest.mark.parametrize("who", ["server", "hosts", "anyone"])
def test_a_run_starts_once_wherever_they_die(
    world: World, pool: Pool, tmp_path: Path, seed: random.Random, rounds: int, who: str
) -> None:
    """20 times kill -9 of the server, 10 times of runners and sessions, 10 times of any, and on until four runs were
    submitted meanwhile: each ends well after exactly one start."""
    told: dict[str, Result] = {}
    over = threading.Event()

    def submit(label: str) -> None:
        number = 0
        while not over.is_set():
            name = f"{label}-{number}"
            number += 1
            commands = [f'echo started >> "{tmp_path}/{name}"', "sleep 0.2", "echo out"]
            while (result := pool.submit(name, commands, gpu="1")).rc == BlockedError.exit_code:
                pass  # both hosts are away just now, and it says so
            told[name] = result

    submitters = [threading.Thread(target=submit, args=(f"{who}-{label}",)) for label in "xy"]
    for thread in submitters:
        thread.start()
    hosts = [world.kill_runners, world.kill_sessions]
    harms = {"server": [pool.kill_server], "hosts": hosts, "anyone": [pool.kill_server, *hosts]}[who]
    left = (20 if who == "server" else 10) * rounds
    while left > 0 or len(told) < 4:
        left -= 1
        time.sleep(seed.uniform(0.0, 1.2))
        seed.choice(harms)()
    over.set()
    for thread in submitters:
        thread.join()
    assert [str(result) for result in told.values() if result.rc] == []
    for name in told:
        assert pool.end_of(name)["status"] == "done", pool.run(name)
        assert (tmp_path / name).read_text() == "started\n", name
        assert pool.run(name)["jobs"][0]["log_sha256"] == sha256(b"out\n")
    assert os.listdir(os.path.join(pool.folder, "secrets")) == []


def test_a_reboot_interrupts(world: World, pool: Pool) -> None:
    """The host comes back with another boot: the run is interrupted, its peer stopped, and nothing is held."""
    assert pool.submit("reboot", ["sleep 1000"], nodes=2, gpu="2").rc == 0
    pool.until_shown("reboot", "running")
    job = pool.run("reboot")["jobs"][1]
    host = next(host for host in world.hosts if host.name == job["host"])
    started = os.path.join(world.state(host), "jobs", job["id"], "started")
    record = durable.read_json(started)
    ledger = durable.read_json(os.path.join(world.state(host), "ledger.json"))
    assert record is not None
    assert ledger is not None
    who = durable.read_json(os.path.join(world.state(host), "daemon.json"))
    # What a reboot does: everything of the host dies at once, and the boot is another.
    kill([*([who] if who else []), record["supervisor"]])
    processes.kill_job(job["id"], record["session"], soft_s=0)
    durable.write_json(started, {**record, "boot": "an earlier one"})
    for entry in ledger["jobs"].values():
        entry["boot"] = "an earlier one"
    durable.write_json(os.path.join(world.state(host), "ledger.json"), ledger)
    run = pool.end_of("reboot")
    assert [job["status"] for job in run["jobs"]] == ["stopped", "interrupted"]
    assert run["jobs"][1]["reason"] == "the host rebooted"
    until(lambda: world.held() == {}, "free GPUs")


def test_a_lost_supervisor_is_told(world: World, pool: Pool) -> None:
    """kill -9 of the one process that knows the exit code: failed, with the reason, and the GPU is free."""
    assert pool.submit("lost", ["echo up; sleep 1000"], gpu="1").rc == 0
    pool.until_shown("lost", "running")
    job = pool.run("lost")["jobs"][0]
    host = next(host for host in world.hosts if host.name == job["host"])
    record = durable.read_json(os.path.join(world.state(host), "jobs", job["id"], "started"))
    assert record is not None
    kill([record["supervisor"]])
    run = pool.end_of("lost")
    assert (run["status"], run["exit_code"]) == ("failed", None)
    assert "supervisor was killed" in run["jobs"][0]["reason"]
    assert processes.of_job(job["id"], record["session"]) == []


def test_a_silent_host_is_unsure_and_comes_back(world: World, pool: Pool, tmp_path: Path) -> None:
    """Its ssh session is frozen: the job is shown as `running?`, never as failed, and goes on as if nothing were."""
    assert pool.submit("silent", [f'while [ ! -e "{tmp_path}/end" ]; do sleep 0.1; done; echo out']).rc == 0
    pool.until_shown("silent", "running")
    name = pool.run("silent")["jobs"][0]["host"]
    host = next(host for host in world.hosts if host.name == name)
    frozen = world.sessions(host)
    listener = processes.identity(host.pid)
    for who in [listener, *frozen]:
        os.kill(who["pid"], 19)
    try:
        pool.until_shown("silent", "running?")
        (tmp_path / "end").touch()
    finally:
        for who in [listener, *frozen]:
            os.kill(who["pid"], 18)
    assert pool.end_of("silent")["status"] == "done"
    assert pool.log("silent") == b"out\n"
