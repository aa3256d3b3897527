"""The link over real ssh: what a host may do at the other end, and bulk both ways at once."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pool.errors import FencedError, RunnerError, UnreachableError
from pool.lab.loopback import LabHost
from pool.provision.zipapp import build_runner
from pool.runner import frames
from pool.ssh.link import Link
from tests.code import list_code, listed
from tests.conftest import pinned
from tests.runner_host import sha256, until

Open = Callable[..., Link]


@pytest.fixture
def program(lab: list[LabHost]) -> Iterator[Path]:
    """Where the link looks for the runner on gpu1; what was there comes back afterwards."""
    path = Path(lab[0].home, ".local", "bin", "pool-runner")
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name("pool-runner.aside")
    if path.exists():
        shutil.move(path, aside)
    yield path
    path.unlink(missing_ok=True)
    if aside.exists():
        shutil.move(aside, path)


@pytest.fixture
def open_link(lab: list[LabHost], tmp_path: Path) -> Iterator[Open]:
    """`open_link(epoch=1, on_event=…, on_down=…)`: a link to gpu1, closed at the end."""
    host, opened = lab[0], []
    known = str(tmp_path / "known_hosts")
    target = pinned(known, host)

    def run(epoch: int = 1, on_event: Any = lambda _: None, on_down: Any = lambda: None) -> Link:
        link = Link(target, known, pool_id="p" * 32, epoch=epoch, on_event=on_event, on_down=on_down)
        opened.append(link)
        return link

    yield run
    for link in opened:
        link.close()


@pytest.fixture
def runner(program: Path, lab: list[LabHost]) -> Iterator[str]:
    """The real runner on gpu1, with a state folder of its own; stopped and removed at the end."""
    folder = Path(lab[0].home, "link-test")
    folder.mkdir()
    build_runner(str(folder / "runner.pyz"))
    _write(program, f'exec python3 -I -S "{folder}/runner.pyz" --state "{folder}/state" "$@"')
    yield str(folder)
    env = {"HOME": lab[0].home, "PATH": os.environ["PATH"], "POOL_RUNNER_SCOPE": "user"}
    subprocess.run([str(program), "stop"], env=env, check=True, timeout=60)
    shutil.rmtree(folder)


def _write(program: Path, script: str) -> None:
    program.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    program.chmod(0o755)


def _hello(*more: bytes) -> str:
    """A shell command that answers the first request as a runner would, and adds bytes."""
    answer = frames.encode(frames.Frame(frames.REPLY, 1, {"protocol": 1, "version": "9", "boot": "b", "pid": 1}))
    octal = "".join(f"\\{byte:03o}" for byte in b"".join([answer, *more]))
    return f"head -c 40 >/dev/null; printf '{octal}'"


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo 'the disk is broken' >&2; exit 3", "the disk is broken"),
        ("exit 0", "is down"),
        ("echo 'Welcome to gpu1!'", "is down"),
        ("head -c 1000000 /dev/urandom", "is down"),
        (r"printf '\377\377\377\377'; cat >/dev/null", "is down"),
    ],
    ids=["stderr", "nothing", "banner", "noise", "length"],
)
def test_a_host_without_a_runner_says_so(program: Path, open_link: Open, script: str, said: str) -> None:
    """Whatever stands there instead: UnreachableError, with its last word where it had one."""
    _write(program, script)
    with pytest.raises(UnreachableError, match=said):
        open_link()


@pytest.mark.parametrize(
    "more",
    [b"", b"\0\0\0\x05hello", b"\xff" * 100, frames.encode(frames.Frame(99, 5, {}))],
    ids=["end", "short", "noise", "kind"],
)
def test_a_link_that_breaks_wakes_who_waits(program: Path, open_link: Open, more: bytes) -> None:
    """With hello or after it the host goes, or talks nonsense: who waits is told, and `on_down` is called once."""
    _write(program, _hello(more) + "; head -c 1 >/dev/null")
    downs: list[int] = []
    with pytest.raises(UnreachableError):
        open_link(on_down=lambda: downs.append(1)).request("facts", timeout=60)
    until(lambda: downs, "the end of the link")
    assert downs == [1]


def test_bulk_goes_both_ways_at_once(runner: str, open_link: Open, tmp_path: Path) -> None:
    """A folder is sent while logs are read and small requests are answered: all of it arrives, over one channel."""
    link = open_link()
    for job in ("a", "b"):
        link.request("reserve", job=job, gpus=[], ttl_s=60)
        link.request("prepare", job=job, task={"script": "seq 1 3000000"})
        link.request("start", job=job)
    data = os.urandom(frames.MAX_BODY) * 24
    code, _ = listed(("f", "data", data))
    logs: dict[str, bytes] = {}

    def read(job: str) -> None:
        log = b""
        while True:
            head, body = link.request("read_log", job=job, offset=len(log), wait_s=20, timeout=60)
            log += body
            if head["eof"]:
                logs[job] = log
                return

    readers = [threading.Thread(target=read, args=(job,)) for job in ("a", "b")]
    for reader in readers:
        reader.start()
    upload, _ = list_code(link, code)
    for offset in range(0, len(data), frames.MAX_BODY):
        link.request("code_write", data[offset : offset + frames.MAX_BODY], upload=upload, offset=offset, timeout=60)
    link.request("code_finish", upload=upload, timeout=60)
    for reader in readers:
        reader.join(60)
    wanted = sha256(b"".join(b"%d\n" % number for number in range(1, 3_000_001)))
    assert {job: sha256(log) for job, log in logs.items()} == {"a": wanted, "b": wanted}
    assert link.up


def test_refusals_keep_their_cause(runner: str, open_link: Open) -> None:
    """A RunnerError with what the runner said; the link goes on."""
    link = open_link()
    with pytest.raises(RunnerError) as refusal:
        link.request("start", job="none")
    assert refusal.value.details["cause"] == "no_such_job"
    assert refusal.value.details["host"] == "gpu1"
    assert link.request("jobs")[0]["jobs"] == []


def test_a_newer_server_takes_the_link_away(runner: str, open_link: Open) -> None:
    """The older one's link goes down at once, and the next is refused as fenced."""
    downs: list[int] = []
    old = open_link(epoch=1, on_down=lambda: downs.append(1))
    open_link(epoch=2)
    until(lambda: downs, "the end of the old link")
    assert not old.up
    with pytest.raises(FencedError):
        open_link(epoch=1)


def test_events_reach_every_link_of_the_pool(runner: str, open_link: Open) -> None:
    """Start and end of a job are told to both."""
    heard: list[list[str]] = [[], []]
    links = [open_link(on_event=lambda head, mine=mine: mine.append(head.get("state", ""))) for mine in heard]
    links[0].request("reserve", job="a", gpus=[], ttl_s=60)
    links[0].request("prepare", job="a", task={"script": "true"})
    links[0].request("start", job="a")
    until(lambda: all("exited" in mine for mine in heard), "the end, told twice")


def test_a_request_that_is_not_answered_in_time_is_not_known(runner: str, open_link: Open) -> None:
    """UnreachableError after its own time; the late answer disturbs nobody."""
    link = open_link()
    link.request("reserve", job="a", gpus=[], ttl_s=60)
    link.request("prepare", job="a", task={"script": "sleep 1"})
    link.request("start", job="a")
    with pytest.raises(UnreachableError, match="did not answer 'read_log' within 0 s"):
        link.request("read_log", job="a", offset=0, wait_s=20, timeout=0.1)
    assert [job["job"] for job in link.request("jobs")[0]["jobs"]] == ["a"]
    until(lambda: link.request("jobs")[0]["jobs"][0]["exit"], "the end")
