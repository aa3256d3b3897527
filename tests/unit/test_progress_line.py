"""What `Progress` says: on a terminal one line that goes away, elsewhere plain lines now and then."""

from __future__ import annotations

import sys

import pexpect
import pytest

from pool.cli.progress import Progress, size
from tests.conftest import REPOSITORY


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_piped_it_says_a_line_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    """None for what is over soon; then one every ten seconds, with how far and how long."""
    clock = Clock()
    progress = Progress(clock=clock)
    for second in range(25):
        clock.now = 100.0 + second
        progress.tell("sending the folder", second * 4_000_000, 200_000_000)
    progress.hide()
    assert capsys.readouterr().err.splitlines() == [
        "pool: sending the folder: 40 MB of 200 MB, 10 s",
        "pool: sending the folder: 80 MB of 200 MB, 20 s",
    ]


def test_a_wait_has_no_size(capsys: pytest.CaptureFixture[str]) -> None:
    """Only how long; another text begins anew."""
    clock = Clock()
    progress = Progress(clock=clock)
    for second in range(0, 30, 5):
        clock.now += 5
        progress.tell("waiting", said="for gpu1") if second < 15 else progress.tell("pulling")
    assert capsys.readouterr().err.splitlines() == ["pool: waiting: for gpu1: 10 s", "pool: pulling: 10 s"]


def test_quiet_is_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing at all."""
    clock = Clock()
    progress = Progress(quiet=True, clock=clock)
    for _ in range(5):
        clock.now += 100
        progress.tell("sending")
    assert capsys.readouterr().err == ""


def test_on_a_terminal_it_goes_away() -> None:
    """It shows how far it is, and leaves no line behind."""
    code = (
        "from pool.cli.progress import Progress; import threading\n"
        "p = Progress(); p.tell('sending it', 40_000_000, 200_000_000); threading.Event().wait(1.5)\n"
        "p.hide(); print('done')"
    )
    person = pexpect.spawn(
        sys.executable, ["-c", code], cwd=str(REPOSITORY), encoding="utf-8", timeout=30, dimensions=(24, 120)
    )
    person.expect("sending it")
    person.expect("40.0/200.0 MB")
    person.expect("\x1b\\[2K.*done")  # erased
    person.expect(pexpect.EOF)


@pytest.mark.parametrize(
    ("count", "shown"), [(512, "512 B"), (1500, "1.5 kB"), (40_000_000, "40 MB"), (3.2e9, "3.2 GB")]
)
def test_sizes(count: int, shown: str) -> None:
    """As people say them."""
    assert size(int(count)) == shown
