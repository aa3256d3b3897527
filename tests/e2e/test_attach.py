"""`pool attach` goes on where the reader stopped, however it did; what was shown before and what comes are whole."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pexpect
import pytest

from tests.conftest import Cli
from tests.e2e.test_run import Write, until, write  # noqa: F401 - a fixture

#: Many lines, faster than they are read, for a second or two, and a last one without an end.
_LINES = 'for i in $(seq 60); do seq -f "$i %.0f of some length" 3000; sleep 0.02; done; printf "the end"'
_ON = "pool: going on from where you stopped reading; --from-start shows it all\n"


def start(ready: Cli, folder: str, *words: str) -> subprocess.Popen[bytes]:
    """`pool run` or `pool attach` with its output in a pipe."""
    return subprocess.Popen(
        ready.argv(*words), cwd=folder, env=ready.env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0
    )


def ended(process: subprocess.Popen[bytes], number: signal.Signals) -> bytes:
    """What it writes until it has ended by that signal, which it gets now."""
    process.send_signal(number)
    rest = process.communicate(timeout=30)[0]
    assert process.returncode == -number
    return rest


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM])
def test_no_byte_is_lost_and_none_comes_twice(ready: Cli, write: Write, number: signal.Signals) -> None:  # noqa: F811
    """Readers that end in the middle, one after the other, have the whole log together."""
    name = f"parts-{number.name.lower()}"
    folder = write(_LINES, name=name)
    seen, reader = b"", start(ready, folder, "run", ".", "-f", "t.dstack.yml", "-y")
    for _ in range(4):
        assert reader.stdout
        part = b"".join(reader.stdout.read(1 << 16) for _ in range(5))
        seen += part + ended(reader, number)
        reader = start(ready, folder, "attach", name)
    seen += reader.communicate(timeout=60)[0]
    assert reader.returncode == 0
    assert seen == logged(ready, name)
    again = start(ready, folder, "attach", name).communicate(timeout=60)[0]
    assert again == seen, "once all was shown it begins anew"


def test_whole_lines_of_several_ranks(ready: Cli, write: Write) -> None:  # noqa: F811
    """With prefixes a reader goes on at a line's begin; of a rank that was not read, at the start."""
    folder = write(_LINES, name="ranks-on", nodes=2)
    first = start(ready, folder, "run", ".", "-f", "t.dstack.yml", "-y")
    assert first.stdout
    seen = b"".join(first.stdout.read(1 << 16) for _ in range(8)) + ended(first, signal.SIGHUP)
    assert seen.endswith(b"\n")
    seen += start(ready, folder, "attach", "ranks-on").communicate(timeout=60)[0]
    for rank in (0, 1):
        mine = [line[4:] for line in seen.splitlines() if line.startswith(f"[{rank}] ".encode())]
        assert mine == logged(ready, "ranks-on", rank).splitlines()


def test_a_reader_whose_output_nobody_takes(ready: Cli, write: Write) -> None:  # noqa: F811
    """It ends all the same, and what the pipe took is not shown again."""
    folder = write(_LINES, name="stuck")
    stuck = start(ready, folder, "run", ".", "-f", "t.dstack.yml", "-y")
    until(ready, "stuck", "done")
    began = time.monotonic()
    stuck.send_signal(signal.SIGTERM)
    assert stuck.wait(10) == -signal.SIGTERM
    assert time.monotonic() - began < 5
    assert stuck.stdout
    seen = stuck.stdout.read()
    assert 30_000 < len(seen) <= 1 << 16
    done = start(ready, folder, "attach", "stuck").communicate(timeout=60)[0]
    assert seen + done == logged(ready, "stuck")


def test_a_terminal_that_goes(ready: Cli, write: Write, tmp_path: Path) -> None:  # noqa: F811
    """The run goes on; at another terminal only what is new is shown, with --from-start all of it, and to its end."""
    go = tmp_path / "go"
    folder = write(f"echo one; while [ ! -e {go} ]; do sleep 0.05; done; echo two", name="gone")
    person = ready.person("run", ".", "-f", "t.dstack.yml", "-y", cwd=folder)
    person.expect_exact("one\r\n")
    person.close(force=False)
    assert until(ready, "gone", "running")
    second = ready.person("attach", "gone", "--from-start")
    second.expect_exact("one\r\n")
    second.sendintr()
    second.expect_exact("Enter to go on watching? ")
    second.sendline("d")
    second.expect_exact("the run goes on")
    assert second.wait() == 0
    go.touch()
    until(ready, "gone", "done")
    third = ready("attach", "gone")
    assert (third.rc, third.stdout) == (0, "two\n"), third
    assert third.stderr.startswith(_ON)
    fourth = ready("attach", "gone")
    assert (fourth.stdout, _ON in fourth.stderr) == ("one\ntwo\n", False)


def test_a_reader_that_is_killed(ready: Cli, write: Write, tmp_path: Path) -> None:  # noqa: F811
    """Its place was kept within the second, so kill -9 costs nothing that is older."""
    go = tmp_path / "go"
    folder = write(f"echo one; sleep 0.3; echo two; while [ ! -e {go} ]; do sleep 0.05; done; echo 3", name="killed")
    reader = start(ready, folder, "run", ".", "-f", "t.dstack.yml", "-y")
    assert reader.stdout
    assert reader.stdout.read(4) + reader.stdout.read(4) == b"one\ntwo\n"
    kept = Path(ready.env["POOL_STATE_DIR"], "places", until(ready, "killed", "running")["id"])
    deadline = time.monotonic() + 5
    while not kept.exists() or json.loads(kept.read_text()) != {"0": "1:8"}:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    reader.kill()
    reader.communicate(timeout=20)
    go.touch()
    until(ready, "killed", "done")
    assert ready("attach", "killed").stdout == "3\n"
    assert not kept.exists()


def test_a_reader_that_sleeps(ready: Cli, write: Write) -> None:  # noqa: F811
    """As behind a closed lid: it goes on, and has every byte."""
    folder = write(_LINES, name="asleep")
    reader = start(ready, folder, "run", ".", "-f", "t.dstack.yml", "-y")
    assert reader.stdout
    seen = reader.stdout.read(1000)
    os.kill(reader.pid, signal.SIGSTOP)
    until(ready, "asleep", "done")
    os.kill(reader.pid, signal.SIGCONT)
    seen += reader.communicate(timeout=60)[0]
    assert reader.returncode == 0
    assert seen == logged(ready, "asleep")


def test_ctrl_c_in_the_middle(ready: Cli, write: Write) -> None:  # noqa: F811
    """Whoever goes on watching misses nothing."""
    folder = write("seq 200000; sleep 0.5; seq 200000 200100", name="midst")
    person = ready.person("run", ".", "-f", "t.dstack.yml", "-y", "-q", cwd=folder)
    person.expect_exact("\n5000\r\n")
    os.kill(person.pid, signal.SIGINT)  # typed, the terminal itself would throw away what it has not shown yet
    person.expect_exact("\r\nmidst: [s]top it, [d]etach and let it run, or Enter to go on watching? ")
    shown = person.before
    person.sendline("")
    person.expect(pexpect.EOF)
    numbers = [int(word) for word in (shown + person.before.removeprefix("\r\n")).split()]
    assert numbers == [*range(5001, 200001), *range(200000, 200101)]


def logged(ready: Cli, name: str, rank: int = 0) -> bytes:
    """The exact bytes of a rank."""
    return subprocess.run(
        ready.argv("logs", name, "--rank", str(rank)), env=ready.env, capture_output=True, timeout=60, check=True
    ).stdout
