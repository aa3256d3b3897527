"""What every test may ask for: a state folder of its own, the CLI as a program, a lab of real hosts."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pexpect
import pytest
from xdist.scheduler import LoadScopeScheduling

from pool.lab import loopback, processes
from pool.lab.loopback import LabHost
from pool.ssh import host_keys
from pool.ssh.destination import Target

# A shell that runs the tests in the background ignores SIGINT, and so would everything they start; people's do not.
signal.signal(signal.SIGINT, signal.default_int_handler)

pytest.register_assert_rewrite("tests.container_cases")
REPOSITORY = Path(__file__).resolve().parent.parent
#: Of the caller's environment, what would let a test see the person's own pool, keys or task variables.
PRIVATE = ("POOL_", "DSTACK_", "SSH_", "ANSIBLE_", "XDG_")
#: What this machine cannot run, and why.
not_run: set[str] = set()


class _Rooms(LoadScopeScheduling):  # type: ignore[misc]
    """Hands whole files to the workers, so that what a file makes is made once; tests/system as one, with its hosts."""

    def _split_scope(self, nodeid: str) -> str:
        return "tests/system" if nodeid.startswith("tests/system/") else nodeid.split("::")[0]


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes one worker longest comes first."""
    items.sort(key=lambda item: not item.nodeid.startswith("tests/system/"))


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Files side by side."""
    return _Rooms(config, log)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A worker hands on what it did not run."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["not_run"] = sorted(not_run)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """The workers' part of `not_run`; of one that died there is none."""
    not_run.update(getattr(node, "workeroutput", {}).get("not_run", ()))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """One line that says what was not run."""
    for line in sorted(not_run):
        terminalreporter.write_line(f"not run: {line}", yellow=True)


@dataclass(frozen=True)
class Result:
    """How one command ended."""

    rc: int
    stdout: str
    stderr: str

    def __str__(self) -> str:
        return f"exit code {self.rc}\n--- stdout\n{self.stdout}\n--- stderr\n{self.stderr}"


@dataclass(frozen=True)
class Cli:
    """`pool`, run as a program of its own, without a terminal, with the test's state folder."""

    env: dict[str, str] = field(repr=False)

    def __call__(
        self, *args: str, stdin: str | None = None, timeout: float = 120, cwd: Any = None, **env: str
    ) -> Result:
        """Run to the end; what takes longer than `timeout` seconds fails the test. `env` adds variables."""
        done = subprocess.run(
            self.argv(*args),
            input=stdin or "",
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=timeout,
            cwd=cwd,
            env=self.env | env,
            check=False,
        )
        return Result(done.returncode, done.stdout, done.stderr)

    def start(self, *args: str, cwd: Any = None, **env: str) -> subprocess.Popen[str]:
        """Start it and return at once; the test ends it."""
        return subprocess.Popen(
            self.argv(*args),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
            cwd=cwd,
            env=self.env | env,
            start_new_session=True,
        )

    def person(self, *args: str, cwd: Any = None, **env: str) -> pexpect.spawn[str]:
        """The same at a terminal: `expect` waits for what it shows, `sendline` and `sendintr` type."""
        return self.person_of(*self.argv(*args), cwd=cwd, **env)

    def person_of(self, *words: str, cwd: Any = None, **env: str) -> pexpect.spawn[str]:
        """Likewise, any program."""
        return pexpect.spawn(
            words[0], list(words[1:]), cwd=cwd, env=self.env | env, encoding="utf-8", timeout=60, dimensions=(50, 200)
        )

    @staticmethod
    def argv(*args: str) -> list[str]:
        """The command line."""
        return [sys.executable, "-m", "pool.cli.main", *args]


@pytest.fixture(scope="session")
def session_dir() -> Iterator[str]:
    """One folder for the whole session, its path short because Unix sockets live below; goes at the end.

    Whatever the CLI fixture starts carries `POOL_LAB=<session_dir>/lab`: a server or runner that is left then fails
    the session, and is ended.
    """
    path = os.path.realpath(tempfile.mkdtemp(prefix="pool", dir="/tmp"))
    yield path
    _fail_on(left(os.path.join(path, "lab")))
    shutil.rmtree(path)


@pytest.fixture(scope="session")
def lab(session_dir: str) -> Iterator[list[LabHost]]:
    """Two real SSH hosts, gpu1 and gpu2, with two cards each, for the whole session.

    A test leaves no job on them: what runs there at the end, beside sshd and a runner that stops when asked, fails.
    """
    root = os.path.join(session_dir, "lab")
    yield loopback.up(2, root=root)
    loopback.stop_runners(root)
    remaining = left(root)
    loopback.down(root)
    _fail_on(remaining)


