"""What end-to-end tests may ask for: real ssh to a lab host, beside the product."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator

import pytest

from pool.lab.loopback import LabHost
from tests.runner_host import RunnerHost

Ssh = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def host(session_dir: str) -> Iterator[RunnerHost]:
    """A host of this test alone, spoken to over its own bridge."""
    made = RunnerHost(tempfile.mkdtemp(prefix="r", dir=session_dir), os.path.join(session_dir, "lab"))
    yield made
    made.end()


@pytest.fixture(scope="session")
def ssh() -> Ssh:
    """`ssh(host, command, *options)`: run a command on a host with OpenSSH's own client; never asks anything."""

    def run(host: LabHost, command: str, *options: str, key: str | None = None) -> subprocess.CompletedProcess[str]:
        argv = ["ssh", "-F", "none", "-T", "-i", key or host.key, "-p", str(host.port)]
        for option in (
            "BatchMode=yes",
            "IdentitiesOnly=yes",
            "IdentityAgent=none",
            "LogLevel=ERROR",
            "StrictHostKeyChecking=no",
            "UserKnownHostsFile=/dev/null",
        ):
            argv += ["-o", option]
        argv += [*options, f"{host.user}@{host.address}", command]
        return subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30, check=False)

    return run
