"""What befalls the Docker engine of a host, and jobs in containers over two machines."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.system.docker import TINY, docker_machines
from tests.system.site import Site, until

_WAIT = "until [ -e go ]; do sleep 0.1; done; echo told; exit 5"
# Rank 1 says who it is to rank 0, until that listens.
#: Rank 0's nc has a stdin that does not end: else it hangs up at once, and the other one may not have written by then.
_MEET = """
if [ $DSTACK_NODE_RANK = 0 ]; then mkfifo open && nc -l -p $MASTER_PORT <>open
else until echo "met rank $DSTACK_NODE_RANK" | nc -w 5 $DSTACK_MASTER_NODE_IP $MASTER_PORT; do sleep 0.2; done; fi
"""
_SET = """
echo '{"live-restore": %s, "runtimes": {"nvidia": {"path": "runc"}}}' > /etc/docker/daemon.json
systemctl reset-failed docker; systemctl restart docker
"""
_LIVE, _NOT_LIVE = _SET % "true", _SET % "false"
SHIM_LOST = "the process that held its container (containerd-shim) was killed; the exit code is not known"
RESTARTED = "the host's Docker engine was restarted, and its container with it"


@pytest.fixture(scope="module")
def pair(session_dir: str) -> Iterator[Site]:
    """Two machines with Docker."""
    with docker_machines(session_dir, "engines", 2) as site:
        yield site


@pytest.fixture
def site(pair: Site) -> Iterator[Site]:
    """Both idle; nothing is left of a test."""
    pair.settle()
    yield pair
    pair.clear()


def _begun(site: Site, name: str, script: str = _WAIT) -> str:
    """A job in a container of node1 that says `begun`, and waits for `go`; its id."""
    site.run(name, f"echo begun; {script}", host="node1", image=TINY)
    site.until_logged(name, b"begun")
    return str(site.job(name)["id"])


def _nothing_left(site: Site, job: str) -> None:
    until(lambda: site.is_idle("node1"), "free GPUs")
    assert site.on("node1", "docker ps --all --quiet") == ""
    assert site.on("node1", "ps -e -o stat= | grep -c ^Z", check=False) == "0"
    assert site.on("node1", f"grep -lsz '^POOL_JOB_ID={job}$' /proc/[0-9]*/environ", check=False) == ""


@pytest.mark.parametrize("noticed", [True, False])
def test_a_killed_shim_leaves_nothing(site: Site, noticed: bool) -> None:
    """Whether the engine learns of it, and ends the container itself, or would say for ever that it runs."""
    job = _begun(site, f"shim-{noticed}".lower())
    if not noticed:
        site.on("node1", "pkill -STOP -x containerd")
    try:
        site.on("node1", "pkill -9 containerd-shim")
        ended = site.end_of(f"shim-{noticed}".lower())
    finally:
        site.on("node1", "pkill -CONT -x containerd")
    assert ended["status"] == "failed"
    assert (ended["exit_code"], ended["reason"]) in [(None, SHIM_LOST), (137, None)][: 2 if noticed else 1]
    _nothing_left(site, job)


def test_a_restarted_engine_that_ends_its_containers_is_named(site: Site) -> None:
    """Without live-restore: it is not the job that failed."""
    site.on("node1", _NOT_LIVE)
    try:
        job = _begun(site, "not-live")
        site.on("node1", "systemctl reset-failed docker; systemctl restart docker")
        ended = site.end_of("not-live")
        assert (ended["status"], ended["reason"]) == ("failed", RESTARTED)
        _nothing_left(site, job)
    finally:
        site.on("node1", _LIVE)


def test_a_killed_engine_is_not_noticed(site: Site) -> None:
    """kill -9, with live-restore: the same container goes on, its end is told, and no byte of its output is lost."""
    site.run("live", "i=0; until [ -e go ]; do i=$((i+1)); echo $i; done; exit 5", host="node1", image=TINY)
    site.until_logged("live", b"1\n")
    job = site.job("live")["id"]
    container = site.on("node1", "docker ps --quiet --no-trunc")
    site.on("node1", "systemctl reset-failed docker; kill -9 $(cat /run/docker.pid)")
    until(lambda: site.on("node1", "docker ps --quiet --no-trunc", check=False) == container, "the engine")
    site.on("node1", f"touch /var/lib/pool-runner/jobs/{job}/work/go")
    ended = site.end_of("live")
    assert (ended["status"], ended["exit_code"]) == ("failed", 5)
    log = site.log("live")
    assert log == b"".join(b"%d\n" % (number + 1) for number in range(log.count(b"\n")))
    _nothing_left(site, str(job))


def test_what_ends_while_the_engine_is_away_has_ended_well(site: Site) -> None:
    """With live-restore: its code is its own, and is told once the engine is back."""
    job = _begun(site, "away", script="until [ -e go ]; do sleep 0.1; done")
    site.on("node1", "systemctl stop docker.socket docker")
    site.on("node1", f"touch /var/lib/pool-runner/jobs/{job}/work/go; sleep 2; systemctl start docker")
    ended = site.end_of("away")
    assert (ended["status"], ended["exit_code"], ended["reason"]) == ("done", 0, None)
    _nothing_left(site, job)


def test_an_engine_that_hangs_starts_nothing_late(site: Site) -> None:
    """The run fails within a minute and says why; what was asked for is not started once the engine goes on."""
    site.on("node1", "kill -STOP $(cat /run/docker.pid)")
    try:
        began = time.monotonic()
        site.run("hangs", "touch /workflow/late; sleep 1000", host="node1", image=TINY)
        ended = site.end_of("hangs")
        assert time.monotonic() - began < 60
        assert ended["status"] == "failed"
        assert "Docker does not answer" in ended["reason"], ended
    finally:
        site.on("node1", "kill -CONT $(cat /run/docker.pid)")
    time.sleep(5)
    _nothing_left(site, str(ended["id"]))
    assert site.on("node1", f"ls /var/lib/pool-runner/jobs/{ended['id']}/work/late 2>/dev/null", check=False) == ""


def test_containers_of_a_run_meet_over_the_hosts_network(site: Site) -> None:
    """Rank 0 listens where the variables say, the other comes to it: each is in a container of its own host."""
    site.run("gang", _MEET, nodes=2, image=TINY)
    assert site.end_of("gang")["status"] == "done", (site.log("gang", 0), site.log("gang", 1))
    hosts = {site.job("gang", rank)["host"] for rank in (0, 1)}
    assert hosts == {"node1", "node2"}
    assert site.log("gang", 0) == b"met rank 1\n"
