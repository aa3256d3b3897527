"""Who may reach which port of a run: its owner, and root, those that are declared or named; and how one stands."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pool.errors import InputError, NotFoundError, OwnerError
from pool.lifecycle import ports
from pool.lifecycle.context import Context
from pool.run import Port
from pool.states import JobStatus
from pool.store.store import Store
from pool.task.options import parse_options
from tests.unit.store.test_store import GPUS, HOST, offer, run_of


@pytest.fixture
def ctx(tmp_path: Path) -> Context:
    """With one run of ann's that waits, of one rank, with ports 6006 and 8080."""
    store = Store(str(tmp_path))
    store.hosts.add(HOST)
    run = run_of("r1")
    spec = replace(run.spec, ports=(Port(6006, 6006), Port(8080, None)))
    store.runs.add(replace(run, user="ann", spec=spec))
    return Context(str(tmp_path), store, epoch=1)


def head(port: int = 6006, **more: Any) -> dict[str, Any]:
    """As a command asks."""
    return {"run": "r1", "rank": 0, "port": port, **more}


@pytest.mark.parametrize(
    "act",
    [
        lambda ctx, user: ports.forwarded(ctx, user, "r1", 0, parse_options({})),
        lambda ctx, user: ports.standing(ctx, user, head()),
        lambda ctx, user: ports.open_port(ctx, user, head(attached=True)),
    ],
    ids=["list", "stand", "open"],
)
def test_nobody_else_s(ctx: Context, act: Callable[[Context, str], object]) -> None:
    """Not even to hear whether the job listens."""
    with pytest.raises(OwnerError, match="is ann's"):
        act(ctx, "bob")


def test_what_is_forwarded(ctx: Context) -> None:
    """What the task declares; -p adds, and puts another local port in the place of a declared one."""

    def found(*typed: str) -> list[tuple[int, int | None]]:
        options = parse_options({"ports": list(typed)} if typed else {})
        return [(port.container, port.local) for port in ports.forwarded(ctx, "ann", "r1", 0, options)]

    assert found() == [(6006, 6006), (8080, None)]
    assert found("6007:6006", "1") == [(6006, 6007), (8080, None), (1, 1)]
    with pytest.raises(InputError, match="local port 6006 is used twice"):
        found("6006:1")
    with pytest.raises(NotFoundError, match="no rank 1"):
        ports.forwarded(ctx, "ann", "r1", 1, parse_options({}))


def test_only_what_is_declared_or_named(ctx: Context) -> None:
    """Any other is refused with the words that would name it."""
    for user in ("ann", "root"):
        with pytest.raises(InputError, match="r1 declares no port 1") as error:
            ports.open_port(ctx, user, head(1))
        assert error.value.hint is not None
        assert error.value.hint.startswith("pool attach ")
        assert ports.standing(ctx, user, head(1, attached=True))["state"] == "waits"


def test_how_a_port_stands_before_and_after(ctx: Context) -> None:
    """It waits for its job, and ends with it."""
    assert ports.standing(ctx, "ann", head()) == {"state": "waits", "host": None}
    ctx.store.runs.place("r1", [offer(*GPUS)])
    job = ctx.store.runs.get("r1").jobs[0]
    ctx.store.runs.move(job.id, JobStatus.STARTING)
    ctx.store.runs.move(job.id, JobStatus.FAILED)
    assert ports.standing(ctx, "ann", head(wait_s=20)) == {"state": "ended", "host": None}
