"""A job in a container, on Docker: the cases that the fake engine passes too, and a whole host from file to log."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import tarfile
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from pool.lab import engine as lab_engine
from pool.lab import image as lab_image
from pool.lab.loopback import LabHost
from pool.lab.system import SystemLab
from pool.runner import processes
from pool.runner.streams import StreamError
from tests.conftest import Cli
from tests.container_cases import *  # noqa: F403 - the cases
from tests.container_cases import PRINTS, Bench
from tests.e2e.test_ports import Attached, free
from tests.runner_host import RefusalError, RunnerHost
from tests.shells import fetched, said, sent
from tests.system.docker import docker_machines
from tests.system.site import FORKS, HUNGRY, Site, until

_LAB = tuple[SystemLab, list[LabHost]]
_NAMES = ("shell", "prints", "bare")


@pytest.fixture(scope="module")
def images(system_lab: _LAB) -> Iterator[dict[str, str]]:
    """Names of the images that the cases need, in the engine of the lab."""
    docker = lab_engine.find()
    assert docker is not None
    names = {name: f"pool-test-{name}:{os.getpid()}" for name in _NAMES}
    made = docker.text("create", lab_image.require(docker), "true")
    docker("commit", "--change", 'CMD ["sh"]', made, names["shell"])
    docker("commit", "--change", f"CMD {json.dumps(PRINTS)}", made, names["prints"])
    docker("rm", made)
    docker("import", "-", names["bare"], stdin=_tar("file", b"nothing to run"))
    yield names
    docker("image", "rm", "--force", *names.values())


@pytest.fixture
def bench(session_dir: str, images: dict[str, str]) -> Iterator[Bench]:
    """A runner on this machine that speaks to the engine of the lab."""
    docker = lab_engine.find()
    assert docker is not None
    host = RunnerHost(tempfile.mkdtemp(prefix="r", dir=session_dir), os.path.join(session_dir, "lab"))
    host.env["DOCKER_HOST"] = f"unix://{docker.socket}"
    yield Bench(host, docker.socket, images)
    host.end()
    assert docker.text("ps", "--all", "--quiet", "--filter", f"label=pool.runner={host.state}") == ""


@pytest.fixture(scope="module")
def docker_host(system_lab: _LAB, session_dir: str) -> Iterator[Site]:
    """One more host, with Docker, in a pool of its own."""
    with docker_machines(session_dir, "docker", 1) as site:
        yield site


def test_a_container_cannot_use_more_than_it_was_given(bench: Bench) -> None:
    """Cores, processes and /dev/shm, to the byte; the host goes on."""
    bench.allow(pids=40)
    script = (
        "cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us 2>&- || cut -d' ' -f1 /sys/fs/cgroup/cpu.max\n"
        f"df --block-size=1 --output=size /dev/shm | tail -n 1\n{FORKS}"
    )
    limits = {"cpus": 1, "cpus_max": 1, "memory_max_mib": None}
    bench.start(script, limits=limits, container={"shm_mib": 33})
    assert bench.bridge.end_of(bench.job)["exit_code"] == 0
    quota, shm, forked = bench.bridge.log(bench.job).decode().splitlines()
    assert (quota, int(shm)) == ("100000", 33 << 20)
    number, _, refusal = forked.partition(" ")
    assert 30 < int(number) < 40 and refusal == "Resource temporarily unavailable"
    bench.until_free()


def test_files_are_copied_as_the_container_sees_them(bench: Bench, tmp_path: Path) -> None:
    """As its user, inside of it: what a link there leads to is the container's, and what is copied in is its user's."""
    script = "mkdir -p /tmp/made && echo file > /tmp/made/file && ln -s /etc/only out && echo begun; sleep 1000"
    bench.start(script, container={"user": "1234:1234"}, env={})
    bench.until_logged(b"begun\n")
    fetched(bench.bridge, bench.job, "/tmp/made", str(tmp_path / "made"))
    assert (tmp_path / "made" / "file").read_text(encoding="ascii") == "file\n"
    sent(bench.bridge, bench.job, str(tmp_path / "made"), "again")
    sent(bench.bridge, bench.job, str(tmp_path / "made"), "/tmp/there")
    line = "stat -c '%u %g' again/file; cat /tmp/there/file"
    assert said(bench.bridge.open("shell", job=bench.job, argv=[line]))[1] == b"1234 1234\nfile\n"
    for path, why in ((str(tmp_path / "made"), "no such"), ("out", "no such"), ("/etc/shadow", "permission denied")):
        with pytest.raises((RefusalError, StreamError), match=why):
            stream = bench.bridge.open("copy_out", job=bench.job, path=path)
            while stream.read():
                pass
    with pytest.raises(StreamError, match="/etc/made: permission denied"):
        sent(bench.bridge, bench.job, str(tmp_path / "made"), "/etc/made")
    bench.bridge.ask("stop", job=bench.job, abort=True)
    bench.bridge.end_of(bench.job)
    bench.until_free()


@pytest.mark.parametrize(
    ("script", "code", "reason"),
    [
        (HUNGRY, 137, "out_of_memory"),
        (f"{HUNGRY} || exit 5", 5, "out_of_memory"),
        (f"{HUNGRY} || true", 0, None),
        ("kill -9 $$", 137, None),
    ],
    ids=["killed", "fails", "bears it", "another kill"],
)
def test_a_container_that_runs_out_of_memory_is_told_as_that(
    bench: Bench, script: str, code: int, reason: str | None
) -> None:
    """As a job without a container is."""
    bench.start(script, limits={"memory_max_mib": 100})
    end = bench.bridge.end_of(bench.job)
    assert (end["exit_code"], end["reason"]) == (code, reason)
    bench.until_free()


def test_a_docker_inside_has_room_that_goes_with_it(bench: Bench) -> None:
    """A volume, on no overlay, with the job's name on it. Not every machine lets a container be privileged."""
    docker = lab_engine.find()
    assert docker is not None
    bench.allow(docker=True)
    script = "stat --file-system --format=%T /var/lib/docker; mount -t tmpfs none /mnt && echo privileged"
    bench.start(script, container={"docker": True})
    end = bench.bridge.end_of(bench.job)
    if end["exit_code"] is None:
        assert "unable to apply caps: operation not permitted" in end["reason"]
    else:
        system, privileged = bench.bridge.log(bench.job).decode().splitlines()
        assert (system == "overlayfs", privileged) == (False, "privileged")
    assert docker.text("volume", "ls", "--quiet", "--filter", f"label=pool.job={bench.job}") == ""
    bench.until_free()


