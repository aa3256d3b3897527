"""From a machine with nothing but sshd, Python and sudo to a host that runs containers, and exactly back."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.site import Site, machines, until

#: node2's own engine, with settings that are not ours.
_OWN_DOCKER = """
export DEBIAN_FRONTEND=noninteractive
mkdir -p /etc/docker && echo '{"log-driver": "local", "labels": ["mine=1"]}' > /etc/docker/daemon.json
apt-get -q update && apt-get -q install -y --no-install-recommends docker.io
"""
#: An image of one shell, without a registry.
_IMAGE = """
mkdir /run/shell && cd /run/shell
for file in /bin/sh $(ldd /bin/sh | grep -o '/[^ ]*'); do cp -L --parents "$file" .; done
tar -c . | docker import - shell:1 && rm -r /run/shell
"""
#: What a provisioned host is brought back from, each by one change.
_DAMAGES = (
    "systemctl disable --quiet pool-runner",
    "chmod 700 /var/lib/pool-runner",
    "sed -i /pool$/d /var/lib/pool-runner/users",
    "sed -i 's/^restrict,//' /var/lib/pool-runner/login/.ssh/authorized_keys",
    # As after a run that was cut off before it restarted the service.
    "touch /etc/systemd/system/pool-runner.service",
)


@pytest.fixture(scope="module")
def site(session_dir: str) -> Iterator[Site]:
    """Two machines of these tests' own, in no pool yet: node1 has nothing, node2 had Docker before us."""
    with machines(session_dir, "whole", 2) as site:
        site.on("node1", "apt-get -q update", timeout=300)
        site.on("node2", _OWN_DOCKER, timeout=300)
        yield site


def test_from_bare_to_host_and_exactly_back(site: Site) -> None:
    """Docker is installed where there is none, and kept with its owner's settings where there was one; both go back."""
    before = {name: site.snapshot(name) for name in site.hosts}
    for name, result in site.add(*site.hosts, options=()).items():
        assert result.rc == 0, result
        assert f"{name} is ready" in result.stderr
        assert "a job ran and saw its GPU and no other" in result.stderr
    settings = {
        name: site.on(name, "docker info --format '{{.LiveRestoreEnabled}} {{.LoggingDriver}} {{.Labels}}'")
        for name in site.hosts
    }
    assert settings == {"node1": "true json-file []", "node2": "true local [mine=1]"}

    site.on("node1", _IMAGE)
    site.run("contained", "echo from a container", host="node1", gpu=0, image="shell:1")
    assert site.end_of("contained")["status"] == "done"
    assert site.log("contained") == b"from a container\n"

    again = site.cli("provision", "-y", timeout=600)
    assert again.rc == 0, again
    assert all(f"{name} is ready (changed=0)" in again.stderr for name in site.hosts), again
    assert "Write the unit" not in again.stderr, again
    for damage in _DAMAGES:
        site.on("node1", damage)
    for changed in (len(_DAMAGES) + 1, 0):  # a restart beside
        mended = site.cli("provision", "node1", "-y", timeout=600)
        assert mended.rc == 0, mended
        assert f"node1 is ready (changed={changed})" in mended.stderr, mended
    checked = site.cli("doctor", timeout=300)
    assert checked.rc == 0, checked
    assert checked.stdout.count(" ok") == 6, checked

    for name in site.hosts:
        removed = site.cli("rm", name, "-y", timeout=600)
        assert removed.rc == 0, removed
        assert sorted(site.snapshot(name) ^ before[name]) == []
    assert site.on("node2", "docker info --format '{{.LiveRestoreEnabled}} {{.LoggingDriver}}'") == "false local"


def test_a_dry_run_leaves_nothing(site: Site) -> None:
    """The plan and what each step would change; the machine is not in the pool, and as it was."""
    before = site.snapshot("node1")
    told = site.add("node1", options=("--dry-run",))["node1"]
    assert told.rc == 0, told
    assert "would change" in told.stderr
    assert sorted(site.snapshot("node1") ^ before) == []
    assert site.listed() == {}


def test_killed_in_mid_installation(site: Site) -> None:
    """kill -9 of the server while apt works: the same command again ends with a whole host, and removal is exact."""
    before = site.snapshot("node1")
    host = site.hosts["node1"]
    words = ["add-ssh", f"{host.user}@{host.address}", "-i", host.key, "--name", "node1"]
    adding = subprocess.Popen(
        site.cli.argv(*words, "--fingerprint", host.fingerprint),
        env=site.cli.env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    until(lambda: site.on("node1", "pgrep -x dpkg", check=False), "the installation of packages")
    os.kill(int(Path(site.cli.env["POOL_STATE_DIR"], "server.pid").read_text()), signal.SIGKILL)
    assert adding.wait(timeout=60) != 0
    assert site.add("node1", options=())["node1"].rc == 0
    assert site.on("node1", "docker info --format '{{.LiveRestoreEnabled}}'") == "true"
    assert site.cli("rm", "node1", "-y", timeout=600).rc == 0
    assert sorted(site.snapshot("node1") ^ before) == []
