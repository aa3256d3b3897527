"""The runner as it is shipped, over its own bridge: what a host promises about a job, whatever dies meanwhile."""

from __future__ import annotations

import os
import resource
import shlex
import signal
import struct
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pool.lab import gpus as cards
from pool.runner import durable, processes
from pool.runner.frames import REQUEST, Frame, encode
from pool.runner.manifest import flagged
from tests.code import list_code, listed
from tests.runner_host import POOL, Bridge, GoneError, RefusalError, RunnerHost, sha256, until


@pytest.fixture
def bridge(host: RunnerHost) -> Bridge:
    """A bridge to it."""
    return host.connect()


# -- starting ---------------------------------------------------------------------------------------------------------


def test_a_runner_is_started_anew_when_its_program_is_newer(host: RunnerHost, bridge: Bridge) -> None:
    """`start FILE`: nothing while the runner is younger than the file, and a job runs on when it is not."""

    def start() -> str:
        argv = host.argv("start", os.path.join(host.folder, "runner.pyz"))
        return subprocess.run(argv, env=host.env, capture_output=True, text=True, timeout=60, check=True).stdout

    bridge.run("j", "sleep 1000")
    first = host.runner_pid()
    assert (start(), host.runner_pid()) == ("", first)
    os.utime(os.path.join(host.folder, "runner.pyz"))
    assert start() == "started anew\n"
    assert host.runner_pid() != first
    assert (start(), len(host.alive("j")) > 0) == ("", True)
    assert subprocess.run(host.argv("stop"), env=host.env, timeout=60, check=False).returncode == 0
    assert start() == "started\n"


# -- once -------------------------------------------------------------------------------------------------------------