def test_a_container_is_its_user_and_has_the_host_folders_that_are_allowed(bench: Bench) -> None:
    """The uploaded folder is the user's; a folder that is read-only there cannot be written, through a link neither."""
    folders = {name: os.path.join(bench.host.folder, name) for name in ("data", "out")}
    for path in folders.values():
        os.mkdir(path)
        os.chmod(path, 0o777)
    os.symlink(folders["out"], os.path.join(bench.host.folder, "alias"))
    Path(folders["data"], "given").write_text("given\n")
    bench.allow(volumes=list(folders.values()))
    volumes = [f"{folders['data']}:/data:ro", f"{bench.host.folder}/alias:/out"]
    script = "id -u; id -g; cat /data/given; touch /data/new 2>&- || echo read-only; touch /out/new mine; echo .$HOME."
    bench.start(script, container={"user": "1234:2345", "volumes": volumes})
    assert bench.bridge.end_of(bench.job)["exit_code"] == 0
    assert bench.bridge.log(bench.job) == b"1234\n2345\ngiven\nread-only\n./.\n"
    for path in (os.path.join(folders["out"], "new"), bench.host.path(bench.job, "work/mine")):
        assert (os.stat(path).st_uid, os.stat(path).st_gid) == (1234, 2345)


def test_a_task_with_an_image_runs_in_a_container(docker_host: Site) -> None:
    """Its files, its variables, its one card by UUID, its output, its code; nothing of it is left on the host."""
    script = (
        "pwd; cat given; echo $FROM_IMAGE $MINE $HOME; id -u; echo $NVIDIA_VISIBLE_DEVICES; echo made > made; exit 7"
    )
    name = docker_host.run("inside", script, files={"given": "given\n"}, image="tiny:1", env={"MINE": "mine"})
    job = docker_host.end_of(name)
    assert (job["status"], job["exit_code"]) == ("failed", 7)
    assert "image  tiny:1: it is in no registry" in docker_host.cli("runs", name).stdout
    folder, given, env, user, cards = docker_host.log(name).decode().splitlines()
    assert (folder, given, env, user) == ("/workflow", "given", "yes mine /root", "0")
    assert cards.startswith("GPU-") and "," not in cards
    assert docker_host.on("node1", f"cat /var/lib/pool-runner/jobs/{job['id']}/work/made") == "made"
    until(lambda: docker_host.is_idle("node1"), "free GPUs")
    assert docker_host.on("node1", "docker ps --all --quiet") == ""


