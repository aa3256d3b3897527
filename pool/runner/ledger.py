"""Which job holds which GPUs of this host: the one place that decides it, for every pool and server.

A small JSON file, replaced whole and fsynced before an answer goes out. An entry is `reserved` until its job is
prepared and then `held`; either frees itself when the job is not started in time. A started job holds its GPUs until
the runner has seen its processes gone.
Servers only propose: a GPU that another entry has is refused, whoever asks.
"""

from __future__ import annotations

import os
import threading
from typing import Any

from pool.runner import durable

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

    def __init__(self, path: str, held_jobs: list[dict[str, Any]]) -> None:
        """`held_jobs`: specs of jobs that may still run, from which a missing or torn ledger is made again."""
        self._path = path
        self._lock = threading.Lock()
        self._boot = durable.boot_identity()
        stored = durable.read_json(path) or {}
        self._epochs = dict(stored.get("epochs", {}))
        self._jobs = dict(stored.get("jobs", {}))
        for spec in held_jobs:
            self._jobs.setdefault(spec["job"], _entry(spec["pool"], spec.get("gpus", []), HELD))
        if os.path.exists(path) or self._jobs:
            self._save()

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
                self._save()

    def reserve(self, job: str, pool: str, gpus: list[str], known: list[str], ttl_s: float) -> None:
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
                text = ", ".join("{} (job {})".format(uuid, taken[uuid]) for uuid in busy)
                raise RefusedError("busy", "GPU in use: {}".format(text), gpus=busy)
            if mine and mine["state"] == HELD:
                return
            self._jobs[job] = _entry(pool, gpus, RESERVED, self._boot, durable.boot_clock() + ttl_s)
            self._save()

    def hold(self, job: str, pool: str) -> list[str]:
        """Turn a live reservation into a claim that lasts until `release`; returns its GPUs."""
        with self._lock:
            self._expire()
            entry = self._jobs.get(job)
            if entry is None or entry["pool"] != pool:
                raise RefusedError("not_reserved", "job {} holds no reservation here".format(job))
            self._jobs[job] = _entry(pool, entry["gpus"], HELD, self._boot, durable.boot_clock() + UNSTARTED_TTL_S)
            self._save()
            return list(entry["gpus"])

    def expired(self, job: str) -> bool:
        """True when a held job should have started by now."""
        with self._lock:
            entry = self._jobs.get(job)
            return entry is not None and self._too_old(entry)

    def release(self, job: str) -> None:
        """Give the job's GPUs back; nothing happens when it holds none."""
        with self._lock:
            if self._jobs.pop(job, None) is not None:
                self._save()

    def snapshot(self) -> dict[str, Any]:
        """`{job: {"pool", "gpus", "state"}}` of every live entry."""
        with self._lock:
            self._expire()
            return {job: dict(entry) for job, entry in self._jobs.items()}

    def _expire(self) -> None:
        dead = [job for job, entry in self._jobs.items() if entry["state"] == RESERVED and self._too_old(entry)]
        for job in dead:
            del self._jobs[job]
        if dead:
            self._save()

    def _too_old(self, entry: dict[str, Any]) -> bool:
        return bool(entry["boot"] != self._boot or entry["expires"] < durable.boot_clock())

    def _save(self) -> None:
        durable.write_json(self._path, {"version": 1, "epochs": self._epochs, "jobs": self._jobs})


def _entry(pool: str, gpus: list[str], state: str, boot: str = "", expires: float = 0.0) -> dict[str, Any]:
    return {"pool": pool, "gpus": list(gpus), "state": state, "boot": boot, "expires": expires}
