"""What a host promises about a job in a container, whichever engine runs it: cases for `bench`, a fixture of each."""

from __future__ import annotations

import glob
import hashlib
import json
import os
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from pool.runner.container import labels
from pool.runner.engine import Engine, EngineError
from pool.task.script import STAY, build_script
from tests.code import listed, send_code
from tests.runner_host import POOL, Bridge, RefusalError, RunnerHost, until
from tests.shells import Said, fetched, said, sent, size, used

#: The command of the image `prints`.
PRINTS = ["sh", "-c", "echo out; echo err >&2; echo rank $DSTACK_NODE_RANK; exit 6"]


@dataclass
class Bench:
    """A runner, its engine's socket, and the images `shell`, `prints` (has PRINTS) and `bare` (has no program)."""

    host: RunnerHost
    socket: str
    images: dict[str, str]
    #: No other's on this machine: the processes of a job are found by its id.
    job: str = field(default_factory=lambda: f"c{uuid.uuid4().hex[:12]}")
    bridge: Bridge = field(init=False)

    def __post_init__(self) -> None:
        self.bridge = self.host.connect()

    def wants(self, image: str = "shell", **container: Any) -> dict[str, Any]:
        """The container's part of a task."""
        name = self.images[image]
        found = self.bridge.ask("image", job="none", name=name, wait_s=0)["image"]
        assert found
        return {"image": name, "id": found, "network": "host", **container}

    def start(self, script: str, gpus: list[str] | None = None, image: str = "shell", **task: Any) -> dict[str, Any]:
        """Reserve, prepare and start the job; its status."""
        container = self.wants(image, **task.pop("container", {}))
        return self.bridge.run(self.job, script, gpus, container=container, **task)

    def allow(self, **policy: Any) -> None:
        """Be the operator of the host."""
        with open(os.path.join(self.host.state, "policy.json"), "w", encoding="ascii") as file:
            json.dump(policy, file)

    def until_logged(self, text: bytes) -> None:
        """Until the job has written this."""
        until(lambda: text in self.bridge.request("read_log", job=self.job, offset=0)[1], f"{text!r} in the log")

    def write(self, name: str) -> None:
        """Make an empty file in the job's folder."""
        with open(os.path.join(self.host.path(self.job, "work"), name), "w", encoding="ascii"):
            pass

    def has(self, job: str = "") -> bool:
        """True while the engine has the container of the job, or of another one."""
        try:
            Engine(self.socket).ask("GET", f"/containers/pool-job-{job or self.job}/json")
        except EngineError as error:
            assert error.code == 404
            return False
        return True

    def until_free(self) -> None:
        """Until nothing is left of the job but its folder."""
        until(lambda: not self.bridge.ask("jobs")["ledger"], "free GPUs")
        assert not self.has()
        assert self.host.alive(self.job) == []


def test_a_log_is_exact_to_the_byte(bench: Bench) -> None:
    """Every byte there is, as it was written, on one terminal; the exit code is the job's own."""
    every = "".join(f"\\{value:03o}" for value in range(256))
    bench.start(f"[ -t 1 ] && [ -t 2 ] && printf '{every}'; printf 'err\\n' >&2; printf 'out\\n'; exit 7")
    end = bench.bridge.end_of(bench.job)
    log = bench.bridge.log(bench.job)
    assert log == bytes(range(256)) + b"err\nout\n"
    assert (end["exit_code"], end["reason"], end["log_bytes"]) == (7, None, len(log))
    assert end["log_sha256"] == hashlib.sha256(log).hexdigest()
    bench.until_free()


def test_much_output_arrives_whole(bench: Bench) -> None:
    """Also what is still under way when the container has ended."""
    bench.start("i=0; while [ $i -lt 20000 ]; do echo line $i of many; i=$((i+1)); done")
    assert bench.bridge.end_of(bench.job)["exit_code"] == 0
    assert bench.bridge.log(bench.job) == b"".join(b"line %d of many\n" % i for i in range(20000))