def test_the_limits_of_a_file_are_those_of_the_container(docker_host: Site) -> None:
    """From the file to the kernel, on a whole host."""
    group = "/sys/fs/cgroup"
    script = (
        f"cat {group}/memory/memory.limit_in_bytes 2>&- || cat {group}/memory.max; "
        f"cat {group}/cpu/cpu.cfs_quota_us 2>&- || cat {group}/cpu.max; "
        f"cat {group}/pids/pids.max 2>&- || cat {group}/pids.max"
    )
    resources = {"cpu": "1..1", "memory": "..64MB"}
    docker_host.run("bounded", script, gpu=0, image="tiny:1", resources=resources)
    job = docker_host.end_of("bounded")
    assert job["status"] == "done", job
    memory, quota, pids = docker_host.log("bounded").decode().splitlines()
    assert (memory, quota.split()[0], pids) == (str(64 << 20), "100000", "32768")


def test_what_the_operator_does_not_allow_fails_the_run_with_what_would(docker_host: Site) -> None:
    """A host folder and a Docker inside: nothing of either is made."""
    for name, field, example in (
        ("folder", {"volumes": ["/etc:/host"]}, '{"volumes": ["/etc"]}'),
        ("engine", {"docker": True}, '{"docker": true}'),
    ):
        docker_host.run(name, "echo ran", gpu=0, image="tiny:1", **field)
        job = docker_host.end_of(name)
        assert job["status"] == "failed"
        says = f"to allow it, write {example} into /var/lib/pool-runner/policy.json there"
        assert job["reason"].endswith(says), job["reason"]
    assert docker_host.on("node1", "docker ps --all --quiet; docker volume ls --quiet") == ""


def test_a_task_with_a_python_runs_in_the_servers_image(docker_host: Site) -> None:
    """As POOL_DEFAULT_IMAGE names it."""
    name = docker_host.run("snake", "echo $FROM_IMAGE", gpu=0, python="3.11")
    assert docker_host.end_of(name)["status"] == "done"
    assert docker_host.log(name) == b"yes\n"
    assert docker_host.found(name)["image"]["name"] == "tiny:3.11"


def test_a_container_outlives_runner_server_and_engine(docker_host: Site) -> None:
    """kill -9 of runner, server and sshd, a restart of Docker (live-restore): the job goes on, its end is told."""
    name = docker_host.run(
        "lasts", "echo begun; until [ -e go ]; do sleep 0.1; done; echo told; exit 5", image="tiny:1"
    )
    docker_host.until_logged(name, b"begun")
    job = docker_host.job(name)
    container = docker_host.on("node1", "docker ps --quiet --no-trunc")
    docker_host.on("node1", "kill -9 $(systemctl show --property=MainPID --value pool-runner.service)")
    pid = int(Path(docker_host.cli.env["POOL_STATE_DIR"], "server.pid").read_text(encoding="ascii"))
    who = processes.identity(pid)
    os.kill(pid, signal.SIGKILL)
    until(lambda: not processes.alive(who), "the end of the server")
    docker_host.on("node1", "pkill -9 sshd; systemctl restart ssh docker")
    until(lambda: docker_host.listed()["node1"]["status"] == "ready", "the link")
    until(lambda: docker_host.job(name)["shown"] == "running", "a running job")
    assert docker_host.on("node1", "docker ps --quiet --no-trunc") == container
    docker_host.on("node1", f"touch /var/lib/pool-runner/jobs/{job['id']}/work/go")
    ended = docker_host.end_of(name)
    assert (ended["status"], ended["exit_code"]) == ("failed", 5)
    assert docker_host.log(name) == b"begun\ntold\n"
    assert docker_host.on("node1", "docker ps --all --quiet") == ""


