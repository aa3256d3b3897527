"""What system tests may ask for: two hosts with systemd, made for the session, in a pool. As root only."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pool.errors import LabError
from pool.lab.loopback import LabHost
from pool.lab.system import SystemLab
from tests.conftest import Cli, _environment, left, not_run
from tests.system.site import Site

_HERE = Path(__file__).parent


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark these tests, and leave them out where nobody is root."""
    mine = [item for item in items if _HERE in item.path.parents]
    for item in mine:
        item.add_marker(pytest.mark.system)
    if mine and os.geteuid() != 0:
        not_run.add(f"{len(mine)} tests with whole machines (tests/system): they need root")
        config.hook.pytest_deselected(items=mine)
        items[:] = [item for item in items if item not in mine]


@pytest.fixture(scope="session")
def system_lab(session_dir: str, request: pytest.FixtureRequest) -> Iterator[tuple[SystemLab, list[LabHost]]]:
    """node1 and node2, with two cards each. Where this machine can have no such hosts, one line says so."""
    capture = request.config.pluginmanager.getplugin("capturemanager")

    def tell(line: str) -> None:
        """The packages that it installs, and what takes long, as they come, not when all tests have ended."""
        with capture.global_and_fixture_disabled():
            sys.stderr.write(f"\nsystem lab: {line}\n")

    lab = SystemLab(os.path.join(session_dir, "system"), tell=tell)
    try:
        hosts = lab.up(2)
    except LabError as error:
        lab.down()
        not_run.add(f"tests with whole machines (tests/system): {error.message}")
        pytest.skip(error.message)
    except BaseException:
        lab.down()
        raise
    yield lab, hosts
    lab.down()
    assert left_of(lab.network_name) == []


@pytest.fixture(scope="session")
def _pool_of_hosts(system_lab: tuple[SystemLab, list[LabHost]], session_dir: str) -> Iterator[Site]:
    folder = tempfile.mkdtemp(prefix="y", dir=session_dir)
    # Its server lives as long as the session: what looks for leftovers of another lab before that must not find it.
    cli = Cli(_environment(session_dir, folder) | {"POOL_LAB": folder})
    site = Site(*system_lab, cli, folder)
    yield site
    stopped = cli("server", "stop", timeout=60)
    assert stopped.rc in (0, 5), stopped
    assert left(folder) == []


@pytest.fixture
def site(_pool_of_hosts: Site) -> Iterator[Site]:
    """The hosts in their pool, ready; a test leaves no job on them, and nothing cut or frozen."""
    _pool_of_hosts.settle()
    yield _pool_of_hosts
    _pool_of_hosts.clear()


def left_of(name: str) -> list[str]:
    """What of the lab with the network `name` is left on this machine."""
    rules = subprocess.run(["iptables-save"], capture_output=True, text=True, timeout=30, check=False).stdout
    links = subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, timeout=30, check=False).stdout
    mounts = Path("/proc/self/mounts").read_text(encoding="utf-8")
    return [line for line in (rules + links + mounts).splitlines() if name in line]