def test_the_environment_is_exact_and_nothing_else_is_said(bench: Bench) -> None:
    """The image's, the pool's, the user's, last wins; the GPUs and the mark are the runner's; nothing of ours stays."""
    strange = "a\nb %s $HOME 'q' \"d\" é"
    bench.start(
        'printf "%s" "$STRANGE" | od -An -c | tr -d " \\n"; echo; echo $A $HOME $POOL_JOB_ID'
        " .$CUDA_VISIBLE_DEVICES. $NVIDIA_VISIBLE_DEVICES; env | grep -ci tini; read x || echo no input",
        env={"STRANGE": strange, "A": "user", "NVIDIA_VISIBLE_DEVICES": "all"},
        pool_env={"A": "pool"},
    )
    first, *rest = bench.bridge.log(bench.job).decode().splitlines()
    shown = {"\n": "\\n"}
    plain = "".join(shown.get(c, c) for c in strange if c not in " é")
    assert first.startswith(plain)
    assert rest == [f"user /root {bench.job} .. void", "0", "no input"]


def test_the_folder_is_there_and_what_is_made_in_it_stays(bench: Bench) -> None:
    """Uploaded files under the working directory; what the job writes there is on the host afterwards."""
    code, contents = listed(("d", "sub", 0o755), ("f", "sub/data", b"bytes"))
    send_code(bench.bridge, code, contents)
    bench.start("cat data; cp data ../made", code=code.sha256, working_dir="sub")
    assert bench.bridge.end_of(bench.job)["exit_code"] == 0
    assert bench.bridge.log(bench.job) == b"bytes"
    with open(os.path.join(bench.host.path(bench.job, "work"), "made"), "rb") as file:
        assert file.read() == b"bytes"


def test_home_and_shell_are_those_of_the_task(bench: Bench) -> None:
    """And a shell that the image does not have is named."""
    bench.start("echo $HOME ${BASH_VERSION:+bash}", shell="bash", container={"home": "/tmp/home"})
    assert bench.bridge.end_of(bench.job)["exit_code"] == 0
    assert bench.bridge.log(bench.job) == b"/tmp/home bash\n"
    bench.until_free()
    bench.job += "-2"
    bench.start("echo hi", shell="no-such-shell")
    assert bench.bridge.end_of(bench.job)["exit_code"] == 127
    assert bench.bridge.log(bench.job) == b"pool: the image has no shell no-such-shell\n"


def test_a_link_does_not_lead_out_of_the_allowed_folders(bench: Bench) -> None:
    """Refused by where it leads; what the operator did not allow is named, and nothing is there."""
    data, secret = os.path.join(bench.host.folder, "data"), os.path.join(bench.host.folder, "secret")
    for folder in (data, secret):
        os.mkdir(folder)
    os.symlink(secret, os.path.join(data, "link"))
    os.symlink(secret, os.path.join(bench.host.folder, "link"))
    bench.allow(volumes=[data])
    for source in (secret, f"{data}/link", f"{data}/../secret", os.path.join(bench.host.folder, "link")):
        with pytest.raises(RefusalError, match="is not allowed by the operator of this host") as refusal:
            bench.start("ls /data", container={"volumes": [f"{source}:/data"]})
        assert refusal.value.cause == "not_allowed"
        bench.bridge.ask("release", job=bench.job)
    assert not bench.has()


@pytest.mark.parametrize("abort", [False, True])
def test_a_stop_interrupts_first_and_an_abort_does_not(bench: Bench, abort: bool) -> None:
    """SIGINT reaches the shell and what it runs; an abort kills. Nothing is left of either."""
    bench.start("trap 'echo asked; exit 3' INT; echo begun; while :; do sleep 0.1; done")
    bench.until_logged(b"begun\n")
    bench.bridge.ask("stop", job=bench.job, grace_s=60, abort=abort)
    end = bench.bridge.end_of(bench.job)
    assert (end["exit_code"], end["reason"]) == ((137, "aborted") if abort else (3, "stopped"))
    assert bench.bridge.log(bench.job) == (b"begun\n" if abort else b"begun\nasked\n")
    bench.until_free()


def test_what_ignores_a_stop_is_killed_after_its_grace(bench: Bench) -> None:
    """With all that it has started."""
    bench.start("trap '' INT TERM; (sleep 1000) & echo begun; while :; do sleep 0.1; done")
    bench.until_logged(b"begun\n")
    bench.bridge.ask("stop", job=bench.job, grace_s=0.3)
    end = bench.bridge.end_of(bench.job)
    assert (end["exit_code"], end["reason"]) == (137, "stopped")
    bench.until_free()


