"""A job on a machine with systemd: a unit of its own, under the login user, that outlives everything above it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.site import FORKS, HUNGRY, Site, until

_POLICY = "/var/lib/pool-runner/policy.json"
# Goes on until told, and writes a line when it has been.
_UNTIL_TOLD = "echo begun; until [ -e ~/go-{0} ]; do sleep 0.1; done; rm ~/go-{0}; echo told; exit {1}"
# A daemon as daemons are made: forked twice, its own session, nothing of its environment left, deaf to TERM.
_DAEMON = "setsid env -i sh -c 'trap \"\" TERM INT HUP; exec sleep 1000' & disown"
# Reads a limit of the job's own control group: CONTROLLER, its file in cgroup v1, its file in v2.
_OWN = r"""
own() {
    group=$(sed -n "s/^[0-9]*:$1://p" /proc/self/cgroup)
    file=/sys/fs/cgroup/$1$group/$2
    [ -n "$group" ] || file=/sys/fs/cgroup$(sed -n 's/^0:://p' /proc/self/cgroup)/$3
    cut -d' ' -f1 $file
}
"""


def test_a_job_is_a_unit_under_the_account(site: Site) -> None:
    """`pool-job-…` in pool.slice; its processes are the account's and have no capability; nothing of it stays."""
    name = site.run("unit", f"id -un; echo $HOME; umask; pwd -P; {_UNTIL_TOLD.format('unit', 7)}", host="node1")
    unit = site.unit_of(name)
    assert site.on("node1", f"systemctl show --property=Slice --value {unit}") == "pool.slice"
    pids = site.unit_pids("node1", unit)
    main = site.on("node1", f"systemctl show --property=MainPID --value {unit}")
    owners = {pid: site.on("node1", f"stat --format=%U /proc/{pid} 2>&-", check=False) for pid in pids}
    assert owners.pop(main) == "root"
    assert set(owners.values()) - {""} == {"pool"}
    site.until_logged(name, b"begun")
    site.make_in_jobs_home("node1", "go-unit")
    job = site.end_of(name)
    assert (job["status"], job["exit_code"]) == ("failed", 7)
    user, home, umask, folder, *rest = site.log(name).decode().splitlines()
    assert (user, home, umask, rest) == ("pool", "/var/lib/pool-runner/home", "0022", ["begun", "told"])
    assert folder.startswith("/var/lib/pool-runner/jobs/")
    until(lambda: not site.unit_pids("node1", unit), "the end of the unit")
    assert site.on("node1", "systemctl --failed --no-legend --plain") == ""


def test_every_byte_of_a_log_arrives(site: Site) -> None:
    """A megabyte of all bytes there are, as the job wrote it."""
    script = (
        "import hashlib, os, sys; d = os.urandom(1 << 20); os.write(1, d[:1000]); sys.stdout.buffer.write(d[1000:])"
    )
    site.run(
        "bytes", f'python3 -c \'{script}; sys.stdout.flush(); open("sum", "w").write(hashlib.sha256(d).hexdigest())\''
    )
    job = site.end_of("bytes")
    assert (job["status"], job["exit_code"], job["log_bytes"]) == ("done", 0, 1 << 20)
    log = site.log("bytes")
    assert hashlib.sha256(log).hexdigest() == job["log_sha256"]
    assert site.on(job["host"], f"cat /var/lib/pool-runner/jobs/{job['id']}/work/sum") == job["log_sha256"]


def test_a_job_outlives_the_runner_and_sshd(site: Site) -> None:
    """A restart of either, kill -9 of either: the job does not notice, and its end is told."""
    site.run("outlives", _UNTIL_TOLD.format("outlives", 3), host="node1")
    site.until_logged("outlives", b"begun")
    main = f"systemctl show --property=MainPID --value {site.unit_of('outlives')}"
    supervisor = site.on("node1", main)
    for harm in (
        "systemctl restart pool-runner.service",
        "kill -9 $(systemctl show --property=MainPID --value pool-runner.service)",
        "systemctl restart ssh.service",
        "kill -9 $(pgrep -x sshd)",
    ):
        site.on("node1", harm, check=False)
        until(lambda: site.on("node1", "systemctl is-active pool-runner ssh", check=False) == "active\nactive", harm)
        until(lambda: site.listed()["node1"]["status"] == "ready", f"the link after: {harm}")
        until(lambda: site.job("outlives")["shown"] == "running", f"a running job after: {harm}")
    assert site.on("node1", main) == supervisor
    assert site.listed()["node1"]["gpus_free"] == 1
    site.make_in_jobs_home("node1", "go-outlives")
    job = site.end_of("outlives")
    assert (job["status"], job["exit_code"]) == ("failed", 3)
    assert site.log("outlives") == b"begun\ntold\n"


