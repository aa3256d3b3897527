"""Folders on their way to a host, which answers as the real one does: what is sent, said, and done again."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pool.errors import InputError, RunError, RunnerError, UnreachableError
from pool.lifecycle import code as sending
from pool.lifecycle.code import Sending
from pool.lifecycle.context import Context
from pool.runner.code_verbs import CodeVerbs
from pool.runner.frames import MAX_BODY
from pool.runner.ledger import RefusedError
from pool.runner.peer import Peer
from pool.store.store import Store
from tests.code import keep, listed
from tests.unit.store.test_store import HOST, run_of


class Link:
    """The keeper of one link, at whose end the verbs of a real host are; remembers what was sent."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.sent: list[tuple[str, int]] = []
        self.fault: Callable[[str], None] = lambda _: None
        self.start()

    def start(self) -> None:
        """A runner begins anew on what is there."""
        self.host = CodeVerbs(str(self.path), str(self.path / "code"), set)

    def ask(self, _: str, verb: str, body: bytes = b"", **head: Any) -> Callable[[float], tuple[dict[str, Any], bytes]]:
        """As of the real one."""
        self.sent.append((verb, len(body)))
        self.fault(verb)
        peer = Peer(0)
        peer.pool = "p"
        try:
            answer = getattr(self.host, "verb_" + verb)(peer, head, body)
        except RefusedError as refusal:
            message, cause = str(refusal), refusal.cause

            def refused(_: float) -> Any:
                raise RunnerError(f"gpu1: {message}", cause=cause)

            return refused
        return lambda _: answer if isinstance(answer, tuple) else (answer, b"")

    def request(self, host: str, verb: str, body: bytes = b"", *, timeout: float, **head: Any) -> Any:
        """As of the real one."""
        return self.ask(host, verb, body, **head)(timeout)

    def bytes(self) -> int:
        """How much of contents was sent."""
        return sum(size for verb, size in self.sent if verb == "code_write")


@pytest.fixture
def ctx(tmp_path: Path) -> Context:
    """A server with one host."""
    (tmp_path / "host").mkdir()
    (tmp_path / "server").mkdir()
    made = Context(str(tmp_path / "server"), Store(str(tmp_path / "server")), 1)
    made.keeper = Link(tmp_path / "host")  # type: ignore[assignment]
    return made


def link(ctx: Context) -> Link:
    """The stand-in."""
    return ctx.keeper  # type: ignore[return-value]


def send(ctx: Context, sha256: str, said: list[str] | None = None, for_s: float = 60.0) -> bool:
    """One round."""
    return Sending(ctx, HOST, sha256, (said if said is not None else []).append).go_on(for_s)


def test_only_what_a_host_has_not_is_sent(ctx: Context) -> None:
    """The list and the contents, in pieces; then of another folder only what is new; then nothing but the list."""
    data = os.urandom(3 * MAX_BODY + 5)
    first, contents = listed(("f", "large", data), ("f", "small", b"x"))
    keep(ctx.code, first, contents)
    assert send(ctx, first.sha256)
    assert link(ctx).bytes() == len(data) + 1
    assert [size for verb, size in link(ctx).sent if verb == "code_write"] == [MAX_BODY] * 3 + [6]
    second, more = listed(("f", "large", data), ("f", "small", b"yz"))
    keep(ctx.code, second, more)
    link(ctx).sent.clear()
    assert send(ctx, second.sha256)
    assert link(ctx).bytes() == 2
    link(ctx).sent.clear()
    assert send(ctx, second.sha256)
    assert link(ctx).sent == [("code_list", len(second.data))]
    host = link(ctx).host.code
    assert host.has(first.sha256)
    assert host.has(second.sha256)


@pytest.mark.parametrize("entries", [[], [("d", "a", 0o755)], [("f", "a", b"")]])
def test_a_folder_with_nothing_in_it(ctx: Context, entries: list[tuple[Any, ...]]) -> None:
    """Not even a byte."""
    manifest, contents = listed(*entries)
    keep(ctx.code, manifest, contents)
    assert send(ctx, manifest.sha256)
    assert link(ctx).host.code.has(manifest.sha256)