@pytest.mark.parametrize("asked", [True, False])
def test_a_dev_environment_ends_at_once(bench: Bench, asked: bool) -> None:
    """By a stop, and when nobody is connected: what keeps it up needs no kill."""
    script = build_script(["echo begun", STAY])
    bench.start(script or "", stop_duration_s=600, inactivity_s=None if asked else 0.5)
    bench.until_logged(b"begun\n")
    if asked:
        bench.bridge.ask("stop", job=bench.job, grace_s=600)
    end = bench.bridge.end_of(bench.job)
    assert (end["exit_code"], end["reason"]) == (130, "stopped" if asked else "inactivity")
    bench.until_free()


def test_max_duration_ends_a_container(bench: Bench) -> None:
    """The host does it alone."""
    bench.start("while :; do sleep 0.1; done", max_duration_s=0.5, stop_duration_s=0.2)
    assert bench.bridge.end_of(bench.job)["reason"] == "max_duration"
    bench.until_free()


def test_nothing_of_a_container_outlives_its_first_process(bench: Bench) -> None:
    """A child in the background ends with it; the container is gone before the end is told."""
    bench.start("setsid sleep 1000 & exit 4")
    assert bench.bridge.end_of(bench.job)["exit_code"] == 4
    assert not bench.has()
    bench.until_free()


def test_a_container_does_not_notice_that_its_runner_was_killed(bench: Bench) -> None:
    """kill -9 of the runner: the job goes on, and its end, its code and every byte are told by the next."""
    bench.start("echo begun; until [ -e go ]; do sleep 0.05; done; echo told; exit 5")
    bench.until_logged(b"begun\n")
    bench.host.kill_runner()
    bench.bridge = bench.host.connect()
    assert bench.bridge.status(bench.job)["state"] == "running"
    bench.write("go")
    assert bench.bridge.end_of(bench.job)["exit_code"] == 5
    assert bench.bridge.log(bench.job) == b"begun\ntold\n"
    bench.until_free()


@pytest.mark.parametrize("runner_too", [False, True])
def test_a_lost_supervisor_takes_its_container_along(bench: Bench, runner_too: bool) -> None:
    """kill -9 of it, and of the runner with it: told as that, and nothing is left."""
    bench.start("echo begun; while :; do sleep 0.1; done")
    bench.until_logged(b"begun\n")
    bench.host.kill_supervisor(bench.job)
    if runner_too:
        bench.host.kill_runner()
        bench.bridge = bench.host.connect()
    end = bench.bridge.end_of(bench.job)
    assert (end["exit_code"], end["reason"]) == (None, "supervisor_lost")
    bench.until_free()


def test_an_image_without_commands_runs_its_own_program(bench: Bench) -> None:
    """Both of its streams, without a terminal."""
    bench.start("", image="prints", pool_env={"DSTACK_NODE_RANK": "0"})
    assert bench.bridge.end_of(bench.job)["exit_code"] == 6
    assert sorted(bench.bridge.log(bench.job).splitlines()) == [b"err", b"out", b"rank 0"]
    bench.until_free()


def test_an_entrypoint_runs_without_a_shell(bench: Bench) -> None:
    """Its words are the program's, as they are."""
    bench.start("", container={"argv": ["printf", "%s|", "a b", "$HOME"]})
    assert bench.bridge.end_of(bench.job)["exit_code"] == 0
    assert bench.bridge.log(bench.job) == b"a b|$HOME|"


def test_an_image_without_a_shell_says_so(bench: Bench) -> None:
    """Commands need one."""
    bench.start("echo hi", image="bare")
    assert "sh" in bench.bridge.end_of(bench.job)["reason"]
    bench.until_free()


def test_an_image_that_cannot_be_had_is_refused(bench: Bench) -> None:
    """With the cause, and the image's name; nothing of the job is there."""
    with pytest.raises(RefusalError, match=r"image 127\.0\.0\.1:9/none:1: its registry cannot be reached") as refusal:
        bench.bridge.ask("image", job=bench.job, name="127.0.0.1:9/none:1", wait_s=30)
    assert refusal.value.cause == "registry_unreachable"


