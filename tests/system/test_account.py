"""Whom servers log in as on a host, and whom jobs without a container run as."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from tests.system.site import JOBS_HOME, Site, until

_WHO = """
id -un; echo "$HOME"; touch "$HOME/mine" && echo writes its home
touch /var/lib/pool-runner/login/.ssh/mine 2>/dev/null || echo lets nobody in
"""
_ONLY_DEBIAN = "echo AllowUsers debian > /etc/ssh/sshd_config.d/only.conf && systemctl reload ssh && pkill -u pool"
_ANYONE = "rm -f /etc/ssh/sshd_config.d/only.conf && systemctl reload ssh"


def _with_the_servers_key(
    site: Site, program: str, *options: str, command: Sequence[str] = (), said: str = ""
) -> subprocess.CompletedProcess[str]:
    """ssh or sftp as anyone would use it who has got hold of the server's key; `said` to its stdin."""
    host, folder = site.hosts["node1"], site.cli.env["POOL_STATE_DIR"]
    ours = [f"UserKnownHostsFile={folder}/known_hosts", "StrictHostKeyChecking=yes", "BatchMode=yes"]
    argv = [program, "-F", "none", "-i", os.path.join(folder, "id_ed25519")]
    argv += [word for option in ours for word in ("-o", option)]
    return subprocess.run(
        [*argv, *options, f"pool@{host.address}", *command],
        input=said,
        capture_output=True,
        encoding="latin-1",
        timeout=60,
        check=False,
    )


@contextmanager
def _shut(site: Site) -> Iterator[None]:
    site.on("node1", _ONLY_DEBIAN)
    try:
        yield
    finally:
        site.on("node1", _ANYONE)


def test_servers_log_in_as_the_account_and_jobs_run_as_it(site: Site) -> None:
    """Not as the user with sudo whom the host was added with; a job writes to its home, and not to who may log in."""
    assert (site.listed()["node1"]["user"], site.listed()["node1"]["login"]) == ("debian", "pool")
    site.run("who", _WHO, host="node1")
    assert site.end_of("who")["status"] == "done"
    assert site.log("who").decode().splitlines() == [
        "pool",
        JOBS_HOME,
        "writes its home",
        "lets nobody in",
    ]


def test_its_key_opens_the_runner_and_nothing_else(site: Site) -> None:
    """No program but the bridge, no forwarding, no files."""
    assert site.listed()["node1"]["login"] == "pool"
    asked = _with_the_servers_key(site, "ssh", command=["id"])
    assert (asked.returncode, "uid=" in asked.stdout + asked.stderr) == (0, False), asked
    forwarded = _with_the_servers_key(site, "ssh", "-W", "127.0.0.1:22")
    assert forwarded.returncode != 0
    assert "administratively prohibited" in forwarded.stderr, forwarded
    files = _with_the_servers_key(site, "sftp", "-b", "-", said="ls /etc\n")
    assert files.returncode != 0
    assert "/etc/passwd" not in files.stdout, files
    assert not site.on("node1", "pgrep -u pool sftp-server", check=False)


def test_where_sshd_lets_the_account_in_no_longer(site: Site) -> None:
    """The host is unreachable and says why; provisioned again it is linked as the login user; jobs run as before."""
    with _shut(site):
        until(lambda: site.listed()["node1"]["status"] == "unreachable", "an unreachable node1")
        told = site.cli("ps").stderr
        assert "node1: it lets pool in no longer with this server's own key" in told, told
        again = site.cli("provision", "node1", "--only", "runner", "-y", timeout=300)
        assert again.rc == 0, again
        assert "as debian, for sshd does not let pool in with this server's key" in again.stderr
        assert site.listed()["node1"]["login"] == "debian"
        site.run("fallen-back", "id -un", host="node1")
        assert site.end_of("fallen-back")["status"] == "done"
        assert site.log("fallen-back") == b"pool\n"
    healed = site.cli("provision", "node1", "--only", "runner", "-y", timeout=300)
    assert healed.rc == 0, healed
    assert site.listed()["node1"]["login"] == "pool"


def test_somebody_elses_user_of_that_name_is_left_alone(site: Site) -> None:
    """It gets no key and no jobs, and stays when the host goes."""
    assert site.cli("rm", "node2", "-y", timeout=300).rc == 0
    site.on("node2", "useradd --create-home --shell /bin/bash pool")
    try:
        before = site.snapshot("node2")
        assert site.add("node2")["node2"].rc == 0
        assert site.listed()["node2"]["login"] == "debian"
        assert not site.on("node2", "ls -A ~pool | grep -x .ssh", check=False)
        site.run("not-pool", "id -un", host="node2")
        assert site.end_of("not-pool")["status"] == "done"
        assert site.log("not-pool") == b"debian\n"
        assert site.cli("rm", "node2", "-y", timeout=300).rc == 0
        assert sorted(site.snapshot("node2") ^ before) == []
    finally:
        site.on("node2", "userdel --remove pool")