@pytest.fixture(scope="session")
def machine(session_dir: str) -> Iterator[Callable[[], LabHost]]:
    """`machine()` is one more SSH host, on which nothing was ever installed: for tests of adding and removing."""
    root = os.path.join(session_dir, "bare")
    count = itertools.count(1)
    yield lambda: loopback.up(next(count), root=root)[-1]
    loopback.stop_runners(root)
    remaining = left(root)
    loopback.down(root)
    _fail_on(remaining)


@pytest.fixture(scope="session")
def ready(session_dir: str, lab: list[LabHost]) -> Iterator[Cli]:
    """The CLI of a pool with gpu1 and gpu2 of the lab in it, ready, for the whole session; tests leave no live run."""
    path = tempfile.mkdtemp(prefix="s", dir=session_dir)
    cli = Cli(_environment(session_dir, path))
    adding = [cli.start(*add_ssh(host)) for host in lab]
    for each in adding:
        output = each.communicate(timeout=120)[1]
        assert each.returncode == 0, output
    yield cli
    live = cli("runs", "--live", "--json").stdout
    stopped = cli("server", "stop", timeout=60)
    assert stopped.rc == 0, f"pool server stop: {stopped}"
    assert json.loads(live) == []


def add_ssh(host: LabHost, *options: str) -> list[str]:
    """The words that add this host, as `pool lab up` prints them."""
    words = ["add-ssh", f"{host.user}@{host.address}", "-p", str(host.port), "-i", host.key, "--name", host.name]
    return [*words, "--fingerprint", host.fingerprint, *options]


def pinned(known_hosts: str, host: LabHost) -> Target:
    """The host as the product reaches it, with its key pinned in the file `known_hosts`."""
    key = host_keys.first_contact(host.address, host.port, expected=host.fingerprint).key
    host_keys.pin(known_hosts, host.address, host.port, key)
    return Target(host.name, host.address, host.port, host.user, host.key)


def know(home: str, *hosts: LabHost) -> None:
    """Let a person's own ssh know these hosts: their keys in `home`/.ssh/known_hosts."""
    folder = os.path.join(home, ".ssh")
    os.makedirs(folder, mode=0o700, exist_ok=True)
    with open(os.path.join(folder, "known_hosts"), "a", encoding="ascii") as file:
        for host in hosts:
            key = Path(os.path.dirname(host.home), "host_key.pub").read_text(encoding="ascii").split()[:2]
            file.write(f"[{host.address}]:{host.port} {' '.join(key)}\n")


@pytest.fixture
def state_dir(session_dir: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An empty state folder, also this process's own POOL_STATE_DIR; its server is stopped after the test."""
    path = tempfile.mkdtemp(prefix="s", dir=session_dir)
    monkeypatch.setenv("POOL_STATE_DIR", path)
    yield path
    if os.path.exists(os.path.join(path, "server.pid")) or os.path.exists(os.path.join(path, "server.sock")):
        stopped = Cli(_environment(session_dir, path))("server", "stop", timeout=60)
        assert stopped.rc == 0, f"pool server stop: {stopped}"


@pytest.fixture
def cli(session_dir: str, state_dir: str) -> Cli:
    """The CLI with this test's state folder."""
    return Cli(_environment(session_dir, state_dir))


def _environment(session_dir: str, state_dir: str) -> dict[str, str]:
    home = os.path.join(session_dir, "home")
    os.makedirs(home, mode=0o700, exist_ok=True)
    env = {name: value for name, value in os.environ.items() if not name.startswith(PRIVATE)}
    path = [str(REPOSITORY), *env.get("PYTHONPATH", "").split(os.pathsep)]
    return env | {
        "HOME": home,
        "COLUMNS": "120",
        "POOL_STATE_DIR": state_dir,
        "POOL_LAB": os.path.join(session_dir, "lab"),
        "PYTHONPATH": os.pathsep.join(part for part in path if part),
    }


def left(root: str) -> list[str]:
    """What carries the marker of the lab and is no sshd: ended here, and told as `pid command`."""
    found = {}
    for pid, since in processes.belonging(root).items():
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        command = b" ".join(words).decode(errors="replace").strip()
        if not command.startswith("sshd:"):
            found[pid, since] = f"{pid} {command[:200]}"
    processes.end(found)
    return sorted(found.values())


def _fail_on(left: list[str]) -> None:
    if left:
        pytest.fail("the tests left processes behind:\n  " + "\n  ".join(left), pytrace=False)