def test_the_images_of_a_host_are_listed_with_the_jobs_that_use_them(bench: Bench) -> None:
    """From its first promise to a job on until that has ended; one of no registry is taken as it is."""
    bench.bridge.ask("reserve", job=bench.job, gpus=[], ttl_s=60)
    answer = bench.bridge.ask("image", job=bench.job, name=bench.images["shell"], wait_s=0)
    assert answer["pinned"] == ""
    assert _jobs_of(bench, answer["image"]) == [bench.job]
    bench.start("until [ -e go ]; do sleep 0.05; done")
    assert _jobs_of(bench, answer["image"]) == [bench.job]
    bench.write("go")
    bench.bridge.end_of(bench.job)
    bench.until_free()
    assert _jobs_of(bench, answer["image"]) == []


def _jobs_of(bench: Bench, image: str) -> list[str]:
    [found] = [each for each in bench.bridge.ask("images")["images"] if each["id"] == image]
    assert bench.images["shell"] in found["names"] and found["size"] > 0 and not found["pulled"]
    return list(found["jobs"])


def test_gpus_that_the_engine_cannot_give_are_named(bench: Bench) -> None:
    """The job does not start without them."""
    bench.start("echo hi", bench.bridge.gpus()[:1])
    end = bench.bridge.end_of(bench.job)
    assert end["exit_code"] is None
    assert "nvidia-container-toolkit is missing" in end["reason"]
    assert b"hi\n" not in bench.bridge.log(bench.job)
    bench.until_free()


def test_only_containers_of_this_runner_are_swept(bench: Bench) -> None:
    """What an ended job, or one that nobody knows, has left is removed; a stranger's is not touched."""
    engine = Engine(bench.socket)
    image = bench.wants()["id"]
    left, theirs = f"{bench.job}-left", f"{bench.job}-theirs"
    for name, state in ((left, bench.host.state), (theirs, "/another/state")):
        mounts = [{"Type": "bind", "Source": bench.host.state, "Target": "/workflow"}]
        host = {"NetworkMode": "host", "Mounts": mounts}
        config = {
            "Image": image,
            "Entrypoint": ["sh"],
            "Cmd": [],
            "Labels": labels(name, POOL, 1, state),
            "HostConfig": host,
            "Env": [],
        }
        engine.ask("POST", "/containers/create", config, name=f"pool-job-{name}")
    try:
        bench.host.kill_runner()
        bench.bridge = bench.host.connect()
        until(lambda: not bench.has(left), "the end of what was left")
        assert bench.has(theirs)
    finally:
        engine.ask("DELETE", f"/containers/pool-job-{theirs}", force="1")


def test_a_job_starts_once_however_often_it_is_asked_for(bench: Bench) -> None:
    """Also after its end."""
    bench.start("echo ran")
    bench.bridge.ask("start", job=bench.job)
    assert bench.bridge.end_of(bench.job)["exit_code"] == 0
    assert bench.bridge.ask("start", job=bench.job)["state"] == "exited"
    assert bench.bridge.log(bench.job) == b"ran\n"


_STAYS = "export LATER=1; echo begun; until [ -e go ]; do sleep 0.05; done"


def test_a_command_inside_has_what_the_job_has(bench: Bench) -> None:
    """Its variables and folder; both outputs apart, every byte, the end of input, and its exit code."""
    bench.start(_STAYS, env={"A": "a\nb %$'\""})
    bench.until_logged(b"begun\n")
    bench.write("here")
    line = 'printf "%s|" "$A" "$POOL_JOB_ID" "$LATER"; [ -e here ] && echo here; echo err >&2; exit 7'
    code, out, err = said(bench.bridge.open("shell", job=bench.job, argv=[line]))
    assert (code, out, err) == (7, f"a\nb %$'\"|{bench.job}||here\n".encode(), b"err\n")
    data = os.urandom(10 << 20)
    code, out, err = said(bench.bridge.open("shell", job=bench.job, argv=["cat", "-"]), data)
    assert (code, hashlib.sha256(out).digest(), err) == (0, hashlib.sha256(data).digest(), b"")
    assert said(bench.bridge.open("shell", job=bench.job, argv=["head -c 3; exit 4"]), data)[:2] == (4, data[:3])
    assert said(bench.bridge.open("shell", job=bench.job), b"echo $((6 * 7)); exit 3")[:2] == (3, b"42\n")
    assert said(bench.bridge.open("shell", job=bench.job, argv=["kill -9 $$"]), None)[0] == 137
    program = Said(bench.bridge.open("shell", job=bench.job, argv=["trap 'exit 9' INT; echo on; sleep 1000 & wait"]))
    program.until(b"on")
    program.stream.write(head={"signal": "INT"})
    assert program.code() == 9
    bench.write("go")
    assert bench.bridge.end_of(bench.job)["exit_code"] == 0
    with pytest.raises(RefusalError, match="has ended"):
        bench.bridge.open("shell", job=bench.job)
    bench.until_free()


