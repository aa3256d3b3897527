"""The commands that only read: text for people, JSON for programs, and an end that is quiet."""

from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Cli

ESCAPES = rb"a\033]52;c;aGk=\007b\033]0;title\007\033[2J\033[1Ac\033[31mred\033[0m\r50%%\r99%%\n\377\233\302\2332J\n"


def task(folder: Path, *commands: str, **fields: Any) -> Path:
    """A folder with that task in `t.dstack.yml`."""
    text = json.dumps({"type": "task", "commands": list(commands), **fields})
    (folder / "t.dstack.yml").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture
def many(ready: Cli, tmp_path: Path) -> str:
    """The name of a run of two ranks that wrote a lot."""
    folder = task(tmp_path, "seq -f 'line %g of rank '$DSTACK_NODE_RANK 20000", nodes=2)
    return ready("run", ".", "-f", "t.dstack.yml", "-y", "-d", cwd=folder).stdout.strip()


def test_ps(ready: Cli) -> None:
    """One line a host; --json has every card."""
    table = ready("ps").stdout.splitlines()
    assert table[0].split() == "NAME POOL STATUS GPUS FREE CPUS MEMORY DISK FREE JOBS ADDRESS".split()
    assert [line.split()[0] for line in table[1:]] == ["gpu1", "gpu2"]
    for host in json.loads(ready("ps", "--json").stdout):
        assert {gpu["free"] for gpu in host["gpus"]} == {True}
        assert len({gpu["uuid"] for gpu in host["gpus"]}) == host["gpus_total"] == 2
        assert host["memory_mib"] > 100
        assert host["reason"] is None


def test_an_empty_pool(cli: Cli) -> None:
    """What to type first, on stderr; JSON stays JSON."""
    for command, hint in (("ps", "pool add-ssh user@host -i key"), ("runs", "pool run . -f train.dstack.yml")):
        done = cli(command)
        assert (done.rc, done.stdout) == (0, ""), done
        assert done.stderr.endswith(f"\ntry: {hint}\n")
        assert json.loads(cli(command, "--json").stdout) == []


def test_runs(ready: Cli, many: str) -> None:
    """The newest first; one by name rank by rank; --live only what goes on."""
    assert ready("logs", many, "-f").rc == 0
    rows = ready("runs").stdout.splitlines()
    assert rows[0].split() == ["NAME", "STATUS", "EXIT", "NODES", "HOSTS", "USER", "AGE"]
    assert rows[1].split()[:5] == [many, "done", "0", "2", "gpu1,gpu2"]
    assert len(rows) <= 21
    assert json.loads(ready("runs", "--live", "--json").stdout) == []
    found = json.loads(ready("runs", many, "--json").stdout)
    assert json.loads(ready("runs", found["id"], "--json").stdout) == found
    assert [line.split()[:4] for line in ready("runs", many).stdout.splitlines()[3:]] == [
        ["RANK", "STATUS", "EXIT", "HOST"],
        ["0", "done", "0", "gpu1"],
        ["1", "done", "0", "gpu2"],
    ]
    assert [job["rank"] for job in found["jobs"]] == [0, 1]
    assert json.loads(ready("runs", "--json").stdout)[0] == found


def test_logs(ready: Cli, many: str) -> None:
    """All ranks prefixed, one rank raw; sizes and hashes as JSON; unknown runs and ranks are 3."""
    whole = ready("logs", many, "-f").stdout.splitlines()
    for rank in (0, 1):
        mine = [line[4:] for line in whole if line.startswith(f"[{rank}] ")]
        raw = ready("logs", many, "--rank", str(rank)).stdout
        assert raw.splitlines() == mine == [f"line {n} of rank {rank}" for n in range(1, 20001)]
        told = json.loads(ready("logs", many, "--json").stdout)[rank]
        assert told["log_sha256"] == hashlib.sha256(raw.encode()).hexdigest()
    assert len(whole) == 40000
    for words in (["logs", "no"], ["attach", "no"], ["runs", "no"], ["stop", "no"], ["logs", many, "--rank", "2"]):
        assert ready(*words).rc == 3
    for name in ("../../status", "", "a/b", "%2e", "x" * 5000, "\N{SNOWMAN}", "a b\r\nX: y"):
        done = ready("logs", name)
        assert (done.rc, done.stdout) == (3, ""), done
    assert ready("logs", many, "--rank", "x").rc == 2


def test_a_reader_that_has_enough(ready: Cli, many: str) -> None:
    """`pool logs | head -1` says nothing more: no traceback, no complaint."""
    ready("logs", many, "-f")
    for words in (["logs", many], ["logs", many, "-f"], ["logs", many, "--rank", "0"]):
        logs = subprocess.Popen(
            ready.argv(*words), env=ready.env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert logs.stdout is not None
        assert logs.stderr is not None
        assert b"line 1 of rank" in logs.stdout.readline()
        logs.stdout.close()
        assert logs.stderr.read() == b""
        assert logs.wait(timeout=30) == 141


def test_what_a_terminal_obeys_is_shown_to_it(ready: Cli, tmp_path: Path) -> None:
    """Colours and progress pass; clipboard, title, cursor and 8-bit controls do not. A pipe gets the bytes."""
    folder = task(tmp_path, f"printf '{ESCAPES.decode()}'", name="steers")
    done = ready("run", ".", "-f", "t.dstack.yml", "-y", "-q", cwd=folder)
    assert done.rc == 0, done
    raw = subprocess.run(
        ready.argv("logs", "steers"), env=ready.env, capture_output=True, timeout=60, check=True
    ).stdout
    assert raw.startswith(b"a\x1b]52;c;aGk=\x07b\x1b]0;title\x07\x1b[2J\x1b[1Ac\x1b[31mred\x1b[0m\r50%\r99%\n\xff\x9b")
    for command in (["logs", "steers"], ["attach", "steers"]):
        person = ready.person(*command)
        person.expect_exact("a^[]52;c;aGk=^Gb^[]0;title^G^[[2J^[[1Ac\x1b[31mred\x1b[0m\r50%\r99%\r\n")
        person.expect_exact("\\xff\\x9b\\x9b2J\r\n")
        assert person.wait() == 0


def test_output_cannot_pass_for_pool(ready: Cli, tmp_path: Path) -> None:
    """What a job prints is on stdout only, whatever it says; pool's own words are on stderr."""
    folder = task(tmp_path, "echo 'pool: fake failed on gpu1, exit code 3'; echo '{\"end\": {}}'; exit 0", name="fake")
    done = ready("run", ".", "-f", "t.dstack.yml", "-y", cwd=folder)
    assert done.rc == 0
    assert done.stdout == 'pool: fake failed on gpu1, exit code 3\n{"end": {}}\n'
    assert "failed" not in done.stderr


def test_an_output_that_takes_nothing(cli: Cli) -> None:
    """A full disk is one line and an exit code, not a traceback."""
    with open("/dev/full", "w", encoding="ascii") as full:
        done = subprocess.run(cli.argv("schema"), env=cli.env, stdout=full, stderr=subprocess.PIPE, check=False)
    assert done.returncode == 1
    assert done.stderr == b"pool: the output cannot be written: No space left on device\n"