def test_stop_and_abort_end_the_whole_unit(site: Site) -> None:
    """Also a daemon that left the session and its environment behind; no GPU is free before it is gone."""
    for name, words in (("stopped", ["stop"]), ("aborted", ["stop", "--abort"])):
        site.run(
            name, f"{_DAEMON}; trap 'echo asked; exit 0' INT; echo begun; while :; do sleep 0.1; done", host="node1"
        )
        site.until_logged(name, b"begun")
        unit = site.unit_of(name)
        daemon = until(lambda: site.on("node1", "pgrep --full '^sleep 1000$'", check=False), "the daemon")
        assert daemon in site.unit_pids("node1", unit)
        assert site.cli(*words, "-y", name).rc == 0
        job = site.end_of(name)
        assert job["status"] == "stopped"
        assert (b"asked" in site.log(name)) == (name == "stopped")
        until(lambda: site.is_idle("node1"), "free GPUs")
        assert site.on("node1", "pgrep --full '^sleep 1000$'", check=False) == ""
        assert site.unit_pids("node1", unit) == []


def test_nothing_is_left_of_a_job_that_ends(site: Site) -> None:
    """Its daemon goes with it, before its GPUs are free; its exit code is its own."""
    site.run("leaves", f"{_DAEMON}; sleep 1; exit 4", host="node1")
    job = site.end_of("leaves")
    assert (job["status"], job["exit_code"]) == ("failed", 4)
    until(lambda: site.is_idle("node1"), "free GPUs")
    assert site.on("node1", "pgrep --full '^sleep 1000$'", check=False) == ""


def test_a_lost_supervisor_takes_its_job_along(site: Site) -> None:
    """kill -9 of it: the job is failed with that cause, its unit is empty, its GPU is free."""
    site.run("lost", f"{_DAEMON}; {_UNTIL_TOLD.format('lost', 0)}", host="node1")
    site.until_logged("lost", b"begun")
    unit = site.unit_of("lost")
    site.on("node1", f"kill -9 $(systemctl show --property=MainPID --value {unit})")
    job = site.end_of("lost")
    assert (job["status"], job["exit_code"]) == ("failed", None)
    assert "supervisor was killed" in job["reason"]
    until(lambda: site.is_idle("node1"), "free GPUs")
    assert site.unit_pids("node1", unit) == []
    assert site.on("node1", "pgrep --full '^sleep 1000$'", check=False) == ""


def test_a_unit_that_is_stopped_on_the_host_says_so(site: Site) -> None:
    """`systemctl stop` by the host's owner: the job is asked to end as by `pool stop`, and fails with that cause."""
    site.run("by-owner", "trap 'echo asked; exit 9' INT; echo begun; while :; do sleep 0.1; done", host="node1")
    site.until_logged("by-owner", b"begun")
    site.on("node1", f"systemctl stop {site.unit_of('by-owner')}")
    job = site.end_of("by-owner")
    assert (job["status"], job["exit_code"]) == ("failed", 9)
    assert job["reason"] == "stopped on the host, by systemctl"
    assert site.log("by-owner") == b"begun\nasked\n"


def test_a_job_cannot_use_more_than_its_file_says(site: Site) -> None:
    """Upper ends of cpu and memory, and the number of processes, which the host's operator sets; the host answers."""
    site.on("node1", f"echo '{{\"pids\": 60}}' > {_POLICY}")
    try:
        script = (
            f"{_OWN}own memory memory.limit_in_bytes memory.max; own cpu cpu.cfs_quota_us cpu.max\n"
            f"own cpu cpu.shares cpu.weight; own pids pids.max pids.max\n{FORKS}"
        )
        resources = {"cpu": "1..1", "memory": "..300MB"}
        site.run("limited", script, host="node1", gpu=0, resources=resources)
        job = site.end_of("limited")
    finally:
        site.on("node1", f"rm {_POLICY}")
    assert (job["status"], job["exit_code"]) == ("done", 0), job
    memory, quota, share, pids, forked = site.log("limited").decode().splitlines()
    assert (memory, quota, pids) == (str(300 << 20), "100000", "60")
    assert share in ("1024", "100")  # one core's, in either version's words
    number, _, refusal = forked.partition(" ")
    assert 50 < int(number) < 60 and refusal == "Resource temporarily unavailable"
    assert site.on("node1", "pgrep --full '[t]ime.sleep' || echo none") == "none"


