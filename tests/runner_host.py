"""A host with the real runner, spoken to over its real bridge, without ssh in between."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from typing import Any

from pool.lab import gpus as cards
from pool.lab import processes as lab_processes
from pool.provision.zipapp import build_runner
from pool.runner import durable, frames, processes
from pool.runner.frames import Decoder, Frame
from pool.runner.jobs import all_jobs
from pool.runner.streams import Stream, Streams

#: Longer than anything here may take, also on a busy machine.
PATIENCE_S = 60.0
POOL = "a" * 32


class RefusalError(Exception):
    """The runner's refusal."""

    def __init__(self, head: dict[str, Any]) -> None:
        super().__init__(head["message"])
        self.cause = head["cause"]
        self.details = head["details"]


class GoneError(Exception):
    """The bridge has ended."""


class Bridge:
    """One connection: a `pool-runner bridge` of its own, spoken to in frames."""

    def __init__(self, argv: list[str], env: dict[str, str], *, pool: str = POOL, epoch: int = 1) -> None:
        self.process = subprocess.Popen(argv, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.events: queue.Queue[dict[str, Any]] = queue.Queue()
        self._answers: dict[int, queue.Queue[Frame | None]] = {}
        self._numbers = itertools.count(1)
        self._sending = threading.Lock()
        self._streams = Streams(self._send_if_up)
        self.ended = threading.Event()
        threading.Thread(target=self._read, daemon=True).start()
        self.hello = self.ask("hello", protocol=[2, 2], pool=pool, epoch=epoch)

    def request(self, verb: str, body: bytes = b"", **head: Any) -> tuple[dict[str, Any], bytes]:
        """Ask; head and body of the answer. Raises RefusalError, or GoneError when there is none."""
        return self._ask(next(self._numbers), frames.REQUEST, {"verb": verb, **head}, body)

    def open(self, verb: str, **head: Any) -> Stream:
        """Open a stream. Raises as `request` does."""
        number = next(self._numbers)
        stream = self._streams.add(number)
        self._ask(number, frames.OPEN, {"verb": verb, **head}, b"")
        return stream

    def _ask(self, number: int, kind: int, head: dict[str, Any], body: bytes) -> tuple[dict[str, Any], bytes]:
        mine = self._answers[number] = queue.Queue()
        if self.ended.is_set():
            raise GoneError
        self.send_raw(frames.encode(Frame(kind, number, head, body)))
        answer = mine.get(timeout=PATIENCE_S)
        if answer is None:
            raise GoneError
        if answer.kind == frames.ERROR:
            raise RefusalError(answer.head)
        return answer.head, answer.body

    def ask(self, verb: str, body: bytes = b"", **head: Any) -> dict[str, Any]:
        """The head of the answer."""
        return self.request(verb, body, **head)[0]

    def send_raw(self, data: bytes) -> None:
        """Bytes as they are."""
        assert self.process.stdin is not None
        try:
            with self._sending:
                self.process.stdin.write(data)
                self.process.stdin.flush()
        except OSError as error:
            raise GoneError from error

    def _send_if_up(self, frame: Frame) -> None:
        with contextlib.suppress(GoneError):
            self.send_raw(frames.encode(frame))

    def close(self) -> None:
        """Hang up."""
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        self.process.wait(PATIENCE_S)

    # -- a job, in short ------------------------------------------------------------------------------------------

    def prepare(self, job: str, script: str, gpus: list[str] | None = None, **task: Any) -> None:
        """Reserve and prepare."""
        self.ask("reserve", job=job, gpus=gpus or [], ttl_s=60)
        self.ask("prepare", job=job, task={"script": script, **task})

    def run(self, job: str, script: str, gpus: list[str] | None = None, **task: Any) -> dict[str, Any]:
        """Reserve, prepare and start; the status."""
        self.prepare(job, script, gpus, **task)
        return self.ask("start", job=job)

    def status(self, job: str) -> dict[str, Any]:
        """What the host says about the job now."""
        return next(status for status in self.ask("jobs")["jobs"] if status["job"] == job)

    def end_of(self, job: str) -> dict[str, Any]:
        """The job's `exit`, once it is there."""
        return until(lambda: self.status(job)["exit"], f"the end of {job}")

    def log(self, job: str, wait_s: float = 20.0) -> bytes:
        """The whole log, read to its end as a follower does."""
        data = b""
        while True:
            head, body = self.request("read_log", job=job, offset=len(data), wait_s=wait_s)
            assert head["offset"] == len(data)
            data += body
            if head["eof"]:
                return data

    def gpus(self) -> list[str]:
        """The UUIDs of the host's cards."""
        return [gpu["uuid"] for gpu in self.ask("facts")["gpus"]]

    def holders(self) -> dict[str, str]:
        """GPU -> job, as the ledger says."""
        return {gpu: job for job, entry in self.ask("jobs")["ledger"].items() for gpu in entry["gpus"]}

    def _read(self) -> None:
        assert self.process.stdout is not None
        decoder = Decoder()
        with contextlib.suppress(frames.FrameError, OSError, ValueError):
            while chunk := os.read(self.process.stdout.fileno(), 1 << 18):
                for frame in decoder.feed(chunk):
                    if frame.kind == frames.EVENT:
                        self.events.put(frame.head)
                    elif frame.kind in (frames.REPLY, frames.ERROR):
                        self._answers[frame.stream].put(frame)
                    else:
                        self._streams.take(frame)
        self.ended.set()
        self._streams.lost("the bridge has ended")
        for waiting in list(self._answers.values()):
            waiting.put(None)


class RunnerHost:
    """One state folder, its runner, and cards that are not there."""

    def __init__(self, folder: str, marker: str, gpus: int = 2) -> None:
        self.folder = folder
        self.state = os.path.join(folder, "state")
        self.marker = marker
        self._zipapp = os.path.join(folder, "runner.pyz")
        self._bridges: list[Bridge] = []
        os.makedirs(os.path.join(folder, "home"))
        build_runner(self._zipapp)
        cards.write(folder, gpus, "H100")
        self.env = {
            "HOME": os.path.join(folder, "home"),
            "PATH": f"{folder}/bin:/usr/local/bin:/usr/bin:/bin",
            "LANG": "C.UTF-8",
            "POOL_RUNNER_SCOPE": "user",
            lab_processes.MARKER: marker,
        }

    def argv(self, *verb: str) -> list[str]:
        """The command line of a verb."""
        python = os.environ.get("POOL_TEST_PYTHON", sys.executable)  # another one that a host may have
        return [python, "-I", "-S", self._zipapp, "--state", self.state, *verb]

    def connect(self, *, pool: str = POOL, epoch: int = 1) -> Bridge:
        """A bridge, and with it the runner if it does not run."""
        bridge = Bridge(self.argv("bridge"), self.env, pool=pool, epoch=epoch)
        self._bridges.append(bridge)
        return bridge

    def path(self, job: str, name: str = "") -> str:
        """A file of a job's folder."""
        return os.path.join(self.state, "jobs", job, name)

    def read(self, job: str, name: str) -> dict[str, Any] | None:
        """A JSON file of a job's folder; None without one."""
        return durable.read_json(self.path(job, name))

    def runner_pid(self) -> int:
        """Of the running runner."""
        who = durable.read_json(os.path.join(self.state, "daemon.json"))
        assert who is not None
        assert processes.alive(who)
        return int(who["pid"])

    def errors(self) -> str:
        """What the runner had to complain of."""
        with open(os.path.join(self.state, "runner.log"), encoding="utf-8", errors="replace") as file:
            return file.read()

    def kill_runner(self) -> None:
        """kill -9, and wait until it is gone."""
        self._kill(self.runner_pid())

    def kill_supervisor(self, job: str) -> None:
        """kill -9, and wait until it is gone."""
        self._kill(int((self.read(job, "started") or {})["supervisor"]["pid"]))

    def alive(self, job: str) -> list[int]:
        """The processes of a job."""
        return processes.of_job(job, (self.read(job, "started") or {}).get("session"))

    def end(self) -> None:
        """Stop everything that was started here."""
        for bridge in self._bridges:
            bridge.close()
        stopped = subprocess.run(self.argv("stop"), env=self.env, timeout=PATIENCE_S, check=False)
        for folder in all_jobs(self.state):
            if folder.supervised():
                self.kill_supervisor(folder.job)
            processes.kill_job(folder.job, (folder.started or {}).get("session"), soft_s=0)
        assert stopped.returncode == 0
        assert self._left() == []

    def _left(self) -> list[bytes]:
        """The command lines of what still runs of this host's program, but for supervisors that are just ending."""
        found = []
        for name in os.listdir("/proc"):
            with contextlib.suppress(OSError), open(f"/proc/{name}/cmdline", "rb") as file:
                words = file.read().split(b"\0")
                if self._zipapp.encode() in words and b"supervise" not in words:
                    found.append(b" ".join(words))
        return found

    def _kill(self, pid: int) -> None:
        who = processes.identity(pid)
        os.kill(pid, signal.SIGKILL)
        until(lambda: not processes.alive(who), f"the end of process {pid}")


def until(look: Any, what: str, patience_s: float = PATIENCE_S) -> Any:
    """What `look()` returns once that is true; AssertionError naming `what` after the patience."""
    deadline = time.monotonic() + patience_s
    while not (found := look()):
        assert time.monotonic() < deadline, f"{what} did not come within {patience_s:.0f} s"
        time.sleep(0.02)
    return found


def sha256(data: bytes) -> str:
    """As in an exit record."""
    return hashlib.sha256(data).hexdigest()
