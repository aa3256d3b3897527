"""The keeper of links: one link a host, opened again whatever happened to it, and none that nobody wants any more."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pool.errors import FencedError, PoolError, UnreachableError
from pool.host import Host
from pool.lifecycle import keeper as module
from pool.lifecycle.keeper import Keeper

HOST = Host("h1", "gpu1", "10.0.0.1", 22, "ubuntu", None)
_PATIENCE_S = 30.0


class Wire:
    """A link without a network: the test cuts it and says what requests answer."""

    def __init__(self, on_event: Callable[[dict[str, Any]], None], on_down: Callable[[], None]) -> None:
        self.up = True
        self.answer: Any = {"fine": True}
        self.on_event = on_event
        self._on_down = on_down

    def ask(self, verb: str, body: bytes = b"", **_: Any) -> Callable[[float], tuple[dict[str, Any], bytes]]:
        """As of a link: sent at once, answered when it is waited for."""
        if not self.up:
            raise UnreachableError("down")
        return self._answer

    def open(self, verb: str, *, timeout: float, **_: Any) -> tuple[dict[str, Any], bytes]:
        """As of a link, answered at once."""
        return self.ask(verb)(timeout)

    def _answer(self, _: float) -> tuple[dict[str, Any], bytes]:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer, b""

    def close(self) -> None:
        """Go down, and say so once."""
        if self.up:
            self.up = False
            self._on_down()


class Net:
    """Where links come from, and what the keeper has told about them."""

    def __init__(self) -> None:
        self.told: queue.Queue[tuple[str, str]] = queue.Queue()
        self.wires: queue.Queue[Wire] = queue.Queue()
        self.failures: list[BaseException] = []  #: raised by the next openings, one each
        self.settling: list[BaseException] = []  #: raised when the next links come up, one each
        self.gate = threading.Event()
        self.gate.set()
        self.keeper = Keeper(self._open, on_up=self._up, on_down=self._down, on_event=self._event, on_fenced=self._old)

    def next(self) -> tuple[str, str]:
        """What was told next."""
        return self.told.get(timeout=_PATIENCE_S)

    def wire(self) -> Wire:
        """The link that was opened next."""
        return self.wires.get(timeout=_PATIENCE_S)

    def _open(self, host: Host, on_event: Any, on_down: Any) -> Any:
        if self.failures:
            raise self.failures.pop(0)
        wire = Wire(on_event, on_down)
        self.wires.put(wire)
        assert self.gate.wait(_PATIENCE_S)
        return wire

    def _up(self, host: Host, link: Any) -> None:
        if self.settling:
            raise self.settling.pop(0)
        self.told.put(("up", host.name))

    def _down(self, host: Host, reason: str) -> None:
        self.told.put(("down", reason))

    def _event(self, host: Host, head: dict[str, Any]) -> None:
        self.told.put(("event", head["event"]))

    def _old(self) -> None:
        self.told.put(("fenced", ""))


@pytest.fixture
def net(monkeypatch: pytest.MonkeyPatch) -> Iterator[Net]:
    """A network whose failed openings are repeated at once."""
    monkeypatch.setattr(module, "_RETRY_S", (0.001, 0.01))
    monkeypatch.setattr(module, "_BLIP_S", 0.0)
    made = Net()
    yield made
    made.keeper.close()


def test_a_lost_link_is_opened_again(net: Net) -> None:
    """Requests and events go through the one that is up."""
    net.keeper.keep(HOST)
    for _ in range(3):
        wire = net.wire()
        while net.next() != ("up", "gpu1"):
            pass
        assert net.keeper.request("h1", "facts") == ({"fine": True}, b"")
        wire.on_event({"event": "job"})
        while net.next() != ("event", "job"):
            pass
        wire.close()


def test_a_link_that_stays_lost_is_told(net: Net) -> None:
    """With the reason of the last attempt."""
    net.keeper.keep(HOST)
    wire = net.wire()
    assert net.next() == ("up", "gpu1")
    net.failures = [UnreachableError("no route to it")]
    wire.close()
    while net.next() != ("down", "no route to it"):
        pass
    assert net.next() == ("up", "gpu1")


def test_a_blip_is_not_told(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    """sshd was restarted: the link is up again before anyone would have had to know."""
    monkeypatch.setattr(module, "_BLIP_S", 600.0)
    net.keeper.keep(HOST)
    wire = net.wire()
    assert net.next() == ("up", "gpu1")
    net.failures = [UnreachableError("connection refused")] * 3
    wire.close()
    assert net.next() == ("up", "gpu1")
    assert net.told.empty()


@pytest.mark.parametrize(
    "error", [UnreachableError("no route"), PoolError("odd"), RuntimeError("a bug"), MemoryError()]
)
def test_whatever_goes_wrong_it_is_tried_again(net: Net, error: Exception) -> None:
    """While it opens and while it settles; a link that did not settle is closed."""
    net.failures = [error, error]
    net.settling = [error]
    net.keeper.keep(HOST)
    for _ in range(3):
        assert net.next() == ("down", str(error) if isinstance(error, PoolError) else repr(error))
    assert net.next() == ("up", "gpu1")
    assert not net.wire().up
    assert net.wire().up
    assert net.keeper.is_up("h1")


def test_a_request_without_a_link_says_why(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason of the last attempt; and of a host that nobody keeps a link to."""
    monkeypatch.setattr(module, "_RETRY_S", (60.0, 60.0))
    with pytest.raises(UnreachableError, match="no link"):
        net.keeper.request("h1", "facts")
    net.failures = [UnreachableError("no route to it")]
    net.keeper.keep(HOST)
    assert net.next() == ("down", "no route to it")
    with pytest.raises(UnreachableError, match="no route to it"):
        net.keeper.request("h1", "facts")


