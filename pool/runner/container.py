"""A job as a container: made, started and removed by its supervisor, through the Docker engine.

Where the task has commands they write to a raw terminal of the supervisor's, whose file is mounted into the container:
every byte arrives, whatever happens to the engine meanwhile. What an image's own program writes comes over the engine's
attached stream. Docker keeps no log of either.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import time
from typing import Any, Iterator

from pool.runner import oom, processes
from pool.runner.attached import Attached
from pool.runner.engine import Engine, EngineError, EngineGoneError, was_restarted
from pool.runner.jobs import JobFolder
from pool.runner.process import Ended
from pool.runner.shim import Shim
from pool.runner.terminal import Terminal

#: What the runner gives to a container is here; in it the commands find their terminal, and the shell of the image
#: writes a first byte there.
OURS = "/.pool"
TERMINAL = OURS + "/terminal"
BEGUN = b"\x06"
_CHUNK = 1 << 16
_START_S = 120.0
#: How long signals, looks and removals wait for an engine that does not answer.
PATIENCE_S = 5.0
#: An engine that has gone is asked again after this long.
_AGAIN_S = 0.5
#: How long what is left in the terminal is taken once the container has ended.
_REST_S = 10.0

#: Stands in the log where an engine that was restarted may have dropped output of a container that went on.
_GAP = b"pool: the Docker engine was restarted: output may be missing here\n"

_GONE = 404
#: How often a shim is looked at where the kernel or Python cannot tell of its end.
_SHIM_LOOK_S = 2.0
_NO_TERMINAL = "the image's user cannot write to the terminal that it was given"
#: Of what ended without a byte of output: exit code -> why. 127 is an init's that does not find its program.
_BEFORE_IT_BEGAN = {
    127: "the image has no `sh`, which commands need",
    **dict.fromkeys((1, 2, 126), _NO_TERMINAL),
}

LABEL_JOB, LABEL_RUNNER = "pool.job", "pool.runner"


def name_of(job: str) -> str:
    """The name of a job's container."""
    return "pool-job-" + job


def labels(job: str, pool: str, attempt: int, state: str) -> dict[str, str]:
    """What says whose a container is: nothing without these is ever touched."""
    return {"pool.uuid": pool, LABEL_JOB: job, "pool.attempt": str(attempt), LABEL_RUNNER: state}