def test_a_job_starts_once_however_often_it_is_asked_for(host: RunnerHost, bridge: Bridge, tmp_path: Path) -> None:
    """20 starts at once over three bridges, and more after its end: one line in the file, one answer."""
    bridge.prepare("j", f"echo ran >> {tmp_path}/lines; sleep 0.2")
    bridges = [bridge, host.connect(), host.connect()]
    answers: list[str] = []

    def start(number: int) -> None:
        answers.append(bridges[number % 3].ask("start", job="j")["state"])

    threads = [threading.Thread(target=start, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 20
    assert bridge.end_of("j")["exit_code"] == 0
    assert bridge.ask("start", job="j")["state"] == "exited"
    assert (tmp_path / "lines").read_text() == "ran\n"


def test_supervisors_that_race_start_a_job_once(host: RunnerHost, bridge: Bridge, tmp_path: Path) -> None:
    """Many supervisors of one job, beside the runner: one takes it, the others end without a trace."""
    bridge.prepare("j", f"echo ran >> {tmp_path}/lines; echo out")
    racers = [subprocess.Popen(host.argv("supervise", "j"), env=host.env) for _ in range(8)]
    assert [racer.wait(60) for racer in racers].count(1) == 0
    assert (tmp_path / "lines").read_text() == "ran\n"
    assert bridge.log("j") == b"out\n"


def test_a_job_that_was_prepared_and_never_started_expires(host: RunnerHost, bridge: Bridge) -> None:
    """Its GPUs are free and its folder is gone after its time; a start then is refused."""
    gpu = bridge.gpus()[0]
    bridge.prepare("j", "true", [gpu])
    ledger = os.path.join(host.state, "ledger.json")
    bridge.close()
    host.kill_runner()
    stored = durable.read_json(ledger)
    assert stored is not None
    stored["jobs"]["j"]["expires"] = durable.boot_clock() - 1
    durable.write_json(ledger, stored)
    again = host.connect()
    until(lambda: not again.holders(), "the expiry")
    assert not os.path.exists(host.path("j"))
    with pytest.raises(RefusalError, match="not on this host"):
        again.ask("start", job="j")


# -- ends -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "code"),
    [
        ("exit 0", 0),
        ("exit 7", 7),
        ("exit 255", 255),
        ("kill -9 $$", 137),
        ("kill -15 $$", 143),
        ("kill -SEGV $$", 139),
    ],
)
def test_exit_codes_and_signals(bridge: Bridge, script: str, code: int) -> None:
    """The job's own code, or 128 and the signal."""
    bridge.run("j", script)
    assert bridge.end_of("j")["exit_code"] == code
    assert bridge.end_of("j")["reason"] is None


def test_a_job_that_cannot_be_executed_says_why(host: RunnerHost, bridge: Bridge) -> None:
    """The reason stands in its end and in its log, and the GPUs are free."""
    gpu = bridge.gpus()[0]
    bridge.prepare("j", "true", [gpu])
    spec = host.read("j", "spec.json")
    assert spec is not None
    durable.write_json(host.path("j", "spec.json"), {**spec, "argv": ["/no/such/program"]})
    bridge.ask("start", job="j")
    assert "No such file" in bridge.end_of("j")["reason"]
    assert b"cannot be started" in bridge.log("j")
    until(lambda: not bridge.holders(), "free GPUs")


def test_a_supervisor_that_cannot_begin_ends_the_job(host: RunnerHost, bridge: Bridge) -> None:
    """It dies before it takes the job: the answer to start says so, and the job never runs later."""
    bridge.prepare("j", "true")
    os.mkdir(host.path("j", "log"))
    assert "Is a directory" in bridge.ask("start", job="j")["exit"]["reason"]
    assert bridge.ask("start", job="j")["state"] == "exited"


@pytest.mark.parametrize("abort", [False, True])
def test_a_stop_interrupts_first_and_an_abort_does_not(bridge: Bridge, abort: bool) -> None:
    """SIGINT lets a job say goodbye within its grace; an abort kills at once."""
    bridge.run("j", "trap 'echo bye; exit 9' INT; echo up; while :; do sleep 0.05; done")
    until(lambda: bridge.status("j")["log_bytes"], "the first line")
    bridge.ask("stop", job="j", grace_s=60, abort=abort)
    end = bridge.end_of("j")
    assert (end["exit_code"], end["reason"]) == ((137, "aborted") if abort else (9, "stopped"))
    assert bridge.log("j") == (b"up\n" if abort else b"up\nbye\n")


def test_what_ignores_a_stop_is_killed_after_its_grace(host: RunnerHost, bridge: Bridge) -> None:
    """SIGINT and SIGTERM are ignored, by the job and its child: SIGKILL, and nothing is left."""
    bridge.run("j", "trap '' INT TERM; sleep 1000 & echo up; while :; do sleep 0.05; done")
    until(lambda: bridge.status("j")["log_bytes"], "the first line")
    bridge.ask("stop", job="j", grace_s=0.3)
    assert bridge.end_of("j")["exit_code"] == 137
    assert host.alive("j") == []


def test_an_abort_overtakes_a_stop(bridge: Bridge) -> None:
    """Asked to stop with a long grace, then to abort."""
    bridge.run("j", "trap '' INT; echo up; while :; do sleep 0.05; done")
    until(lambda: bridge.status("j")["log_bytes"], "the first line")
    bridge.ask("stop", job="j", grace_s=600)
    bridge.ask("stop", job="j", abort=True)
    assert bridge.end_of("j")["reason"] == "aborted"


def test_a_job_that_was_stopped_before_its_start_never_starts(host: RunnerHost, bridge: Bridge) -> None:
    """The stop takes the one start; nothing secret stays behind."""
    bridge.prepare("j", "echo ran", env={"TOKEN": "canary"})
    assert bridge.ask("stop", job="j")["exit"]["reason"] == "stopped"
    assert bridge.ask("start", job="j")["state"] == "exited"
    assert bridge.log("j") == b""
    assert not os.path.exists(host.path("j", "env.json"))


def test_max_duration_ends_a_job(bridge: Bridge) -> None:
    """SIGINT at the limit, as with a stop."""
    bridge.run("j", "trap 'exit 4' INT; while :; do sleep 0.05; done", max_duration_s=1, stop_duration_s=30)
    end = bridge.end_of("j")
    assert (end["exit_code"], end["reason"]) == (4, "max_duration")


_DAEMON = """
import os, sys, time
if os.fork(): os._exit(0)
os.setsid()
if os.fork(): os._exit(0)
for fd in (0, 1, 2): os.close(fd)
open(sys.argv[1], "w").write(str(os.getpid()))
time.sleep(1000)
"""


@pytest.mark.parametrize("clean_environment", [False, True])
def test_nothing_of_a_job_outlives_it(
    host: RunnerHost, bridge: Bridge, tmp_path: Path, clean_environment: bool
) -> None:
    """A child in the background, one with an empty environment, and a daemon that forked twice: all are ended."""
    (tmp_path / "daemon.py").write_text(_DAEMON)
    child = "env -i sleep 1000" if clean_environment else "sleep 1000"
    gpu = bridge.gpus()[0]
    bridge.run(
        "j",
        f"{child} & echo $! > {tmp_path}/child\n"
        f"{sys.executable} -I -S {tmp_path}/daemon.py {tmp_path}/daemon\n"
        f"while [ ! -s {tmp_path}/daemon ]; do sleep 0.05; done",
        [gpu],
    )
    assert bridge.end_of("j")["exit_code"] == 0
    for name in ("child", "daemon"):
        pid = int((tmp_path / name).read_text())
        assert not processes.alive(processes.identity(pid)), name
    until(lambda: not bridge.holders(), "free GPUs")


def test_the_ledger_is_free_before_the_end_is_told(bridge: Bridge) -> None:
    """Whoever hears of an end may use the GPUs at once."""
    gpus = bridge.gpus()
    for number in range(5):
        bridge.run(f"j{number}", "true", gpus)
        while True:
            event = bridge.events.get(timeout=60)
            if event["event"] == "job" and event["state"] == "exited":
                break
        assert event["job"] == f"j{number}"
        bridge.ask("reserve", job=f"k{number}", gpus=gpus, ttl_s=60)
        bridge.ask("release", job=f"k{number}")


# -- output -----------------------------------------------------------------------------------------------------------


def test_a_log_is_exact_to_the_byte(bridge: Bridge, tmp_path: Path) -> None:
    """A million lines and 3 MB of noise: what was written, what is read and what the end says are the same."""
    noise = os.urandom(3_000_000)
    (tmp_path / "noise").write_bytes(noise)
    bridge.run("j", f"seq 1 1000000; cat {tmp_path}/noise; printf 'no newline'")
    log = bridge.log("j")
    wanted = b"".join(b"%d\n" % number for number in range(1, 1_000_001)) + noise + b"no newline"
    end = bridge.end_of("j")
    assert sha256(log) == sha256(wanted)
    assert (end["log_bytes"], end["log_sha256"], end["log_dropped"]) == (len(wanted), sha256(wanted), 0)


def test_a_log_is_read_from_any_offset(bridge: Bridge) -> None:
    """Past the end answers the size and no bytes; at the end it is the end."""
    bridge.run("j", "printf 0123456789")
    bridge.end_of("j")
    for offset, wanted in ((0, b"0123456789"), (9, b"9"), (10, b""), (11, b""), (1 << 40, b"")):
        head, body = bridge.request("read_log", job="j", offset=offset)
        assert (head["size"], head["eof"], body) == (10, True, wanted)
    assert bridge.request("read_log", job="j", offset=2, max=3)[1] == b"234"


def test_a_reader_waits_for_the_next_byte(bridge: Bridge, tmp_path: Path) -> None:
    """It is woken by the byte, not by its own clock."""
    bridge.run("j", f"while [ ! -e {tmp_path}/go ]; do sleep 0.02; done; echo late; sleep 30")
    (tmp_path / "go").touch()
    assert bridge.request("read_log", job="j", offset=0, wait_s=30)[1] == b"late\n"
    bridge.ask("stop", job="j", abort=True)


# -- what a job finds -------------------------------------------------------------------------------------------------


def test_the_environment_is_exact_to_the_byte(host: RunnerHost, bridge: Bridge) -> None:
    """Newlines, quotes, percent and dollar signs, bytes that are no UTF-8, 120 KB: as given. The end keeps no copy."""
    wanted = {
        "NEWLINE": "a\nb\n",
        "SIGNS": "%s $HOME ${X} `id` $(id) 'single' \"double\" \\ ! # ~ *",
        "SPACES": "  two  ",
        "EMPTY": "",
        "UNICODE": "äöü 漢字 🦦",
        "BYTES": b"\xff\xfe\x80".decode(errors="surrogateescape"),
        "LARGE": "x" * 120_000,
        "ESCAPES": "\x01\x1b[31m\x7f",
    }
    bridge.run("j", "cat /proc/self/environ", env=wanted)
    found = dict(pair.split(b"=", 1) for pair in bridge.log("j").split(b"\0") if pair)
    for name, value in wanted.items():
        assert found[name.encode()] == value.encode(errors="surrogateescape"), name
    assert not os.path.exists(host.path("j", "env.json"))


def test_the_environment_says_nothing_about_who_started_it(host: RunnerHost, bridge: Bridge) -> None:
    """Of the runner's own variables only those that a login has."""
    bridge.run("j", "cat /proc/self/environ")
    names = {pair.split(b"=")[0].decode() for pair in bridge.log("j").split(b"\0") if pair}
    assert names - {"PWD", "SHLVL", "_", "OLDPWD"} == {
        *("HOME", "USER", "LOGNAME", "SHELL", "PATH", "LANG", "TERM"),
        *("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES", "POOL_JOB_ID"),
    }


def test_the_gpus_are_the_runners_to_give(bridge: Bridge) -> None:
    """A task that sets CUDA_VISIBLE_DEVICES itself still sees the GPUs it was given, and one without GPUs none."""
    gpus = bridge.gpus()
    asked = {"CUDA_VISIBLE_DEVICES": "0,1,2", "NVIDIA_VISIBLE_DEVICES": "all", "POOL_JOB_ID": "other"}
    script = 'echo "$CUDA_VISIBLE_DEVICES|$NVIDIA_VISIBLE_DEVICES|$POOL_JOB_ID"'
    bridge.run("one", script, gpus[1:], env=asked, pool_env=asked)
    bridge.run("none", script, env=asked, pool_env=asked)
    assert bridge.log("one").decode() == f"{gpus[1]}|{gpus[1]}|one\n"
    assert bridge.log("none").decode() == "|void|none\n"


def test_signals_are_as_a_login_has_them(bridge: Bridge) -> None:
    """Nothing is ignored or blocked that the supervisor or Python had set for itself."""
    bridge.run("j", "grep -E 'Sig(Blk|Ign)' /proc/self/status")
    libc_own = 0b11 << 31  # signals 32 and 33 are the C library's; no program can set them back
    masks = [int(line.split()[1], 16) & ~libc_own for line in bridge.log("j").decode().splitlines()]
    assert masks == [0, 0]


def test_only_three_files_are_open(bridge: Bridge) -> None:
    """A job inherits stdin, which is empty, and its output."""
    bridge.run("j", f"exec {sys.executable} -I -S -c {shlex.quote(_OPEN_FILES)}")
    assert bridge.log("j").decode().split() == ["0", "/dev/null", "1", "2"]


_OPEN_FILES = """
import os
for fd in sorted(os.listdir("/proc/self/fd")):
    try: target = os.readlink("/proc/self/fd/" + fd)
    except OSError: continue
    print(fd, target if fd == "0" else "")
"""


@pytest.mark.parametrize("folder", ["..", "a/../..", "/etc", "../work2", "a/../../x"])
def test_a_working_dir_outside_is_refused(bridge: Bridge, folder: str) -> None:
    """It has to be inside the uploaded folder."""
    bridge.ask("reserve", job="j", gpus=[], ttl_s=60)
    with pytest.raises(RefusalError, match="outside"):
        bridge.ask("prepare", job="j", task={"script": "true", "working_dir": folder})


def test_the_folder_arrives_as_it_was(bridge: Bridge) -> None:
    """Sent in pieces, out of order and twice; the job runs in the folder it asked for."""
    data = os.urandom(3_000_000)
    code, contents = listed(
        ("d", "deep", 0o755),
        ("d", "deep/er", 0o755),
        ("f", "deep/er/data", data),
        ("f", "deep/run.sh", b"wc -c er/data"),
    )
    assert bridge.ask("reserve", job="j", gpus=[], ttl_s=60, code=code.sha256)["has_code"] is False
    upload, wanted = list_code(bridge, code)
    stream = b"".join(contents[sha256] for sha256, _ in flagged(code.contents, wanted))
    pieces = [(offset, stream[offset : offset + (1 << 20)]) for offset in range(0, len(stream), 1 << 20)]
    for offset, piece in [*reversed(pieces), pieces[0]]:
        bridge.ask("code_write", piece, upload=upload, offset=offset)
    bridge.ask("code_finish", upload=upload)
    assert list_code(bridge, code) == ("", b"")
    assert bridge.ask("reserve", job="j", gpus=[], ttl_s=60, code=code.sha256)["has_code"] is True
    bridge.ask("prepare", job="j", task={"script": "pwd; sh run.sh", "code": code.sha256, "working_dir": "deep"})
    bridge.ask("start", job="j")
    lines = bridge.log("j").decode().splitlines()
    assert lines[0].endswith("/work/deep")
    assert lines[1].split() == ["3000000", "er/data"]


# -- who dies ---------------------------------------------------------------------------------------------------------

_STEADY = "for i in 1 2 3 4 5 6 7 8 9 10; do echo $i; sleep 0.1; done; exit 3"
_LINES = b"".join(b"%d\n" % number for number in range(1, 11))


def test_a_job_does_not_notice_that_its_runner_was_killed(host: RunnerHost, bridge: Bridge) -> None:
    """kill -9 of the runner, three times: the next bridge brings it back, the end and the log are right."""
    bridge.run("j", _STEADY, bridge.gpus()[:1])
    for _ in range(3):
        host.kill_runner()
        until(bridge.ended.is_set, "the bridge's end")
        bridge = host.connect()
        assert bridge.status("j")["job"] == "j"
    assert bridge.log("j") == _LINES
    end = bridge.end_of("j")
    assert (end["exit_code"], end["log_sha256"]) == (3, sha256(_LINES))
    until(lambda: not bridge.holders(), "free GPUs")


def test_an_end_while_no_runner_runs_is_found(host: RunnerHost, bridge: Bridge) -> None:
    """The job ends after its runner was killed; the next runner tells it and frees the GPUs."""
    bridge.run("j", "sleep 0.3; exit 5", bridge.gpus())
    host.kill_runner()
    until(lambda: host.read("j", "exit.json"), "the end on disk")
    again = host.connect()
    assert again.end_of("j")["exit_code"] == 5
    until(lambda: not again.holders(), "free GPUs")


@pytest.mark.parametrize("runner_too", [False, True])
def test_a_lost_supervisor_is_told_and_leaves_nothing(host: RunnerHost, bridge: Bridge, runner_too: bool) -> None:
    """kill -9 of the supervisor, alone or after its runner: no made-up exit code, no process, no held GPU."""
    bridge.run("j", "sleep 1000 & setsid sleep 1000 & echo up; sleep 1000", bridge.gpus())
    until(lambda: len(host.alive("j")) >= 4, "its processes")
    if runner_too:
        host.kill_runner()
    host.kill_supervisor("j")
    if runner_too:
        bridge = host.connect()
    end = bridge.end_of("j")
    assert (end["exit_code"], end["reason"]) == (None, "supervisor_lost")
    assert host.alive("j") == []
    assert bridge.log("j") == b"up\n"
    until(lambda: not bridge.holders(), "free GPUs")


def test_supervisors_killed_at_their_start_start_nothing_twice(
    host: RunnerHost, bridge: Bridge, tmp_path: Path
) -> None:
    """kill -9 at the first sign of each: it ran once or not at all, is never said to be done, and leaves nothing."""
    jobs = [f"j{number}" for number in range(12)]
    for job in jobs:
        bridge.prepare(job, f"echo ran >> {tmp_path}/{job}; sleep 1000")
    starts = [threading.Thread(target=bridge.ask, args=("start",), kwargs={"job": job}) for job in jobs]
    for start in starts:
        start.start()
    for job in jobs:
        until(lambda job=job: host.read(job, "started"), "its start")
        host.kill_supervisor(job)
    for start in starts:
        start.join()
    for job in jobs:
        assert bridge.end_of(job)["reason"] == "supervisor_lost"
        assert bridge.ask("start", job=job)["state"] == "exited"
        assert host.alive(job) == []
        assert not (tmp_path / job).exists() or (tmp_path / job).read_text() == "ran\n"
        assert not os.path.exists(host.path(job, "env.json"))


def test_a_reboot_is_told_as_one(host: RunnerHost, bridge: Bridge) -> None:
    """A job of an earlier boot is `host_reboot`, its GPUs are free; one that was only prepared is gone."""
    first, second = bridge.gpus()
    bridge.run("ran", "sleep 1000", [first])
    bridge.prepare("waited", "true", [second])
    started = host.read("ran", "started")
    assert started is not None
    bridge.close()
    host.kill_runner()
    host.kill_supervisor("ran")
    processes.kill_job("ran", started["session"], soft_s=0)
    # What a reboot leaves: the files, and nothing else. The numbers are those of a stranger now.
    stranger = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    other = processes.identity(stranger.pid)
    durable.write_json(
        host.path("ran", "started"), {**started, "boot": "an earlier one", "supervisor": other, "session": other}
    )
    ledger = durable.read_json(os.path.join(host.state, "ledger.json"))
    assert ledger is not None
    for entry in ledger["jobs"].values():
        entry["boot"] = "an earlier one"
    durable.write_json(os.path.join(host.state, "ledger.json"), ledger)
    try:
        again = host.connect()
        assert again.end_of("ran")["reason"] == "host_reboot"
        until(lambda: not again.holders(), "free GPUs")
        assert [job["job"] for job in again.ask("jobs")["jobs"]] == ["ran"]
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_a_recycled_session_number_is_left_alone(host: RunnerHost, bridge: Bridge) -> None:
    """The number of a lost job's session belongs to someone else now: that one is not touched."""
    bridge.run("j", "sleep 1000")
    started = host.read("j", "started")
    assert started is not None
    host.kill_runner()
    host.kill_supervisor("j")
    processes.kill_job("j", started["session"], soft_s=0)
    stranger = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    try:
        session = {"pid": stranger.pid, "start": started["session"]["start"]}
        durable.write_json(host.path("j", "started"), {**started, "session": session})
        assert host.connect().end_of("j")["reason"] == "supervisor_lost"
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


@pytest.mark.parametrize("damage", [None, b"", b"{", b'{"jobs": {"j": {}}, "epochs": 3}', b"\0" * 500])
def test_a_lost_or_damaged_ledger_is_made_again(host: RunnerHost, bridge: Bridge, damage: bytes | None) -> None:
    """From the folders of the jobs: a running job keeps its GPU, and nobody else gets it."""
    gpus = bridge.gpus()
    bridge.run("j", "sleep 1000", gpus[:1])
    bridge.close()
    host.kill_runner()
    ledger = Path(host.state, "ledger.json")
    ledger.unlink()
    if damage is not None:
        ledger.write_bytes(damage)
    again = host.connect()
    assert again.holders() == {gpus[0]: "j"}
    with pytest.raises(RefusalError) as refusal:
        again.ask("reserve", job="k", gpus=gpus, ttl_s=60)
    assert (refusal.value.cause, refusal.value.details) == ("busy", {"gpus": gpus[:1]})
    again.ask("stop", job="j", abort=True)
    until(lambda: not again.holders(), "free GPUs")


def test_two_bridges_at_once_start_one_runner(host: RunnerHost) -> None:
    """The lock of the folder decides; every bridge finds the one that won."""
    found: list[int] = []
    threads = [threading.Thread(target=lambda: found.append(host.connect().hello["pid"])) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [host.runner_pid()] * 5


def test_a_bridge_ends_with_its_session(host: RunnerHost, bridge: Bridge) -> None:
    """Closed stdin, and a runner that goes, both end it: none is left behind."""
    other = host.connect()
    other.close()
    assert other.process.returncode == 0
    host.kill_runner()
    assert bridge.process.wait(60) == 0


def test_a_bridge_that_nobody_reads_does_not_stop_reading(host: RunnerHost, bridge: Bridge) -> None:
    """Its output is full and waits; what comes in still reaches the runner."""
    bridge.run("j", "head -c 3000000 /dev/zero")
    bridge.end_of("j")
    argv = host.argv("bridge")
    deaf = subprocess.Popen(argv, env=host.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert deaf.stdin is not None
    assert deaf.stdout is not None
    requests = [{"verb": "hello", "protocol": [2, 2], "pool": POOL, "epoch": 1}]
    requests += [{"verb": "read_log", "job": "j", "offset": 0}] * 3
    requests += [{"verb": "reserve", "job": "late", "gpus": bridge.gpus()[:1], "ttl_s": 60}]
    for number, head in enumerate(requests, 1):
        deaf.stdin.write(encode(Frame(REQUEST, number, head)))
        deaf.stdin.flush()
        if number == 1:
            os.read(deaf.stdout.fileno(), 1 << 16)
    until(lambda: "late" in bridge.holders().values(), "the last request")
    deaf.stdin.close()
    deaf.stdout.close()
    deaf.wait(60)


# -- who asks ---------------------------------------------------------------------------------------------------------


def test_an_older_server_is_refused_and_hung_up_on(host: RunnerHost, bridge: Bridge) -> None:
    """Once a newer server of the pool has said hello: no request of the old one is done, and it notices."""
    bridge.prepare("j", "echo ran")
    host.connect(epoch=2)
    until(bridge.ended.is_set, "the end of the old bridge")
    with pytest.raises(GoneError):
        bridge.ask("start", job="j")
    with pytest.raises(RefusalError) as refusal:
        host.connect(epoch=1)
    assert refusal.value.cause == "stale"
    host.kill_runner()
    with pytest.raises(RefusalError, match="newer server"):
        host.connect(epoch=1)
    host.connect(pool="b" * 32, epoch=1)


def test_a_runner_without_descriptors_frees_nothing(host: RunnerHost, bridge: Bridge) -> None:
    """It cannot read what its jobs do: so it decides nothing about them, and goes on once it can."""
    bridge.run("starved", "sleep 1000", bridge.gpus())
    runner = host.runner_pid()
    usual = resource.prlimit(runner, resource.RLIMIT_NOFILE)
    resource.prlimit(runner, resource.RLIMIT_NOFILE, (len(os.listdir(f"/proc/{runner}/fd")), usual[1]))
    try:
        seen = host.errors()
        until(lambda: host.errors().count("Too many open files") > seen.count("Too many open files") + 2, "its looks")
    finally:
        resource.prlimit(runner, resource.RLIMIT_NOFILE, usual)
    again = host.connect()
    assert set(again.holders().values()) == {"starved"}
    assert again.status("starved")["state"] == "running"
    again.ask("stop", job="starved", abort=True)


def test_two_pools_share_a_host_and_touch_nothing_of_each_other(host: RunnerHost, bridge: Bridge) -> None:
    """Each sees that the other's GPUs are taken; no verb of one works on a job of the other."""
    first, second = bridge.gpus()
    other = host.connect(pool="b" * 32)
    bridge.run("j", "sleep 1000", [first])
    bridge.ask("reserve", job="r", gpus=[second], ttl_s=60)
    with pytest.raises(RefusalError, match="in use"):
        other.ask("reserve", job="k", gpus=[first], ttl_s=60)
    for job in ("j", "r"):
        for verb in ("reserve", "release", "prepare", "start", "stop", "read_log", "forget"):
            with pytest.raises(RefusalError) as refusal:
                other.ask(verb, job=job, gpus=[], ttl_s=60, task={"script": ""}, offset=0)
            assert refusal.value.cause == "not_yours", (verb, job)
    seen = other.ask("jobs")
    assert (seen["jobs"], seen["ledger"], seen["held"]) == ([], {}, {first: "", second: ""})
    assert other.ask("standing")["jobs"] == ["", ""]
    assert bridge.holders() == {first: "j", second: "r"}
    bridge.ask("stop", job="j", abort=True)
    bridge.ask("release", job="r")
    held: dict[str, str] = {"": ""}
    while held:
        event = other.events.get(timeout=60)
        held = event["held"] if event["event"] == "ledger" else held


@pytest.mark.parametrize(
    "data",
    [struct.pack(">I", 0xFFFFFFFF), b"GET / HTTP/1.1\r\n\r\n", struct.pack(">I", 20) + b"\0" * 20],
    ids=["length", "http", "checksum"],
)
def test_nonsense_ends_only_its_own_connection(host: RunnerHost, bridge: Bridge, data: bytes) -> None:
    """The one who sent it is hung up on; the others go on."""
    other = host.connect()
    other.send_raw(data)
    until(other.ended.is_set, "the end of that bridge")
    assert bridge.ask("jobs")["jobs"] == []


@pytest.mark.parametrize(
    "head",
    [
        {"verb": "no_such"},
        {"verb": None},
        {"verb": "__init__"},
        {"verb": "start"},
        {"verb": "start", "job": "../../etc"},
        {"verb": "start", "job": "j" * 64},
        {"verb": "start", "job": ["j"]},
        {"verb": "read_log", "job": "j", "offset": 1e999},
        {"verb": "read_log", "job": "j", "offset": "x"},
        {"verb": "read_log", "job": "j", "offset": -1},
        {"verb": "reserve", "job": "k", "gpus": 3, "ttl_s": 60},
        {"verb": "reserve", "job": "k", "gpus": ["GPU-none"], "ttl_s": 60},
        {"verb": "prepare", "job": "k", "task": {"script": "true"}},
        {"verb": "prepare", "job": "j", "task": []},
        {"verb": "code_list", "sha256": "../../x", "offset": 0, "size": 0},
        {"verb": "code_list", "sha256": "0" * 64, "offset": 0, "size": 1 << 60},
        {"verb": "code_list", "sha256": "0" * 64, "offset": 0, "size": 0},
        {"verb": "code_write", "upload": "../../x", "offset": 0},
        {"verb": "code_finish", "upload": "0" * 24},
        {"verb": "reserve", "job": "k", "gpus": [], "ttl_s": 60, "code": "../../x"},
        {"verb": "prepare", "job": "j", "task": {"script": "true", "code": "0" * 64}},
        {"verb": "hello", "protocol": [7, 9], "pool": POOL, "epoch": 1},
    ],
    ids=str,
)
def test_every_bad_request_gets_an_answer(bridge: Bridge, head: dict[str, object]) -> None:
    """A refusal with a cause, and the next request is answered as ever."""
    bridge.prepare("j", "true")
    with pytest.raises(RefusalError):
        bridge.ask(**head)  # type: ignore[arg-type]
    assert bridge.ask("jobs")["jobs"][0]["job"] == "j"


def test_a_driver_that_hangs_holds_up_nobody_else(host: RunnerHost, bridge: Bridge) -> None:
    """While one request waits for nvidia-smi, others are answered."""
    cards.write(host.folder, 2, "H100", fault="hang")

    def reserve() -> None:
        with pytest.raises(RefusalError):
            bridge.ask("reserve", job="k", gpus=["GPU-that-only-nvidia-smi-may-know"], ttl_s=60)

    waiting = threading.Thread(target=reserve)
    waiting.start()
    bridge.run("j", "echo fine")
    assert bridge.log("j") == b"fine\n"
    assert waiting.is_alive()
    waiting.join()


# -- a full disk ------------------------------------------------------------------------------------------------------

_FULL_DISK = r"""
set -e
mkdir -p "$STATE"
mount -t tmpfs -o size=6m,mode=711 tmpfs "$STATE"
exec "$@"
"""


def _in_small_disk(host: RunnerHost) -> list[str]:
    """A command line that runs its arguments where the state folder is a disk of 6 MB."""
    return ["unshare", "-m", "sh", "-c", _FULL_DISK, "sh"]


def test_a_full_disk_loses_no_end(host: RunnerHost, tmp_path: Path) -> None:
    """The log stops growing, the job goes on and can be stopped, its end is saved and says what was dropped."""
    if os.getuid() != 0 or subprocess.run(["unshare", "-m", "true"], check=False).returncode:
        pytest.skip("needs root: a disk of 6 MB is mounted")
    script = """
import sys
sys.path.insert(0, sys.argv[1])
from tests.runner_host import RefusalError, RunnerHost, until
import tests.e2e.test_runner as here
here.full_disk(sys.argv[2], sys.argv[3])
"""
    root = str(Path(__file__).resolve().parents[2])
    argv = [*_in_small_disk(host), sys.executable, "-c", script, root, host.folder, host.marker]
    done = subprocess.run(argv, env={**host.env, "STATE": host.state}, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def full_disk(folder: str, marker: str) -> None:
    """What `test_a_full_disk_loses_no_end` does inside the small disk."""
    host = RunnerHost.__new__(RunnerHost)
    host.__dict__.update(folder=folder, state=os.path.join(folder, "state"), marker=marker, _bridges=[])
    host.__dict__["_zipapp"] = os.path.join(folder, "runner.pyz")
    host.env = {**os.environ}
    try:
        bridge = host.connect()
        gpus = bridge.gpus()
        bridge.run("ends", f"head -c 20000000 /dev/zero; touch {folder}/home/went-on; exit 6", gpus[:1])
        end = bridge.end_of("ends")
        assert (end["exit_code"], end["log_bytes"] + end["log_dropped"]) == (6, 20_000_000), end
        assert end["log_dropped"] > 0
        assert os.path.exists(f"{folder}/home/went-on")
        assert len(bridge.log("ends")) == end["log_bytes"]
        assert sha256(bridge.log("ends")) == end["log_sha256"]
        for job in ("more", "another"):  # nothing more is taken, in clear words
            try:
                bridge.run(job, "true", gpus[1:])
            except RefusalError as refusal:
                assert refusal.cause == "disk_full", refusal
            else:
                raise AssertionError("a job was taken")
        os.truncate(host.path("ends", "log"), 0)
        bridge.run("stopped", "sleep 0.1; head -c 20000000 /dev/zero; sleep 1000", gpus[1:])
        until(lambda: host.read("stopped", "started"), "its start")
        until(lambda: bridge.status("stopped")["log_bytes"] > 3_000_000, "the full disk")
        bridge.ask("stop", job="stopped", abort=True)
        assert bridge.end_of("stopped")["reason"] == "aborted"
        until(lambda: not bridge.holders(), "free GPUs")
    finally:
        host.end()
        os.chdir("/")


def test_no_signal_reaches_a_stranger(host: RunnerHost, bridge: Bridge) -> None:
    """A process of ours that is not the job's lives through its end."""
    stranger = subprocess.Popen(["sleep", "1000"], env={"POOL_JOB_ID": "j2"})
    try:
        bridge.run("j", "sleep 1000")
        bridge.ask("stop", job="j", abort=True)
        bridge.end_of("j")
        assert stranger.poll() is None
    finally:
        stranger.send_signal(signal.SIGKILL)
        stranger.wait()
