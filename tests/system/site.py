"""Two whole machines and a pool on them: what a person does, what befalls the machines, what is left on them."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from pool.lab.loopback import LabHost
from pool.lab.system import SystemLab
from tests.conftest import REPOSITORY, Cli, Result, _environment

T = TypeVar("T")
#: Where jobs without a container are at home.
JOBS_HOME = "/var/lib/pool-runner/home"
#: How long anything may take that takes seconds: machines that run tests are slow at times.
PATIENCE_S = 120.0
#: Prints everything on a host that adding it might change, one line a thing.
_SNAPSHOT = (REPOSITORY / "tests" / "molecule" / "snapshot.py").read_text(encoding="utf-8")

#: Takes 400 MB.
HUNGRY = "python3 -c 'x = bytearray(400 << 20); print(len(x))'"
#: Forks until the kernel refuses, and says how often that went well.
FORKS = """python3 -c '
import os, time
for number in range(1000):
    try:
        child = os.fork()
    except OSError as error:
        print(number, error.strerror, flush=True)
        break
    if not child:
        time.sleep(1000)
'"""


def until(look: Callable[[], T], what: str, patience_s: float = PATIENCE_S) -> T:
    """What `look()` returns once that is true; AssertionError naming `what` after the patience."""
    deadline = time.monotonic() + patience_s
    while not (found := look()):
        assert time.monotonic() < deadline, f"{what} did not come within {patience_s:.0f} s"
        time.sleep(0.1)
    return found


@contextlib.contextmanager
def machines(session_dir: str, name: str, number: int, **env: str) -> Iterator[Site]:
    """This many machines of a module's own, in no pool yet; its server, with `env`, and they are gone afterwards."""
    lab = SystemLab(os.path.join(session_dir, name))
    folder = tempfile.mkdtemp(prefix=name[0], dir=session_dir)
    cli = Cli(_environment(session_dir, folder) | env)
    try:
        yield Site(lab, lab.up(number), cli, folder)
    finally:
        cli("server", "stop", timeout=60)
        lab.down()


