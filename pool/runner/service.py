"""What a server may ask of this host: one method a verb, each safe to repeat; here, those about the host and its jobs.

`handle` finds the verb, and every answer is `(head, body)`; `open` finds the one that opens a stream. RefusedError
becomes an ERROR frame with a fixed `cause`.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from typing import Any, Callable, Dict, Iterator, Tuple, Union

from pool.runner import durable, launch, probe, processes
from pool.runner.activity import Activity
from pool.runner.code_verbs import CodeVerbs
from pool.runner.containers import Containers
from pool.runner.copy_verbs import CopyVerbs
from pool.runner.drain import Drain
from pool.runner.forker import Forked
from pool.runner.image import Images
from pool.runner.image_verbs import ImageVerbs
from pool.runner.jobs import EXITED, PREPARED, RUNNING, JobFolder, all_jobs
from pool.runner.ledger import HELD, Ledger, RefusedError, seen_by
from pool.runner.log_verbs import LogVerbs
from pool.runner.peer import Owners, Peer
from pool.runner.port_verbs import PortVerbs
from pool.runner.prepare import Preparer
from pool.runner.shell_verbs import ShellVerbs
from pool.runner.streams import Stream
from pool.runner.version import PROTOCOL_MAX, PROTOCOL_MIN, VERSION
from pool.runner.watch import FolderWatch

_LOOK_EVERY_S = 2.0
#: A supervisor that has not taken its job after this long never will.
_START_S = 20.0
#: What may be asked without a pool: by a person or a playbook on the host itself.
_OF_THE_HOST = ("drain", "undrain", "standing")


#: The head of an EVENT, or what makes it for a pool.
Event = Union[Dict[str, Any], Callable[[str], Dict[str, Any]]]
#: The head of the answer to OPEN, and what serves the stream in a thread of its own.
Opened = Tuple[Dict[str, Any], Callable[[Stream], None]]


class Service:
    """The runner of one state folder."""

    def __init__(self, state: str, announce: Callable[[str | None, Event], None]) -> None:
        """`announce(pool, event)` sends it to every connection of that pool, or of all; it must not block."""
        self._state = state
        self._announce = announce
        self._boot = durable.boot_identity()
        self._folders = threading.Condition()
        self._locks: dict[str, threading.Lock] = {}
        self._known_gpus: set[str] = set()
        self._ending = threading.Lock()
        self._launcher = launch.Launcher(state)
        self._supervisors: dict[str, subprocess.Popen[bytes] | Forked] = {}
        os.makedirs(os.path.join(state, "jobs"), mode=0o711, exist_ok=True)
        self._images = Images(state)
        self._containers = Containers(state)
        self._activity = Activity(state)
        self._drain = Drain(state, lambda told: announce(None, {"event": "drain", "drain": told}))
        alive = processes.marked_jobs()
        unfinished = [folder for folder in all_jobs(state) if folder.exit is None or folder.job in alive]
        self._ledger = Ledger(
            os.path.join(state, "ledger.json"),
            [folder.spec for folder in unfinished],
            lambda held: announce(None, lambda pool: {"event": "ledger", "held": seen_by(pool, held)}),
        )
        self._owners = Owners(state, self._ledger)
        self._code = CodeVerbs(state, os.path.join(state, "code"), self._ledger.snapshot)
        self._preparer = Preparer(state, self._code.code, self._images)
        rooms = (
            self,
            self._code,
            ImageVerbs(self._images, self._ledger, self._owners),
            LogVerbs(self._owners, self._folders, self._activity),
            PortVerbs(self._owners),
            ShellVerbs(state, self._owners),
            CopyVerbs(state, self._owners),
        )
        self._verbs = {name: method for room in rooms for name, method in _named("verb_", room)}
        self._openers = {name: method for room in rooms for name, method in _named("open_", room)}
        self._watch = FolderWatch(self._folder_changed)
        for folder in unfinished:
            self._watch.add(folder.job, folder.path)
        threading.Thread(target=self._look_forever, name="look", daemon=True).start()
        tidy = self._images.shelf.tidy_forever
        threading.Thread(target=tidy, args=(self._ledger.snapshot,), name="tidy", daemon=True).start()

    def close(self) -> None:
        """End what belongs to the runner alone; jobs and their supervisors are not touched."""
        self._launcher.close()

    def handle(self, peer: Peer, head: dict[str, Any], body: bytes) -> tuple[dict[str, Any], bytes]:
        """Do what `head["verb"]` says. Most need the pool; a server that has been replaced is refused."""
        method = self._found(self._verbs, peer, head)
        answer = method(peer, head, body)
        return answer if isinstance(answer, tuple) else (answer, b"")

    def open(self, peer: Peer, head: dict[str, Any]) -> Opened:
        """Begin the stream that `head["verb"]` says: what to answer, and what then serves it, to its end."""
        answer, serve = self._found(self._openers, peer, head)(peer, head)

        def connected(stream: Stream) -> None:
            with self._activity.at(str(head["job"])):
                serve(stream)

        return answer, connected if "job" in head else serve

    def _found(self, verbs: dict[str, Any], peer: Peer, head: dict[str, Any]) -> Any:
        verb = head.get("verb")
        if not isinstance(verb, str) or verb not in verbs:
            raise RefusedError("bad_request", "unknown verb {!r}".format(verb))
        if peer.pool and verb != "hello":
            self._ledger.check_epoch(peer.pool, peer.epoch)
        elif verb not in ("hello", *_OF_THE_HOST):
            raise RefusedError("bad_request", "say hello first")
        return verbs[verb]

    # -- the host -----------------------------------------------------------------------------------------------

    def verb_hello(self, peer: Peer, head: dict[str, Any], _: bytes) -> dict[str, Any]:
        """Settle protocol, pool and epoch."""
        theirs = head["protocol"]
        protocol = min(PROTOCOL_MAX, theirs[1])
        if protocol < max(PROTOCOL_MIN, theirs[0]):
            raise RefusedError(
                "protocol", "runner {} speaks protocol {}..{}".format(VERSION, PROTOCOL_MIN, PROTOCOL_MAX)
            )
        self._ledger.check_epoch(str(head["pool"]), int(head["epoch"]))
        peer.pool, peer.epoch = str(head["pool"]), int(head["epoch"])
        return {"protocol": protocol, "version": VERSION, "boot": self._boot, "pid": os.getpid()}

    def verb_facts(self, peer: Peer, _: dict[str, Any], __: bytes) -> dict[str, Any]:
        """The host's facts, read now."""
        facts = probe.facts(self._state)
        self._known_gpus = {gpu["uuid"] for gpu in facts["gpus"]}
        return {**facts, "ssh_ip": peer.ssh_ip, "drain": self._drain.told}

    def verb_drain(self, peer: Peer, head: dict[str, Any], __: bytes) -> dict[str, Any]:
        """Take no new jobs from now on, for `by` and its `reason`; running ones go on."""
        changed = self._drain.begin(head["by"], head.get("reason") or "")
        return {"changed": changed, **self._standing(peer)}

    def verb_undrain(self, peer: Peer, head: dict[str, Any], __: bytes) -> dict[str, Any]:
        """Take back the drain of `by`; without it, every drain."""
        changed = self._drain.end(head.get("by"))
        return {"changed": changed, **self._standing(peer)}

    def verb_standing(self, peer: Peer, __: dict[str, Any], ___: bytes) -> dict[str, Any]:
        """Who drains the host, and the jobs of every pool that hold something of it."""
        return self._standing(peer)

    def _standing(self, peer: Peer) -> dict[str, Any]:
        """Others' jobs have no name for a server; who asks on the host itself is no pool, and told all."""
        jobs = self._ledger.snapshot().items()
        named = [job if peer.pool in ("", entry["pool"]) else "" for job, entry in jobs]
        return {"drain": self._drain.told, "jobs": sorted(named)}

    # -- making a job ready -------------------------------------------------------------------------------------

    def verb_reserve(self, peer: Peer, head: dict[str, Any], _: bytes) -> dict[str, Any]:
        """Reserve GPUs for a job; says whether its code is here and, if asked, names a free TCP port."""
        folder = JobFolder(self._state, head["job"])
        gpus = [str(uuid) for uuid in head["gpus"]]
        if not self._known_gpus.issuperset(gpus):  # nvidia-smi takes a second: asked only when it may tell more
            self._known_gpus = {gpu["uuid"] for gpu in probe.nvidia_gpus()[0]}
        with self._drain.none():
            self._ledger.reserve(folder.job, peer.pool, gpus, self._known_gpus, float(head["ttl_s"]))
        code = head.get("code")
        return {
            "has_code": self._code.promise(folder.job, code) if code else False,
            "port": probe.free_port() if head.get("port") else None,
        }

    def verb_release(self, peer: Peer, head: dict[str, Any], _: bytes) -> dict[str, Any]:
        """Undo reserve and prepare of a job that has not started."""
        folder = self._owners.own(peer, head["job"], must_exist=False)
        with self._lock_of(folder):
            if folder.started is not None:
                raise RefusedError("started", "job {} has started; stop it instead".format(folder.job))
            self._free(folder, forget=True)
        return {}

    def verb_prepare(self, peer: Peer, head: dict[str, Any], _: bytes) -> dict[str, Any]:
        """Make the job's folder: code unpacked, script and environment written. Nothing of the job runs yet."""
        folder = self._owners.own(peer, head["job"], must_exist=False)
        with self._lock_of(folder):  # the server that asked before may be gone and its request still under way
            if folder.started is None:
                gpus = self._ledger.hold(folder.job, peer.pool)
                self._preparer.prepare(folder, head["task"], gpus, peer.pool, peer.uid)
                self._code.made(folder.job)
                self._watch.add(folder.job, folder.path)
        return folder.status()

    # -- running it ---------------------------------------------------------------------------------------------

    def verb_start(self, peer: Peer, head: dict[str, Any], _: bytes) -> dict[str, Any]:
        """Start a prepared job; a job that has started before is left as it is."""
        folder = self._owners.own(peer, head["job"])
        with self._lock_of(folder):  # held until it has started: asked twice at once, there is one supervisor
            if folder.started is None:
                self._ledger.hold(folder.job, peer.pool)
                supervisor = self._supervisors[folder.job] = self._launcher.supervise(folder.job)
                self._await_start(folder, supervisor)
        return folder.status()

    def verb_stop(self, peer: Peer, head: dict[str, Any], _: bytes) -> dict[str, Any]:
        """Ask the job to end: SIGINT, after `grace_s` SIGKILL; `abort` kills at once."""
        folder = self._owners.own(peer, head["job"])
        if folder.exit is not None:
            return folder.status()
        asked = {"grace_s": float(head.get("grace_s", 30)), "abort": bool(head.get("abort"))}
        durable.write_json(folder.file("stop"), asked)
        if not self._signal_supervisor(folder):
            self._end_unsupervised(folder)
        return folder.status()

    def verb_jobs(self, peer: Peer, _: dict[str, Any], __: bytes) -> dict[str, Any]:
        """Every job of the asking pool on this host, what the ledger says of them, and which GPUs are held at all."""
        mine = [folder.status() for folder in all_jobs(self._state) if folder.pool == peer.pool]
        ledger = {job: entry for job, entry in self._ledger.snapshot().items() if entry["pool"] == peer.pool}
        held = seen_by(peer.pool, self._ledger.held())
        return {"boot": self._boot, "jobs": mine, "ledger": ledger, "held": held}

    def verb_forget(self, peer: Peer, head: dict[str, Any], _: bytes) -> dict[str, Any]:
        """Delete a finished job's folder."""
        folder = self._owners.own(peer, head["job"], must_exist=False)
        with self._lock_of(folder):
            if folder.exists and folder.exit is None:
                raise RefusedError("running", "job {} has not ended".format(folder.job))
            self._free(folder, forget=True)
        return {}

    # -- inside -------------------------------------------------------------------------------------------------

    def _lock_of(self, folder: JobFolder) -> threading.Lock:
        """One request at a time may make, start or delete a job's folder."""
        return self._locks.setdefault(folder.job, threading.Lock())

    def _free(self, folder: JobFolder, forget: bool = False) -> None:
        """Give the job's GPUs back; with `forget`, delete its folder first."""
        if forget:
            folder.remove()
        self._supervisors.pop(folder.job, None)
        self._watch.remove(folder.job)
        self._ledger.release(folder.job)

    def _await_start(self, folder: JobFolder, supervisor: subprocess.Popen[bytes] | Forked) -> None:
        """Until the supervisor has taken the job. One that dies or takes too long is kept from taking it later."""
        deadline = time.monotonic() + _START_S
        with self._folders:
            while folder.started is None and supervisor.poll() in (None, 0) and time.monotonic() < deadline:
                self._folders.wait(0.2)
        if folder.started is None and self._claim(folder):
            self._write_end(folder, "cannot start: {}".format(launch.complaint(self._state, folder.job)))

    def _claim(self, folder: JobFolder) -> bool:
        """Take a job that has not started, so that it never does; False when a supervisor was ahead."""
        try:
            durable.create_json(folder.file("started"), {"boot": self._boot, "supervisor": None, "at": None})
        except FileExistsError:
            return False
        return True

    def _signal_supervisor(self, folder: JobFolder) -> bool:
        started = folder.started
        if not started or not folder.supervised():
            return False
        processes.send([int(started["supervisor"]["pid"])], launch.STOP_SIGNAL)
        return True

    def _end_unsupervised(self, folder: JobFolder) -> None:
        """Write the end of a job that no supervisor will: never started, supervisor lost, or host rebooted."""
        if folder.started is None and self._claim(folder):
            self._write_end(folder, "stopped")
            return
        started = folder.started or {}
        if started.get("boot") != self._boot:
            self._write_end(folder, "host_reboot")
        elif folder.supervised():
            self._signal_supervisor(folder)
        elif processes.kill_job(folder.job, started.get("session"), soft_s=0.0) and self._containers.gone(folder):
            self._write_end(folder, "supervisor_lost")

    def _write_end(self, folder: JobFolder, reason: str) -> None:
        with self._ending:
            if folder.exit is None:
                record = {"exit_code": None, "reason": reason, "at": time.time(), "log_bytes": folder.log_bytes}
                folder.write_exit(record)
                self._containers.look()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(folder.file("env.json"))

    def _folder_changed(self, job: str, file: str) -> None:
        """From the watch: wake who reads the log, and tell the pool of a start or an end."""
        if file not in ("log", "started", "exit.json", ""):
            return
        with self._folders:
            self._folders.notify_all()
        if file == "log":
            return
        for folder in [JobFolder(self._state, job)] if job else all_jobs(self._state):
            if folder.exists:
                self._tell(folder)

    def _tell(self, folder: JobFolder) -> None:
        """Tell the pool how the job stands; an end is told once its GPUs are free, where they can be freed."""
        status, pool = folder.status(), folder.pool
        if status["state"] == EXITED:
            self._settle(folder)
        if pool is not None:
            self._announce(pool, {"event": "job", **status})

    def _settle(self, folder: JobFolder) -> None:
        """After the end: give the GPUs back once none of the job's processes is left."""
        started = folder.started or {}
        left = started.get("boot") == self._boot and (
            not self._containers.gone(folder)
            or processes.of_job(folder.job, started.get("session"), started.get("supervisor"))
        )
        if not left:
            self._free(folder)

    def _look_forever(self) -> None:
        """Every few seconds: reap supervisors, end what lost its supervisor, free what has ended."""
        while True:
            try:
                for process in list(self._supervisors.values()):
                    process.poll()
                self._look()
            except Exception as error:  # a full disk, a job's folder that was deleted meanwhile: look again
                sys.stderr.write("look: {!r}\n".format(error))
            time.sleep(_LOOK_EVERY_S)

    def _look(self) -> None:
        self._containers.sweep()
        for job, entry in self._ledger.snapshot().items():
            if entry["state"] != HELD:
                continue
            folder = JobFolder(self._state, job)
            state = folder.status()["state"] if folder.exists else None
            if state == RUNNING and not folder.supervised():
                self._end_unsupervised(folder)
            elif state == EXITED:
                self._tell(folder)
            elif state in (PREPARED, None):
                self._expire(folder)

    def _expire(self, folder: JobFolder) -> None:
        """A job that was made ready and never started: its server is gone or has changed its mind."""
        lock = self._lock_of(folder)
        if not lock.acquire(blocking=False):  # it is being prepared or started right now
            return
        try:
            if folder.started is None and self._ledger.expired(folder.job):
                self._free(folder, forget=True)
        finally:
            lock.release()


def _named(prefix: str, room: Any) -> Iterator[tuple[str, Any]]:
    """The methods whose names begin with `prefix`, by the rest of their names."""
    for name in dir(room):
        if name.startswith(prefix):
            yield name[len(prefix) :], getattr(room, name)