def test_a_request_waits_for_a_link_that_is_being_opened(net: Net) -> None:
    """And goes through it."""
    net.gate.clear()
    net.keeper.keep(HOST)
    net.wire()
    answers: queue.Queue[Any] = queue.Queue()
    asking = threading.Thread(target=lambda: answers.put(net.keeper.request("h1", "facts")))
    asking.start()
    net.gate.set()
    assert answers.get(timeout=_PATIENCE_S) == ({"fine": True}, b"")
    asking.join()


def test_a_link_that_is_dropped_while_it_opens_is_closed(net: Net) -> None:
    """Nobody would use it, and the host would think that a server is there."""
    net.gate.clear()
    net.keeper.keep(HOST)
    wire = net.wire()
    net.keeper.drop("h1")
    net.gate.set()
    assert net.next() == ("up", "gpu1")
    for thread in threading.enumerate():
        if thread.name == "keeper gpu1":
            thread.join(_PATIENCE_S)
    assert not wire.up
    assert net.told.empty()


def test_a_host_is_kept_once(net: Net) -> None:
    """Kept again, its address may have changed: the link there was is closed."""
    net.keeper.keep(HOST)
    first = net.wire()
    assert net.next() == ("up", "gpu1")
    net.keeper.keep(HOST)
    second = net.wire()
    assert net.next() == ("up", "gpu1")
    assert (first.up, second.up) == (False, True)


def test_a_server_that_was_replaced_is_told(net: Net) -> None:
    """By a host that refuses its link, or a request or a stream on a link that is open; it opens no other."""
    net.failures = [FencedError()]
    net.keeper.keep(HOST)
    assert net.next() == ("fenced", "")
    net.keeper.keep(HOST)
    wire = net.wire()
    assert net.next() == ("up", "gpu1")
    wire.answer = FencedError()
    with pytest.raises(FencedError):
        net.keeper.request("h1", "start")
    assert net.next() == ("fenced", "")
    with pytest.raises(FencedError):
        net.keeper.open("h1", "shell")
    assert net.next() == ("fenced", "")


def test_a_link_that_dies_while_it_settles_is_not_used(net: Net) -> None:
    """A request waits for the next one instead of failing on it."""
    wires: list[Wire] = []

    def die(host: Host, link: Any) -> None:
        wires.append(link)
        if len(wires) == 1:
            link.close()
        net.told.put(("up", host.name))

    net.keeper._on_up = die  # type: ignore[method-assign]
    net.keeper.keep(HOST)
    assert net.next() == ("up", "gpu1")
    assert net.keeper.request("h1", "facts") == ({"fine": True}, b"")
    assert [wire.up for wire in wires] == [False, True]
