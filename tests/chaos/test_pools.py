"""Several servers and several pools on the same hosts: no GPU is given twice, and the newest server alone decides."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

from tests.chaos.world import Pool, World
from tests.conftest import Result
from tests.runner_host import Bridge, until

#: Takes an exclusive lock on each GPU it sees, for as long as it runs, and says whether another had it.
_LOCKING = """
gpus=$(echo "$CUDA_VISIBLE_DEVICES" | tr , " ")
for gpu in $gpus; do mkdir "{locks}/$gpu" || echo "$gpu" >> "{locks}/twice"; done
echo "$gpus" >> "{locks}/ran"
sleep 0.{tenths}
for gpu in $gpus; do rmdir "{locks}/$gpu"; done
"""


def test_two_pools_never_share_a_gpu(world: World, pool: Pool, tmp_path: Path, rounds: int) -> None:
    """40 runs of one GPU at once, half of them of each pool, on four GPUs: all end, each had its GPU to itself."""
    other = world.another_pool("b")
    other.settle()
    told: list[Result] = []

    def submit(of: Pool, label: str) -> None:
        for number in range(20 * rounds):
            commands = [_LOCKING.format(locks=tmp_path, tenths=1 + number % 3)]
            told.append(of.submit(f"{label}-{number}", commands, gpu="1"))

    submitting = [threading.Thread(target=submit, args=each) for each in ((pool, "one"), (other, "two"))]
    for thread in submitting:
        thread.start()
    for thread in submitting:
        thread.join()
    assert [str(result) for result in told if result.rc] == []
    for of, label in ((pool, "one"), (other, "two")):
        for number in range(20 * rounds):
            run = of.end_of(f"{label}-{number}")
            assert run["status"] == "done", run
            assert of.log(f"{label}-{number}") == b""
    assert not (tmp_path / "twice").exists()
    assert len((tmp_path / "ran").read_text().split()) == 40 * rounds
    ours, theirs = ({run["id"] for run in of.get("/runs")} for of in (pool, other))
    assert not ours & theirs
    other.cli("server", "stop")


def test_a_pool_waits_for_gpus_that_another_holds(world: World, pool: Pool) -> None:
    """It sees them as taken, and has them soon after they are free, without asking for them."""
    other = world.another_pool("c")
    other.settle()
    assert pool.submit("holds", ["sleep 1000"], nodes=2, gpu="2").rc == 0
    pool.until_shown("holds", "running")
    until(lambda: [host["gpus_free"] for host in other.get("/hosts")] == [0, 0], "taken GPUs")
    assert other.submit("waits", ["true"], gpu="2").rc == 0
    assert other.run("waits")["status"] == "submitted"
    assert other.cli("stop", "waits", "-y").rc == 0
    assert other.submit("waits-on", ["true"], gpu="2").rc == 0
    assert pool.cli("stop", "holds", "--abort", "-y").rc == 0
    assert other.end_of("waits-on")["status"] == "done"
    other.cli("server", "stop")


def test_an_older_server_ends_and_decides_nothing_any_more(world: World, pool: Pool, tmp_path: Path) -> None:
    """Frozen while a newer server takes the pool over; thawed, it is refused everywhere and ends with 75."""
    pool.cli("server", "stop")
    old = subprocess.Popen([sys.executable, "-P", "-m", "pool.server.main"], env=pool.env)
    try:
        until(lambda: (pool.server or {}).get("pid") == old.pid, "the server")
        pool.settle()
        assert pool.submit("taken-over", [f'echo started >> "{tmp_path}/lines"; sleep 2; exit 4'], nodes=2).rc == 0
        pool.until_shown("taken-over", "running")
        old.send_signal(signal.SIGSTOP)
        newer = world.copy_of(pool, "d")
        newer.settle()
        assert newer.submit("after", ["echo after"]).rc == 0
        assert newer.end_of("after")["status"] == "done"
        old.send_signal(signal.SIGCONT)
        assert old.wait(60) == 75
    finally:
        old.kill()
        old.wait()
    run = newer.end_of("taken-over")
    assert (run["status"], run["exit_code"]) == ("failed", 4)
    assert (tmp_path / "lines").read_text() == "started\nstarted\n"
    newer.cli("server", "stop")
    # The first folder is the pool's again, with a higher number than the copy's.
    for _ in range(3):
        pool.cli("server", "start")
        pool.cli("server", "stop")
    pool.settle()
    assert pool.end_of("taken-over")["exit_code"] == 4


def test_a_gang_of_which_one_host_refuses_holds_nothing(world: World, pool: Pool, tmp_path: Path) -> None:
    """Undone on the other host too, at once; nothing of it ran, and what it needed is forgotten."""
    (tmp_path / "lines").touch()
    commands = [f'echo started >> "{tmp_path}/lines"']
    assert pool.submit("whole", commands, nodes=2, gpu="2").rc == 0
    assert pool.end_of("whole")["status"] == "done"
    (tmp_path / "lines").write_text("")
    policy = Path(world.state(world.hosts[1]), "policy.json")
    policy.write_text("not JSON")
    assert pool.submit("refused", commands, nodes=2, gpu="2").rc == 0
    run = pool.end_of("refused")
    assert {job["status"] for job in run["jobs"]} == {"failed"}
    assert "is not a JSON object" in run["jobs"][0]["reason"]
    assert (tmp_path / "lines").read_text() == ""
    assert world.held() == {}
    for host, job in zip(world.hosts, run["jobs"], strict=True):
        assert job["host"] == host.name
        assert not os.path.exists(os.path.join(world.state(host), "jobs", job["id"]))
    policy.unlink()


def test_a_busy_gpu_sends_the_gang_elsewhere_or_lets_it_wait(world: World, pool: Pool) -> None:
    """A host refuses a GPU that the server thought free: undone everywhere, placed again once it is free."""
    host = world.hosts[1]
    argv = [os.path.join(host.home, ".local", "bin", "pool-runner"), "bridge"]
    stranger = Bridge(
        argv, {"HOME": host.home, "PATH": os.path.join(world.root, host.name, "bin") + ":/usr/bin:/bin"}, pool="f" * 32
    )
    gpu = stranger.gpus()[0]
    for who in world.sessions(host):  # the server does not hear of it
        os.kill(who["pid"], signal.SIGSTOP)
    try:
        stranger.ask("reserve", job="stranger", gpus=[gpu], ttl_s=600)
        assert pool.submit("gang", ["true"], nodes=2, gpu="2").rc == 0
    finally:
        for who in world.sessions(host):
            os.kill(who["pid"], signal.SIGCONT)
    until(lambda: world.held() == {gpu: "stranger"}, "an undone launch")
    stranger.ask("release", job="stranger")
    assert pool.end_of("gang")["status"] == "done"
    stranger.close()


def test_links_are_cut_again_and_again(world: World, pool: Pool, tmp_path: Path, rounds: int) -> None:
    """Ten cuts under a job that writes: a follower has every byte once, and the runner's files stay few."""
    script = "for i in $(seq 1 50); do seq $((i*100)) $((i*100+99)); sleep 0.1; done"
    assert pool.submit("cuts", [script]).rc == 0
    follower = pool.follow("cuts", 0, str(tmp_path / "followed"))
    pool.until_shown("cuts", "running")
    before = _open_files(world)
    for _ in range(10 * rounds):
        world.kill_sessions()
        pool.settle()
    assert follower.wait(60) == 0
    assert (tmp_path / "followed").read_bytes() == b"".join(b"%d\n" % number for number in range(100, 5100))
    until(lambda: _open_files(world) <= before + 8, "closed files")
    until(lambda: len(_bridges(world)) == 2, "two bridges")


def _open_files(world: World) -> int:
    """How many files the server and the runners have open."""
    found = [who["pid"] for who in world.runners()] + [(world.pool.server or {})["pid"]]
    return sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in found)


def _bridges(world: World) -> list[int]:
    states = [world.state(host) for host in world.hosts]
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
        except OSError:
            continue
        if "bridge" in words and any(state in words for state in states):
            found.append(int(pid))
    return found