def test_it_is_said_how_far_it_is(ctx: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    """When it takes long."""
    monkeypatch.setattr(sending, "_SAY_EVERY_S", 0.0)
    manifest, contents = listed(("f", "large", bytes(20 * MAX_BODY)))
    keep(ctx.code, manifest, contents)
    said: list[str] = []
    send(ctx, manifest.sha256, said)
    assert said == []
    link(ctx).start()
    link(ctx).host.code.packs.remove(link(ctx).host.code.packs.sizes()[0][0])
    monkeypatch.setattr(sending, "_SAY_AFTER_S", 0.0)
    send(ctx, manifest.sha256, said)
    assert said[0] == f"sending the folder to {HOST.name}: 8 of 20 MB"
    assert said[-1] == f"sending the folder to {HOST.name}: 20 of 20 MB"


def test_it_goes_on_in_rounds(ctx: Context) -> None:
    """Between which reservations are renewed; nothing is sent twice."""
    manifest, contents = listed(("f", "large", os.urandom(5 * MAX_BODY)))
    keep(ctx.code, manifest, contents)
    one = Sending(ctx, HOST, manifest.sha256, lambda _: None)
    assert not one.go_on(0.0)
    assert one.go_on(60.0)
    assert link(ctx).bytes() == 5 * MAX_BODY


def test_a_runner_that_was_started_anew_gets_it_again(ctx: Context) -> None:
    """From the beginning; one that is always gone gets it no more."""
    manifest, contents = listed(("f", "large", os.urandom(5 * MAX_BODY)))
    keep(ctx.code, manifest, contents)
    restarts = 1

    def fault(verb: str) -> None:
        nonlocal restarts
        if verb == "code_write" and restarts:
            restarts -= 1
            link(ctx).start()

    link(ctx).fault = fault
    assert send(ctx, manifest.sha256)
    assert link(ctx).host.code.has(manifest.sha256)
    restarts = 1000
    other, more = listed(("f", "x", b"x"))
    keep(ctx.code, other, more)
    with pytest.raises(RunnerError) as raised:
        send(ctx, other.sha256)
    assert raised.value.details["cause"] == "no_upload"


def test_what_the_server_has_no_more(ctx: Context) -> None:
    """Said, with what to do."""
    manifest, contents = listed(("f", "x", b"x"))
    with pytest.raises(RunError, match="no longer on the server"):
        send(ctx, manifest.sha256)
    keep(ctx.code, manifest, contents)
    for pack, _ in ctx.code.packs.sizes():
        ctx.code.packs.remove(pack)
    with pytest.raises(RunError, match="no longer on the server") as raised:
        send(ctx, manifest.sha256)
    assert raised.value.hint == "submit the run again"


def test_a_link_that_is_lost(ctx: Context) -> None:
    """The launch is done again then."""
    manifest, contents = listed(("f", "x", b"x"))
    keep(ctx.code, manifest, contents)

    def fault(_: str) -> None:
        raise UnreachableError("gone")

    link(ctx).fault = fault
    with pytest.raises(UnreachableError):
        send(ctx, manifest.sha256)


def test_a_runner_that_is_too_old(ctx: Context) -> None:
    """It names the command that brings it up to date."""
    manifest, contents = listed(("f", "x", b"x"))
    keep(ctx.code, manifest, contents)

    def fault(verb: str) -> None:
        raise RunnerError(f"gpu1: unknown verb {verb!r}", cause="bad_request")

    link(ctx).fault = fault
    with pytest.raises(RunnerError) as raised:
        send(ctx, manifest.sha256)
    assert raised.value.hint == f"pool provision {HOST.name}   brings its runner up to date"


def test_a_live_run_keeps_its_folder(ctx: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the limit; a stranger's goes."""
    monkeypatch.setattr("pool.runner.code._FRESH_S", 0.0)
    monkeypatch.setenv("POOL_CODE_GB", "0")
    manifest, contents = listed(("f", "x", b"x"))
    ctx.store.runs.add(replace(run_of("r1", nodes=1), code=manifest.sha256))
    keep(ctx.code, manifest, contents)
    assert ctx.code.has(manifest.sha256)
    other, more = listed(("f", "x", b"y"))
    keep(ctx.code, other, more)
    assert [ctx.code.has(each.sha256) for each in (manifest, other)] == [True, False]


@pytest.mark.parametrize(
    ("written", "limit"), [("", 20 << 30), ("0.5", 1 << 29), ("much", 20 << 30), ("inf", 20 << 30)]
)
def test_the_server_s_limit(monkeypatch: pytest.MonkeyPatch, written: str, limit: int) -> None:
    """Of its environment; what is no number is as if it were not there."""
    monkeypatch.setenv("POOL_CODE_GB", written)
    assert sending.limit_bytes() == limit


def test_refusals_are_told_with_a_next_step() -> None:
    """To whom sent the folder."""
    assert sending.translated(RefusedError("disk_full", "no room")).exit_code == 16
    other = sending.translated(RefusedError("bad_code", hashlib.sha256(b"").hexdigest()))
    assert isinstance(other, InputError)
    assert other.hint