def test_a_job_that_runs_out_of_memory_is_told_as_that(site: Site) -> None:
    """Killed at its limit, or failing because a process of it was; its supervisor, spared, tells it."""
    drop_in = "/run/systemd/system/pool-job-.service.d"
    # Not every machine lets a process be spared; by this its children's score shows that they are not treated alike.
    site.on(
        "node1",
        f"mkdir {drop_in}; printf '[Service]\\nOOMScoreAdjust=500\\n' > {drop_in}/x.conf; systemctl daemon-reload",
    )
    try:
        resources = {"memory": "..200MB"}
        site.run("hungry", f"cat /proc/self/oom_score_adj; exec {HUNGRY}", host="node1", gpu=0, resources=resources)
        site.run("starved", f"{HUNGRY} || exit 5", host="node2", gpu=0, resources=resources)
        hungry, starved = site.end_of("hungry"), site.end_of("starved")
    finally:
        site.on("node1", f"rm -r {drop_in}; systemctl daemon-reload")
    assert (hungry["status"], hungry["exit_code"]) == ("failed", 137)
    assert (starved["status"], starved["exit_code"]) == ("failed", 5)
    for job in (hungry, starved):
        assert job["reason"].startswith("it ran out of memory: "), job
    assert site.log("hungry") == b"0\n"


def test_a_kill_is_no_want_of_memory_and_a_loss_that_a_job_bears_no_failure(site: Site) -> None:
    """137 alone says nothing; neither does a child that was killed, where the job ended well.

    Less than its supervisor needs takes a job nothing.
    """
    site.run("killed", "kill -9 $$", host="node1", gpu=0, resources={"memory": "..1MB"})
    site.run("bears", f"{HUNGRY} || echo lost $?", host="node2", gpu=0, resources={"memory": "..200MB"})
    killed, bears = site.end_of("killed"), site.end_of("bears")
    assert (killed["status"], killed["exit_code"], killed["reason"]) == ("failed", 137, None)
    assert (bears["status"], bears["exit_code"], bears["reason"]) == ("done", 0, None)
    assert b"lost 137\n" in site.log("bears")


@pytest.fixture
def cards(site: Site) -> Iterator[list[str]]:
    """node1 with a driver, as far as /proc and /dev tell of one; the UUIDs of its cards, by the number in /dev."""
    uuids = site.on("node1", "nvidia-smi --query-gpu=uuid --format=csv,noheader").splitlines()
    made = ["mount -t tmpfs tmpfs /proc/driver", "mknod -m 666 /dev/nvidiactl c 195 255"]
    for minor, uuid in enumerate(uuids):
        folder = f"/proc/driver/nvidia/gpus/0000:0{minor}:00.0"
        made += [f"mknod -m 666 /dev/nvidia{minor} c 195 {minor}", f"mkdir -p {folder}"]
        made += [f"printf 'GPU UUID: \\t %s\\nDevice Minor: \\t %s\\n' {uuid} {minor} > {folder}/information"]
    site.on("node1", "set -e; " + "; ".join(made))
    yield uuids
    site.on("node1", "umount /proc/driver; rm /dev/nvidia*")


def test_a_job_opens_its_own_cards_alone(site: Site, cards: list[str]) -> None:
    """Another's is denied; what is no card is open to all. The stand-ins have no driver: to open them is another error.

    Without what the driver tells of its cards, none is denied.
    """
    script = """python3 -c '
import os, sys
for name in "nvidia0", "nvidia1", "nvidiactl", "null", "ptmx":
    try:
        os.open("/dev/" + name, os.O_RDWR)
    except OSError as error:
        print(name, error.strerror)
    else:
        print(name, "opened")
print(os.environ["CUDA_VISIBLE_DEVICES"])
'"""
    for name, gpu in (("one-card", 1), ("both-cards", 2), ("no-card", 0)):
        site.run(name, script, host="node1", gpu=gpu)
        assert site.end_of(name)["status"] == "done"
        *told, given = site.log(name).decode().splitlines()
        mine = given.split(",") if given else []
        assert len(mine) == gpu
        expected = [(f"nvidia{at}", uuid in mine) for at, uuid in enumerate(cards)]
        no_card = ["nvidiactl No such device or address", "null opened", "ptmx opened"]
        denied = {True: "No such device or address", False: "Operation not permitted"}
        assert told == [f"{card} {denied[own]}" for card, own in expected] + no_card
    site.on("node1", "rm -r /proc/driver/nvidia")
    site.run("untold", script, host="node1", gpu=1)
    assert site.end_of("untold")["status"] == "done"
    assert b"not permitted" not in site.log("untold")