@pytest.mark.parametrize("words", [["stop"], ["stop", "--abort"]], ids=" ".join)
def test_a_stop_ends_the_container(docker_host: Site, words: list[str]) -> None:
    """SIGINT and its grace, or at once; the container is removed."""
    name = "-".join(["halt", *words]).replace("--", "")
    docker_host.run(name, "trap 'echo asked; exit 3' INT; echo begun; while :; do sleep 0.1; done", image="tiny:1")
    docker_host.until_logged(name, b"begun")
    assert docker_host.cli(*words, "-y", name).rc == 0
    job = docker_host.end_of(name)
    assert (job["status"], job["exit_code"]) == ("stopped", 137 if "--abort" in words else 3)
    until(lambda: docker_host.is_idle("node1"), "free GPUs")
    assert docker_host.on("node1", "docker ps --all --quiet") == ""


def test_a_container_whose_host_reboots_is_interrupted(docker_host: Site) -> None:
    """By a power cut: told as that, and what is left of it is removed."""
    name = docker_host.run("reboots", "echo begun; while :; do sleep 0.1; done", image="tiny:1")
    docker_host.until_logged(name, b"begun")
    docker_host.lab.reboot("node1", power_cut=True)
    job = docker_host.end_of(name)
    assert (job["status"], job["reason"]) == ("interrupted", "the host rebooted")
    until(lambda: docker_host.is_idle("node1"), "free GPUs")
    until(lambda: docker_host.on("node1", "docker ps --all --quiet", check=False) == "", "no container")


def test_an_image_that_cannot_be_had_fails_the_run_with_its_cause(docker_host: Site) -> None:
    """Nothing listens at that registry."""
    folder = Path(tempfile.mkdtemp(dir=docker_host.cli.env["POOL_STATE_DIR"]))
    (folder / ".dstack.yml").write_text("type: task\nimage: 127.0.0.1:9/none:1\ncommands: [echo hi]\n")
    result = docker_host.cli("run", str(folder), "-y", "-n", "none")
    assert result.rc not in (0, 75)
    assert "image 127.0.0.1:9/none:1: its registry cannot be reached" in result.stderr + result.stdout


def _tar(name: str, data: bytes) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        member = tarfile.TarInfo(name)
        member.size = len(data)
        tar.addfile(member, io.BytesIO(data))
    return made.getvalue()


def test_a_port_in_a_network_of_its_own(docker_host: Site) -> None:
    """What listens on 127.0.0.1 within the container is reached, never what has that number on the host."""
    docker_host.on("node1", "systemd-run --quiet --unit=same-port python3 -m http.server --bind 0.0.0.0 8000")
    try:
        local, page = free(), os.urandom(300_000).hex()
        script = "sleep 3; busybox httpd -f -p 127.0.0.1:8000 -h /workflow"
        docker_host.run("ported", script, files={"page": page}, gpu=0, image="tiny:1")
        attached = Attached(docker_host.cli.start("attach", "ported", "-p", f"{local}:8000"))
        attached.until("ported running")
        with urllib.request.urlopen(f"http://127.0.0.1:{local}/page", timeout=60) as answer:  # held until it listens
            assert answer.read().decode() == page
        attached.until(f"http://127.0.0.1:{local} -> port 8000 of ported")
        assert not [line for line in attached.lines if "another program" in line]
        docker_host.cli("stop", "ported", "--abort")
        attached.process.wait(30)
    finally:
        docker_host.on("node1", "systemctl stop same-port")


def test_a_person_s_ssh_comes_into_a_container(docker_host: Site, tmp_path: Path) -> None:
    """Into its folder, with its variables and its GPU; nothing of SSH is in the image."""
    cli = Cli(docker_host.cli.env | {"HOME": str(tmp_path)})
    docker_host.run("boxed", "sleep 1000", files={"mine": "x"}, image="tiny:1", env=["WORD=of the task"])
    try:
        assert cli("ssh-config", "--install", "-y").rc == 0
        ssh = ["ssh", "-F", str(tmp_path / ".ssh" / "config"), "boxed"]
        line = "pwd; ls; echo $WORD; echo $CUDA_VISIBLE_DEVICES; test -e /.pool/script && exit 7"
        done = subprocess.run([*ssh, line], env=cli.env, capture_output=True, text=True, timeout=60, check=False)
        folder, mine, word, gpu = done.stdout.splitlines()
        assert (folder, mine, word, done.returncode) == ("/workflow", "mine", "of the task", 7)
        assert gpu.startswith("GPU-")
    finally:
        docker_host.cli("stop", "boxed", "--abort", "-y")
