"""Which job holds which GPUs of this host: the one place that decides it, for every pool and server.

A small JSON file, replaced whole and fsynced before an answer goes out. An entry is `reserved` until its job is
prepared and then `held`; either frees itself when the job is not started in time. A started job holds its GPUs until
the runner has seen its processes gone.
Servers only propose: a GPU that another entry has is refused, whoever asks.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from typing import Any, Callable, Container, Dict, Tuple

from pool.runner import durable

#: GPU -> the pool and the job that have it.
Held = Dict[str, Tuple[str, str]]

RESERVED, HELD = "reserved", "held"

#: A job that is made ready and not started within this time gives its GPUs back.
UNSTARTED_TTL_S = 60.0


class RefusedError(Exception):
    """The runner does not do what was asked; `cause` is a fixed word, the message is for people."""

    def __init__(self, cause: str, message: str, **details: object) -> None:
        super().__init__(message)
        self.cause = cause
        self.details = details


class Ledger:
    """The ledger of one state folder. Safe to use from several threads; one process at a time (the daemon's lock)."""

    def __init__(
        self, path: str, held_jobs: list[dict[str, Any]], changed: Callable[[Held], None] = lambda _: None
    ) -> None:
        """`held_jobs`: specs of jobs that may still run, from which a missing or damaged ledger is made again.

        `changed(held)` is called, and must not block, whenever a GPU was taken or has become free.
        """
        self._path = path
        self._changed = changed
        self._lock = threading.Lock()
        self._boot = durable.boot_identity()
        stored = durable.read_json(path)
        if stored is None or not _makes_sense(stored):
            if os.path.exists(path):
                os.rename(path, path + ".damaged")
            stored = {"epochs": {}, "jobs": {}}
        self._epochs: dict[str, int] = stored["epochs"]
        self._jobs: dict[str, dict[str, Any]] = stored["jobs"]
        for spec in held_jobs:
            self._jobs.setdefault(spec["job"], _entry(spec["pool"], spec.get("gpus", []), HELD))
        if os.path.exists(path) or self._jobs:
            with contextlib.suppress(OSError):
                self._save(self._jobs)

    def check_epoch(self, pool: str, epoch: int) -> None:
        """Remember the newest server of `pool`; RefusedError("stale") for an older one."""
        with self._lock:
            newest = self._epochs.get(pool, 0)
            if epoch < newest:
                raise RefusedError(
                    "stale", "a newer server (epoch {}) has taken over; this one is {}".format(newest, epoch)
                )
            if epoch > newest:
                self._epochs[pool] = epoch
                with contextlib.suppress(OSError):  # on a full disk the newest server can still stop its jobs
                    self._save(self._jobs)

    def reserve(self, job: str, pool: str, gpus: list[str], known: Container[str], ttl_s: float) -> None:
        """Reserve all of `gpus` for `job` or none; the same job asking again renews its reservation."""
        unknown = [uuid for uuid in gpus if uuid not in known]
        if unknown:
            raise RefusedError("no_such_gpu", "this host has no GPU {}".format(", ".join(unknown)))
        with self._lock:
            self._expire()
            mine = self._jobs.get(job)
            if mine and mine["pool"] != pool:
                raise RefusedError("not_yours", "job {} belongs to another pool".format(job))
            taken = {uuid: other for other, entry in self._jobs.items() if other != job for uuid in entry["gpus"]}
            busy = [uuid for uuid in gpus if uuid in taken]
            if busy:
                jobs = seen_by(pool, self._held())
                text = ", ".join(
                    "{} ({})".format(uuid, "job " + jobs[uuid] if jobs[uuid] else "another pool") for uuid in busy
                )
                raise RefusedError("busy", "GPU in use: {}".format(text), gpus=busy)
            if mine and mine["state"] == HELD:
                return
            entry = _entry(pool, gpus, RESERVED, self._boot, durable.boot_clock() + ttl_s)
            self._save({**self._jobs, job: entry})

    def hold(self, job: str, pool: str) -> list[str]:
        """Turn a live reservation into a claim that lasts until `release`; returns its GPUs."""
        with self._lock:
            self._expire()
            entry = self._jobs.get(job)
            if entry is None or entry["pool"] != pool:
                raise RefusedError("not_reserved", "job {} holds no reservation here".format(job))
            entry = _entry(pool, entry["gpus"], HELD, self._boot, durable.boot_clock() + UNSTARTED_TTL_S)
            self._save({**self._jobs, job: entry})
            return list(entry["gpus"])

    def pool_of(self, job: str) -> str | None:
        """The pool that a job's entry belongs to; None without an entry."""
        with self._lock:
            entry = self._jobs.get(job)
            return entry["pool"] if entry else None

    def expired(self, job: str) -> bool:
        """True when a held job should have started by now."""
        with self._lock:
            entry = self._jobs.get(job)
            return entry is not None and self._too_old(entry)

    def release(self, job: str) -> None:
        """Give the job's GPUs back; nothing happens when it holds none."""
        with self._lock:
            if job in self._jobs:
                self._give_back([job])

    def snapshot(self) -> dict[str, Any]:
        """`{job: {"pool", "gpus", "state"}}` of every live entry."""
        with self._lock:
            self._expire()
            return {job: dict(entry) for job, entry in self._jobs.items()}

    def _expire(self) -> None:
        dead = [job for job, entry in self._jobs.items() if entry["state"] == RESERVED and self._too_old(entry)]
        if dead:
            self._give_back(dead)

    def _too_old(self, entry: dict[str, Any]) -> bool:
        return bool(entry["boot"] != self._boot or entry["expires"] < durable.boot_clock())

    def held(self) -> Held:
        """Who has each GPU."""
        with self._lock:
            return self._held()

    def _held(self) -> Held:
        return {uuid: (entry["pool"], job) for job, entry in self._jobs.items() for uuid in entry["gpus"]}

    def _give_back(self, jobs: list[str]) -> None:
        left = {job: entry for job, entry in self._jobs.items() if job not in jobs}
        try:
            self._save(left)
        except OSError:  # a full disk: free now; a runner that starts again finds the end and frees them again
            self._take(left)

    def _save(self, jobs: dict[str, dict[str, Any]]) -> None:
        """Make `jobs` the ledger: on disk first, or not at all."""
        durable.write_json(self._path, {"version": 1, "epochs": self._epochs, "jobs": jobs})
        self._take(jobs)

    def _take(self, jobs: dict[str, dict[str, Any]]) -> None:
        before, self._jobs = self._held(), jobs
        if before != self._held():
            self._changed(self._held())


def cause_of(error: OSError) -> str:
    """The cause of a refusal for what the system said: `disk_full` also where a quota is used up, else `failed`."""
    return "disk_full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "failed"


def seen_by(pool: str, held: Held) -> dict[str, str]:
    """`{gpu: job}` as `pool` may know it: others' jobs have no name, for who knows a pool's name could pass for it."""
    return {uuid: job if owner == pool else "" for uuid, (owner, job) in held.items()}


def _makes_sense(stored: dict[str, Any]) -> bool:
    """False for a ledger that was not written as this module does, or that has a GPU twice."""
    try:
        epochs = [int(epoch) == epoch for epoch in stored["epochs"].values()]
        entries = list(stored["jobs"].values())
        gpus = [uuid for entry in entries for uuid in entry["gpus"]]
        kinds = [
            isinstance(entry["pool"], str)
            and entry["state"] in (RESERVED, HELD)
            and isinstance(entry["boot"], str)
            and isinstance(entry["expires"], (int, float))
            and isinstance(entry["gpus"], list)
            for entry in entries
        ]
    except (KeyError, TypeError, ValueError, AttributeError):
        return False
    return all(epochs) and all(kinds) and all(isinstance(g, str) for g in gpus) and len(set(gpus)) == len(gpus)


def _entry(pool: str, gpus: list[str], state: str, boot: str = "", expires: float = 0.0) -> dict[str, Any]:
    return {"pool": pool, "gpus": list(gpus), "state": state, "boot": boot, "expires": expires}