def test_a_host_with_rdma_lets_jobs_lock_memory(site: Site) -> None:
    """As far as the machine's own systemd may; without such devices it is what others have."""
    ask = "systemctl show --property=LimitMEMLOCK --value {}"
    site.on("node1", "mkdir /dev/infiniband && mknod /dev/infiniband/uverbs0 c 231 192")
    try:
        site.run("rdma", "echo $(ulimit -Hl) begun; sleep 1000", host="node1", gpu=0)
    finally:
        site.on("node1", "rm -r /dev/infiniband")
    site.run("plain", "echo $(ulimit -Hl) begun; sleep 1000", host="node1", gpu=0)
    for name in ("rdma", "plain"):
        site.until_logged(name, b"begun")
    assert site.on("node1", ask.format(site.unit_of("rdma"))) == "infinity"
    assert site.on("node1", ask.format(site.unit_of("plain"))) != "infinity"
    if site.on("node1", "systemd-run --quiet --pipe --wait -p LimitMEMLOCK=infinity sh -c 'ulimit -Hl'") == "unlimited":
        assert site.log("rdma") == b"unlimited begun\n"


def test_a_shell_is_inside_of_the_job_s_unit(site: Site, cards: list[str]) -> None:
    """In its control groups, as its user, with its limits and cards and no others; and it ends with the job."""
    site.run("entered", "cat /proc/self/cgroup; ulimit -a; echo begun; sleep 1000", host="node1", gpu=1)
    site.until_logged("entered", b"begun")
    unit = site.unit_of("entered")
    line = "cat /proc/self/cgroup; ulimit -a; echo begun"
    entered = site.cli("ssh", "entered", "--", line)
    assert entered.stdout.encode() == site.log("entered"), entered
    assert unit in entered.stdout
    open_cards = "for at in 0 1; do (: < /dev/nvidia$at) 2>&1 | grep -o 'such device\\|not permitted'; done"
    own = site.cli("ssh", "entered", "--", f"id -un; echo $CUDA_VISIBLE_DEVICES; {open_cards}").stdout.splitlines()
    assert own[0] == "pool"
    assert own[2:] == ["such device" if uuid == own[1] else "not permitted" for uuid in cards]
    person = site.cli.person("ssh", "entered")
    person.sendline("stat --format=%U $(tty); echo o''n")
    person.expect("pool\r\non\r\n")
    assert site.cli("stop", "-y", "entered").rc == 0
    person.wait()
    assert person.exitstatus in (129, 137, 143)
    until(lambda: site.is_idle("node1"), "free GPUs")
    assert site.unit_pids("node1", unit) == []


def test_files_are_copied_as_the_job_s_user(site: Site, tmp_path: Path) -> None:
    """Though the runner is root: a link of a job's does not lead to what the job may not read, or write."""
    site.on("node1", "echo secret > /root/secret; chmod 600 /root/secret")
    script = "ln -s /root/secret out; ln -s /root up; echo mine > file; echo begun; sleep 1000"
    site.run("copied", script, host="node1", gpu=0)
    site.until_logged("copied", b"begun")
    assert site.cli("cp", "copied:file", ".", cwd=tmp_path).rc == 0
    assert (tmp_path / "file").read_text(encoding="ascii") == "mine\n"
    for path in ("out", "/root/secret", "up/secret"):
        refused = site.cli("cp", f"copied:{path}", "stolen", cwd=tmp_path)
        assert refused.rc == 2 and "permission denied" in refused.stderr, refused
    assert site.cli("cp", "file", "copied:up/there", cwd=tmp_path).rc != 0
    assert site.cli("cp", "file", "copied:again", cwd=tmp_path).rc == 0
    assert site.cli("ssh", "copied", "--", "stat -c %U again").stdout == "pool\n"
    site.on("node1", "test ! -e /root/there; rm /root/secret")
    assert not (tmp_path / "stolen").exists()