class Container:
    """One job in a container. As `process.Process`, word for word."""

    def __init__(self, folder: JobFolder, spec: dict[str, Any]) -> None:
        self.leader: dict[str, Any] = {}  #: none: its first process is the engine's
        self.exit = -1
        self.look_again_s: float | None = None
        self._folder, self._spec = folder, spec["container"]
        self._path = "/containers/" + name_of(folder.job)
        self._engine = Engine()
        self._id = ""
        self._since = 0.0
        self._terminal: Terminal | None = None
        self._begun = False
        self._attached: Attached | None = None
        self._waiting: socket.socket | None = None
        self._shim: Shim | None = None
        self._shim_look_s: float | None = None
        self._shim_lost_at: float | None = None
        self._watched = select.epoll()
        self._told = b""
        self._killed = False

    @property
    def output(self) -> int:
        """As of Process."""
        source = self._terminal or self._attached
        return source.output if source else -1

    def prepare(self, env: dict[str, Any]) -> None:
        """The terminal; the engine is asked once the job is ours to start."""
        self._env = env
        if self._spec["terminal"]:
            self._terminal = Terminal()
            owner, mode = self._spec["terminal"]
            if owner is not None:
                os.chown(self._terminal.path, owner, -1)
            os.chmod(self._terminal.path, mode)

    def start(self) -> str:
        """Make it and let it run; why it could not, or nothing."""
        name, self._since = name_of(self._folder.job), time.monotonic()
        try:
            made = self._engine.ask("POST", "/containers/create", self._config(), timeout_s=_START_S, name=name)
            self._id = str(made["Id"])
            self._attach("next-exit")
            self._engine.ask("POST", self._path + "/start", timeout_s=_START_S)
        except (EngineError, EngineGoneError) as error:
            return _in_words(str(error))
        with contextlib.suppress(EngineError, EngineGoneError):  # it runs, whether the engine can tell of it or not
            self._watch_shim()
        return ""

    def poll(self) -> Ended | None:
        """How it ended; None while it runs, and while nobody can tell."""
        if self._lost_its_shim():
            return Ended(None, "shim_lost")
        if self._waiting is None:
            return self._look_again()
        if not select.select([self._waiting], [], [], 0)[0]:
            return None
        code = self._read_end()
        if code is not None:
            return self._ended(code)
        if self._waiting is None:
            return self._look_again()
        return None

    def read(self) -> bytes:
        """The next piece of output, if there is one; at the end `output` is -1."""
        if self._terminal:
            return self._told_to_begin(self._terminal.read())
        assert self._attached
        return self._attached.read()

    def interrupt(self) -> None:
        """Ask it to end: SIGINT to the group of its first process, or to the image's own program."""
        self._signal("SIGINT")

    def kill(self) -> None:
        """End all of it now, if need be without the engine."""
        self._killed = True
        processes.send(processes.of_job(self._folder.job), signal.SIGKILL)
        self._signal("SIGKILL")

    def clear(self, soft_s: float) -> bool:
        """End what is left of it: of a container that has ended, nothing; of one that nobody could tell of, all."""
        return processes.kill_job(self._folder.job, None, soft_s=soft_s)

    def rest(self, limit_s: float | None) -> Iterator[bytes]:
        """What is still under way."""
        if self._terminal:
            self._terminal.let_go()
            # Others may hold it as well: what is left of the job's own is there at once.
            yield from map(self._told_to_begin, self._terminal.rest(_REST_S if limit_s is None else limit_s))
        if self._attached:
            yield from self._attached.rest(limit_s)

    def remove(self) -> bool:
        """Remove the container; False when the engine does not say that it is gone."""
        return remove(self._engine, self._folder.job)

    # -- inside -------------------------------------------------------------------------------------------------

    def _config(self) -> dict[str, Any]:
        """What the engine makes it of: as it was prepared, with the environment and the terminal."""
        config = {**self._spec["config"], "Env": ["{}={}".format(*pair) for pair in self._env.items()]}
        if self._terminal:
            terminal = {"Type": "bind", "Source": self._terminal.path, "Target": TERMINAL}
            host = config["HostConfig"]
            config["HostConfig"] = {**host, "Mounts": [*host["Mounts"], terminal]}
        return config

    def _attach(self, condition: str, before: bytes = b"") -> None:
        """Have its end told, and what it writes where that is not to a terminal."""
        if not self._terminal:
            stream = self._engine.open("POST", self._path + "/attach", stream=1, stdout=1, stderr=1)
            self._attached = Attached(stream, before)
        self._waiting = self._engine.open("POST", self._path + "/wait", condition=condition)
        self._watched.register(self._waiting, select.EPOLLIN)
        self.exit, self._told, self.look_again_s = self._watched.fileno(), b"", self._shim_look_s

    def _told_to_begin(self, chunk: bytes) -> bytes:
        """The output without the first byte, by which the shell of the image tells that it is there."""
        first, self._begun = not self._begun, self._begun or bool(chunk)
        return chunk[len(BEGUN) :] if first else chunk

    def _watch_shim(self) -> None:
        first = self._first_process()
        if first:
            self._shim = Shim(first)
            if self._shim.handle >= 0:
                self._watched.register(self._shim.handle, select.EPOLLIN)
            else:
                self.look_again_s = self._shim_look_s = _SHIM_LOOK_S

    def _lost_its_shim(self) -> bool:
        """True once its shim was killed and the engine has had its time to tell the end: all of it is killed, then."""
        if self._shim and self._shim.was_lost():
            self._shim_lost_at, self.look_again_s = time.monotonic(), _AGAIN_S
            self.kill()
        return self._shim_lost_at is not None and time.monotonic() - self._shim_lost_at > PATIENCE_S

    def _first_process(self) -> int | None:
        """Its number, 0 once it has ended; None when the engine's numbers are not this host's.

        An engine tells of a process a moment before that is the job's, and for a moment after its end.
        """
        until = time.monotonic() + PATIENCE_S
        while True:
            pid = int(self._state()["Pid"])
            if not pid or processes.is_of_job(pid, self._folder.job) or processes.is_in(pid, self._id):
                return pid
            if time.monotonic() > until:
                return None
            time.sleep(0.005)

    def _state(self) -> dict[str, Any]:
        state: dict[str, Any] = self._engine.ask("GET", self._path + "/json", timeout_s=PATIENCE_S)["State"]
        return state

    def _read_end(self) -> int | None:
        """The exit code out of the answer to `wait`; None when it is not there yet, or will not come."""
        assert self._waiting is not None
        try:
            chunk = self._waiting.recv(_CHUNK)
        except OSError:
            chunk = b""
        self._told += chunk
        start, end = self._told.find(b"{"), self._told.rfind(b"}")
        with contextlib.suppress(ValueError, KeyError):
            return int(json.loads(self._told[start : end + 1])["StatusCode"])
        if not chunk:
            self._waiting.close()
            self._waiting, self.look_again_s = None, _AGAIN_S
        return None

    def _ended(self, code: int) -> Ended:
        """What its end was, as far as the engine knows more than the code."""
        silent = self._terminal and not self._begun and not select.select([self.output], [], [], 0)[0]
        if silent and code in _BEFORE_IT_BEGAN:
            return Ended(code, _BEFORE_IT_BEGAN[code])
        if self._shim_lost_at is not None:
            return Ended(None, "shim_lost")
        if code == 0:
            return Ended(code)
        if not self._spec["live_restore"] and was_restarted(self._since):
            return Ended(code, "runtime_restart")
        try:
            state = self._state()
        except EngineError:
            return Ended(code)
        except EngineGoneError:
            return Ended(code, None if self._spec["live_restore"] else "runtime_restart")
        return Ended(code, "out_of_memory" if state.get("OOMKilled") or oom.logged(self._id) else None)

    def _look_again(self) -> Ended | None:
        """The engine hung up: it restarts, and either the container goes on or it has ended with it."""
        try:
            state = self._state()
            if state["Running"]:
                if self._attached:
                    self._attached.close()
                self._attach("not-running", _GAP)
                return None
            code = int(state["ExitCode"])
            # An engine that leaves its containers alone kept the code of what ended meanwhile.
            return self._ended(code) if self._spec["live_restore"] or not code else Ended(code, "runtime_restart")
        except EngineError as error:
            return Ended(None, "container_removed") if error.code == _GONE else None
        except EngineGoneError:
            gone = self._killed and not processes.of_job(self._folder.job)
            return Ended(None, "runtime_restart") if gone else None

    def _signal(self, name: str) -> None:
        with contextlib.suppress(EngineError, EngineGoneError):
            self._engine.ask("POST", self._path + "/kill", timeout_s=PATIENCE_S, signal=name)


def remove(engine: Engine, job: str) -> bool:
    """Remove a job's container, running or not; True once there is none."""
    try:
        engine.ask("DELETE", "/containers/" + name_of(job), timeout_s=PATIENCE_S, force="1", v="1")
    except EngineError as error:
        return error.code == 404
    except EngineGoneError:
        return False
    return True


def _in_words(said: str) -> str:
    """What the engine says, for those who did not ask it."""
    if "could not select device driver" in said or "unknown or invalid runtime name: nvidia" in said:
        return "Docker on this host cannot give GPUs to containers: nvidia-container-toolkit is missing"
    if "executable file not found" in said or ("no such file or directory" in said and "exec" in said):
        return "the image does not have the program: {}".format(said)
    if "no space left on device" in said:
        return "Docker has no space left on this host"
    return said