def test_a_terminal_inside(bench: Bench) -> None:
    """Of the size that it is given, also later; Ctrl-C reaches what runs; it ends with its job."""
    bench.start(_STAYS)
    bench.until_logged(b"begun\n")
    shell = Said(bench.bridge.open("shell", job=bench.job, tty=size(33, 111)))
    used(shell)
    other = Said(bench.bridge.open("shell", job=bench.job, tty=size(24, 80)))
    other.stream.write(b"echo o''n\r")
    other.until(b"on")
    bench.write("go")
    assert other.code() in (129, 137, 143)
    bench.until_free()


@pytest.mark.parametrize("tty", [None, size(24, 80)])
def test_who_goes_away_takes_the_program_inside_along(bench: Bench, tty: dict[str, Any] | None) -> None:
    """Though the engine leaves it alone, and it is deaf to SIGHUP; the job does not notice."""
    bench.start(_STAYS)
    bench.until_logged(b"begun\n")
    before = len(bench.host.alive(bench.job))
    line = "trap '' HUP; echo on; sleep 1001 & while :; do sleep 0.1; done"
    shell = Said(bench.bridge.open("shell", job=bench.job, argv=[line], tty=tty))
    shell.until(b"on")
    until(lambda: len(bench.host.alive(bench.job)) >= before + 2, "the shell's processes")
    shell.stream.close("gone")
    until(lambda: len(bench.host.alive(bench.job)) <= before, "the end of the shell")
    bench.write("go")
    assert bench.bridge.end_of(bench.job)["exit_code"] == 0
    bench.until_free()


def test_the_next_runner_hangs_up_inside_too(bench: Bench) -> None:
    """On the shells that were open when the one before it was killed."""
    bench.start(_STAYS)
    bench.until_logged(b"begun\n")
    before = len(bench.host.alive(bench.job))
    line = "trap '' HUP; echo on; while :; do sleep 0.1; done"
    shell = Said(bench.bridge.open("shell", job=bench.job, argv=[line]))
    shell.until(b"on")
    until(lambda: glob.glob(bench.host.path(bench.job, "shells/*")), "a shell that is noted")
    bench.host.kill_runner()
    assert len(bench.host.alive(bench.job)) > before
    bench.bridge = bench.host.connect()
    until(lambda: len(bench.host.alive(bench.job)) <= before, "the end of the shell")
    bench.write("go")
    assert bench.bridge.end_of(bench.job)["exit_code"] == 0
    bench.until_free()


def test_files_of_a_container_that_has_ended(bench: Bench, tmp_path: Path) -> None:
    """Its folder is left: read and written there, and no link leads out of it."""
    bench.start("mkdir made; echo file > made/file; ln -s /etc/hostname out; ln -s made/file in; chmod 600 made/file")
    assert bench.bridge.end_of(bench.job)["exit_code"] == 0
    fetched(bench.bridge, bench.job, "made", str(tmp_path / "made"))
    assert (tmp_path / "made" / "file").read_text(encoding="ascii") == "file\n"
    fetched(bench.bridge, bench.job, "/workflow/in", str(tmp_path / "in"))
    assert (tmp_path / "in").read_text(encoding="ascii") == "file\n"
    sent(bench.bridge, bench.job, str(tmp_path / "made"), "again")
    with open(os.path.join(bench.host.path(bench.job, "work"), "again", "file"), encoding="ascii") as file:
        assert file.read() == "file\n"
    for path, why in (("out", "no such file"), ("/etc/hostname", "/workflow is left"), ("../spec.json", "is left")):
        with pytest.raises(RefusalError, match=why):
            bench.bridge.open("copy_out", job=bench.job, path=path)
    bench.until_free()


def test_the_host_says_which_engine_it_has(bench: Bench) -> None:
    """Usable for a runner that is root alone."""
    facts = bench.bridge.ask("facts")
    if os.geteuid() == 0:
        assert facts["docker"] and facts["docker_problem"] is None
    else:
        assert facts["docker"] is None and "root" in facts["docker_problem"]
