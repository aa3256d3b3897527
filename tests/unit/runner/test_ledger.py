"""The ledger against a simple model, through any sequence of requests, restarts and losses."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from pool.runner import durable
from pool.runner.ledger import HELD, RESERVED, UNSTARTED_TTL_S, Held, Ledger, RefusedError, seen_by

GPUS = [f"GPU-{number}" for number in range(4)]
JOBS = st.sampled_from([f"job-{number}" for number in range(5)])
POOLS = st.sampled_from(["north", "south"])
SOME_GPUS = st.lists(st.sampled_from(GPUS), unique=True, max_size=3)


class LedgerMachine(RuleBasedStateMachine):
    """`model`: job -> [pool, gpus, state, expires], as the rules say it must be; time is ours to move."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.mkdtemp(prefix="ledger")
        self.path = os.path.join(self.folder, "ledger.json")
        self.now = 1000.0
        self.clock = durable.boot_clock
        durable.boot_clock = lambda: self.now
        self.model: dict[str, list[Any]] = {}
        self.epochs: dict[str, int] = {}
        self.told: Held = {}

    def teardown(self) -> None:
        durable.boot_clock = self.clock
        shutil.rmtree(self.folder)

    @initialize()
    def open(self) -> None:
        self.ledger = Ledger(self.path, [], self.hear)
        self.told = {}

    def hear(self, held: Held) -> None:
        self.told = held

    def expire(self) -> None:
        """Reservations whose time is up count no more, from the next request on."""
        self.model = {job: e for job, e in self.model.items() if e[2] == HELD or e[3] >= self.now}

    @rule(job=JOBS, pool=POOLS, gpus=SOME_GPUS, ttl=st.floats(1, 100))
    def reserve(self, job: str, pool: str, gpus: list[str], ttl: float) -> None:
        self.expire()
        mine = self.model.get(job)
        others = {gpu for other, entry in self.model.items() if other != job for gpu in entry[1]}
        try:
            self.ledger.reserve(job, pool, gpus, GPUS, ttl)
        except RefusedError as refusal:
            assert refusal.cause == ("not_yours" if mine and mine[0] != pool else "busy")
            assert (mine and mine[0] != pool) or others & set(gpus)
            return
        assert not (mine and mine[0] != pool)
        assert not others & set(gpus)
        if not (mine and mine[2] == HELD):
            self.model[job] = [pool, gpus, RESERVED, self.now + ttl]

    @rule(job=JOBS, pool=POOLS)
    def hold(self, job: str, pool: str) -> None:
        self.expire()
        mine = self.model.get(job)
        if mine is None or mine[0] != pool:
            with pytest.raises(RefusedError, match="no reservation"):
                self.ledger.hold(job, pool)
        else:
            assert self.ledger.hold(job, pool) == mine[1]
            self.model[job] = [pool, mine[1], HELD, self.now + UNSTARTED_TTL_S]

    @rule(job=JOBS)
    def release(self, job: str) -> None:
        self.ledger.release(job)
        self.model.pop(job, None)

    @rule(pool=POOLS, epoch=st.integers(1, 5))
    def epoch(self, pool: str, epoch: int) -> None:
        if epoch < self.epochs.get(pool, 0):
            with pytest.raises(RefusedError, match="newer server"):
                self.ledger.check_epoch(pool, epoch)
        else:
            self.ledger.check_epoch(pool, epoch)
            self.epochs[pool] = epoch

    @rule(seconds=st.floats(0, 80))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def reopen(self) -> None:
        """The runner was killed: what was answered is on disk."""
        self.open()

    @rule(damage=st.sampled_from([None, b"", b"{", b"[]", b'{"jobs": 3}', b'{"jobs": {"job-1": {}}, "epochs": {}}']))
    def lose(self, damage: bytes | None) -> None:
        """The file is lost or damaged: jobs that have a folder are taken from there, and hold what they held."""
        if damage is None:
            Path(self.path).unlink(missing_ok=True)
        else:
            Path(self.path).write_bytes(damage)
        folders = [{"job": job, "pool": e[0], "gpus": e[1]} for job, e in self.model.items() if e[2] == HELD]
        self.ledger = Ledger(self.path, folders, self.hear)
        self.model = {job: [e[0], e[1], HELD, 0.0] for job, e in self.model.items() if e[2] == HELD}
        self.epochs, self.told = {}, {gpu: (e[0], job) for job, e in self.model.items() for gpu in e[1]}

    @invariant()
    def no_gpu_is_in_two_entries(self) -> None:
        if not hasattr(self, "ledger"):
            return
        self.expire()
        entries = self.ledger.snapshot()
        gpus = [gpu for entry in entries.values() for gpu in entry["gpus"]]
        assert len(gpus) == len(set(gpus))
        found = {job: (e["pool"], e["gpus"], e["state"]) for job, e in entries.items()}
        assert found == {job: (e[0], e[1], e[2]) for job, e in self.model.items()}
        for job, entry in self.model.items():
            assert self.ledger.pool_of(job) == entry[0]
            assert self.ledger.expired(job) == (entry[3] < self.now)

    @invariant()
    def disk_is_as_memory(self) -> None:
        if hasattr(self, "ledger") and os.path.exists(self.path):
            with open(self.path, encoding="utf-8") as file:
                assert set(json.load(file)["jobs"]) == set(self.model)


LedgerMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
TestLedger = LedgerMachine.TestCase


def test_every_change_of_a_gpu_is_told(tmp_path: Path) -> None:
    """Taken, not when only its state changes, and given back."""
    told: list[Held] = []
    ledger = Ledger(str(tmp_path / "ledger.json"), [], told.append)
    ledger.reserve("a", "p", GPUS[:2], GPUS, 60)
    ledger.hold("a", "p")
    ledger.check_epoch("p", 7)
    ledger.release("a")
    assert told == [{"GPU-0": ("p", "a"), "GPU-1": ("p", "a")}, {}]


def test_others_jobs_have_no_name(tmp_path: Path) -> None:
    """A pool sees that a GPU is taken, not by whom: neither asked nor refused."""
    ledger = Ledger(str(tmp_path / "ledger.json"), [])
    ledger.reserve("a", "p", GPUS[:1], GPUS, 60)
    ledger.reserve("b", "q", GPUS[1:2], GPUS, 60)
    assert seen_by("p", ledger.held()) == {GPUS[0]: "a", GPUS[1]: ""}
    with pytest.raises(RefusedError) as refusal:
        ledger.reserve("c", "p", GPUS[:2], GPUS, 60)
    assert f"{GPUS[0]} (job a), {GPUS[1]} (another pool)" in str(refusal.value)


def test_an_unknown_gpu_is_refused(tmp_path: Path) -> None:
    """One that the host does not have (any more)."""
    ledger = Ledger(str(tmp_path / "ledger.json"), [])
    with pytest.raises(RefusedError, match="no GPU GPU-9"):
        ledger.reserve("a", "p", ["GPU-0", "GPU-9"], GPUS, 60)
    assert ledger.snapshot() == {}


def test_an_earlier_boots_entries_are_too_old(tmp_path: Path) -> None:
    """A reservation of before a reboot frees itself; what was held waits for the runner's look at its job."""
    path = str(tmp_path / "ledger.json")
    ledger = Ledger(path, [])
    ledger.reserve("reserved", "p", GPUS[:1], GPUS, 1e9)
    ledger.reserve("held", "p", GPUS[1:2], GPUS, 1e9)
    ledger.hold("held", "p")
    stored = durable.read_json(path)
    assert stored is not None
    for entry in stored["jobs"].values():
        entry["boot"] = "an earlier one"
    durable.write_json(path, stored)
    again = Ledger(path, [])
    assert list(again.snapshot()) == ["held"]
    assert again.expired("held")


def test_what_cannot_be_saved_is_not_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a full disk nothing more is reserved, what is given back is free, and a newer server is still known."""
    ledger = Ledger(str(tmp_path / "ledger.json"), [])
    ledger.reserve("a", "p", GPUS[:1], GPUS, 60)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(durable, "write_json", full)
    for job, gpus in (("b", GPUS[1:2]), ("a", GPUS[:2])):
        with pytest.raises(OSError, match="No space"):
            ledger.reserve(job, "p", gpus, GPUS, 60)
    with pytest.raises(OSError, match="No space"):
        ledger.hold("a", "p")
    assert {job: (e["gpus"], e["state"]) for job, e in ledger.snapshot().items()} == {"a": (GPUS[:1], RESERVED)}
    ledger.check_epoch("p", 4)
    with pytest.raises(RefusedError, match="newer"):
        ledger.check_epoch("p", 3)
    ledger.release("a")
    assert ledger.snapshot() == {}


def test_a_damaged_ledger_is_kept_aside(tmp_path: Path) -> None:
    """For whoever wants to know what was in it."""
    path = tmp_path / "ledger.json"
    twice = {"pool": "p", "gpus": GPUS[:1], "state": HELD, "boot": "", "expires": 0.0}
    path.write_text(json.dumps({"epochs": {}, "jobs": {"a": twice, "b": twice}}), encoding="utf-8")
    ledger = Ledger(str(path), [{"job": "a", "pool": "p", "gpus": GPUS[:1]}])
    assert list(ledger.snapshot()) == ["a"]
    assert "b" in json.loads((tmp_path / "ledger.json.damaged").read_text(encoding="utf-8"))["jobs"]