class Site:
    """The lab's hosts, node1 and node2, in one pool."""

    def __init__(self, lab: SystemLab, hosts: list[LabHost], cli: Cli, folder: str) -> None:
        self.lab, self.cli, self.folder = lab, cli, folder
        self.hosts = {host.name: host for host in hosts}
        self.before = {name: self.snapshot(name) for name in self.hosts}

    # -- the pool -----------------------------------------------------------------------------------------------

    def add(self, *names: str, options: Sequence[str] = ("--only", "runner")) -> dict[str, Result]:
        """`pool add-ssh` of these hosts, side by side; without `options` all that a host needs is installed."""
        found: dict[str, Result] = {}

        def one(host: LabHost) -> None:
            words = ["add-ssh", f"{host.user}@{host.address}", "-i", host.key, "--name", host.name]
            found[host.name] = self.cli(*words, "--fingerprint", host.fingerprint, *options, timeout=600)

        threads = [threading.Thread(target=one, args=(self.hosts[name],)) for name in names]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return found

    def listed(self) -> dict[str, dict[str, Any]]:
        """The hosts of the pool, by name."""
        return {host["name"]: host for host in json.loads(self._say("ps", "--json"))}

    def settle(self) -> None:
        """Both hosts in the pool, ready, with nothing on them."""
        missing = [name for name in self.hosts if name not in self.listed()]
        for name, result in self.add(*missing).items() if missing else ():
            assert result.rc == 0, f"add-ssh {name}: {result}"
        until(lambda: all(self.is_idle(name) for name in self.hosts), "two idle hosts")

    def clear(self) -> None:
        """End what a test left: runs that go on, hosts that are frozen or cut off."""
        for host in self.hosts:
            self.lab.thaw(host)
            self.lab.mend(host)
        live = [run["name"] for run in json.loads(self._say("runs", "--live", "--json"))]
        if live:
            self._say("stop", "--abort", "-y", *live)

    def is_idle(self, name: str) -> bool:
        """True for a host that is ready and has every GPU free."""
        host = self.listed()[name]
        return bool(host["status"] == "ready" and host["gpus_free"] == host["gpus_total"] == 2)

    def run(
        self,
        name: str,
        script: str,
        *,
        nodes: int = 1,
        gpu: int = 1,
        host: str | None = None,
        files: dict[str, str] | None = None,
        **task: Any,
    ) -> str:
        """`pool run -d` of a shell script, with `files` beside it; returns once every rank runs, with the name."""
        folder = tempfile.mkdtemp(prefix=name, dir=self.folder)
        for path, text in (files or {}).items():
            with open(os.path.join(folder, path), "w", encoding="utf-8") as file:
                file.write(text)
        task |= {"type": "task", "name": name, "nodes": nodes, "commands": [script]}
        task |= {"resources": {"gpu": gpu}} if gpu else {}
        with open(os.path.join(folder, ".dstack.yml"), "w", encoding="utf-8") as file:
            json.dump(task, file)
        where = ["--instance", host] if host else []
        self._say("run", folder, "-y", "-d", *where)
        until(
            lambda: {job["shown"] for job in self.found(name)["jobs"]} & {"running", "done", "failed"}, f"{name} runs"
        )
        return name

    def found(self, name: str) -> dict[str, Any]:
        """The run, as `pool runs NAME --json` tells of it."""
        told = json.loads(self._say("runs", name, "--json"))
        run: dict[str, Any] = told[0] if isinstance(told, list) else told
        return run

    def job(self, name: str, rank: int = 0) -> dict[str, Any]:
        """One rank of the run."""
        return next(job for job in self.found(name)["jobs"] if job["rank"] == rank)

    def end_of(self, name: str, rank: int = 0) -> dict[str, Any]:
        """The rank once the run has ended."""
        until(lambda: self.found(name)["finished"], f"the end of {name}")
        return self.job(name, rank)

    def log(self, name: str, rank: int = 0) -> bytes:
        """`pool logs`."""
        argv = self.cli.argv("logs", name, "--rank", str(rank))
        done = subprocess.run(argv, env=self.cli.env, stdin=subprocess.DEVNULL, capture_output=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def until_logged(self, name: str, text: bytes, rank: int = 0) -> None:
        """Until the job has written this."""
        until(lambda: text in self.log(name, rank), f"{text!r} in the log of {name}")

    def _say(self, *words: str) -> str:
        result = self.cli(*words, timeout=300)
        assert result.rc == 0, f"pool {' '.join(words)}: {result}"
        return result.stdout

    # -- the hosts ----------------------------------------------------------------------------------------------

    def on(self, name: str, script: str, *, check: bool = True, timeout: float = 60.0) -> str:
        """Run a script on the host as root, beside its sshd."""
        rc, said = self.lab.execute(name, "sh", "-c", script, timeout=timeout)
        assert rc == 0 or not check, f"{script} on {name}: exit code {rc}: {said}"
        return said.strip()

    def make_in_jobs_home(self, host: str, name: str) -> None:
        """Make an empty file in the home of the host's jobs, which they may remove."""
        path = f"{JOBS_HOME}/{name}"
        self.on(host, f"touch {path}; chown pool {path}")

    def unit_of(self, name: str, rank: int = 0) -> str:
        """The unit of a rank's job."""
        return f"pool-job-{self.job(name, rank)['id']}.service"

    def unit_pids(self, host: str, unit: str) -> list[str]:
        """The processes of a unit's control group; none once systemd has forgotten it."""
        return self.on(
            host, f"cat /sys/fs/cgroup/*/pool-lab/*/pool.slice/{unit}/cgroup.procs 2>&-", check=False
        ).split()

    def snapshot(self, name: str) -> set[str]:
        """Everything on the host that adding it might change, one line a thing."""
        rc, said = self.lab.execute(name, "python3", "-c", _SNAPSHOT)
        assert rc == 0, said
        return set(said.splitlines())
