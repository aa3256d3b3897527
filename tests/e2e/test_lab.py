"""The loopback lab, seen with OpenSSH's own client: what later tests stand on."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator

import pytest

from pool.errors import InputError
from pool.lab import gpus, loopback, processes
from pool.lab.loopback import LabHost
from tests.e2e.conftest import Ssh


@pytest.fixture
def root(session_dir: str) -> Iterator[str]:
    """The folder of a lab of this test's own, beside the session's."""
    path = os.path.join(session_dir, "own")
    yield path
    loopback.down(path)


def test_each_host_is_a_host_of_its_own(lab: list[LabHost], ssh: Ssh) -> None:
    """A session's HOME, PATH and environment are the host's, not those of the person who tests."""
    for host in lab:
        done = ssh(host, 'echo "$HOME"; echo "$PATH"; echo "$POOL_RUNNER_SCOPE"; echo ~; echo "$SSH_CONNECTION"')
        home, path, scope, tilde, connection = done.stdout.splitlines()
        assert home == tilde == host.home
        assert path.split(":")[0] == os.path.join(os.path.dirname(host.home), "bin")
        assert scope == "user"
        assert connection.split()[2:] == [host.address, str(host.port)]
    assert len({host.home for host in lab}) == len({host.address for host in lab}) == len(lab)


def test_the_login_files_of_the_real_user_are_not_read(lab: list[LabHost], ssh: Ssh) -> None:
    """Nothing of the person's own shell set-up reaches a session; bash reads the file of the host's home."""
    with open(os.path.join(lab[0].home, ".bashrc"), "a", encoding="utf-8") as file:
        file.write("export FROM_LAB_HOME=yes\n")
    done = ssh(lab[0], "env; pwd")
    *lines, pwd = done.stdout.splitlines()
    env = dict(line.split("=", 1) for line in lines)
    assert env["HOME"] == lab[0].home
    if env["SHELL"].endswith("/bash"):
        assert env["FROM_LAB_HOME"] == "yes"
        assert pwd == lab[0].home
    assert done.stderr == ""


def test_another_key_is_refused(lab: list[LabHost], ssh: Ssh, tmp_path: object) -> None:
    """Only the lab's own key lets anyone in, and no password is asked for."""
    key = os.path.join(str(tmp_path), "other")
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True, timeout=30)
    done = ssh(lab[0], "true", key=key)
    assert done.returncode == 255
    assert "Permission denied (publickey)" in done.stderr


def test_host_key_is_the_one_that_is_told(lab: list[LabHost]) -> None:
    """The fingerprint that `pool add-ssh --fingerprint` is given is that of the key the daemon shows."""
    for host in lab:
        scan = ["ssh-keyscan", "-t", "ed25519", "-p", str(host.port), host.address]
        shown = subprocess.run(scan, capture_output=True, check=True, timeout=30).stdout
        done = subprocess.run(["ssh-keygen", "-l", "-f", "-"], input=shown, capture_output=True, check=True, timeout=30)
        assert done.stdout.decode().split()[1] == host.fingerprint


def test_forwarding_is_refused(lab: list[LabHost], ssh: Ssh) -> None:
    """These hosts are strict ones: what works here needs no port forwarding."""
    done = ssh(lab[0], "true", "-W", f"{lab[1].address}:{lab[1].port}")
    assert done.returncode == 255
    assert "forwarding failed" in done.stderr


def test_sftp_starts_in_the_home_of_the_host(lab: list[LabHost]) -> None:
    """A relative path in a transfer never lands in the real user's home."""
    options = ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"]
    host = lab[0]
    argv = ["sftp", "-F", "none", "-i", host.key, "-P", str(host.port), *options, f"{host.user}@{host.address}"]
    done = subprocess.run(argv, input="pwd\n", capture_output=True, text=True, check=True, timeout=30)
    assert host.home in done.stdout


def test_nvidia_smi_tells_of_the_cards(lab: list[LabHost], ssh: Ssh) -> None:
    """The stand-in prints what a real one prints for the queries that are made of it."""
    query = "index,uuid,name,memory.total,driver_version,compute_cap"
    seen = set()
    for host in lab:
        done = ssh(host, f"nvidia-smi --query-gpu={query} --format=csv,noheader,nounits")
        rows = [line.split(", ") for line in done.stdout.splitlines()]
        assert [row[0] for row in rows] == ["0", "1"]
        assert {tuple(row[2:]) for row in rows} == {("NVIDIA H100 80GB HBM3", "81559", gpus.DRIVER, "9.0")}
        listed = ssh(host, "nvidia-smi -L").stdout.splitlines()
        assert listed == [f"GPU {row[0]}: {row[2]} (UUID: {row[1]})" for row in rows]
        seen |= {row[1] for row in rows}
    assert len(seen) == 4
    assert all(len(uuid) == len("GPU-") + 36 for uuid in seen)


def test_up_again_keeps_what_is_there_and_adds_what_is_not(root: str, ssh: Ssh) -> None:
    """A host keeps its address, key, cards and home; one whose sshd was killed is started again."""
    first = loopback.up(2, root=root)
    assert loopback.up(1, root=root) == first
    cards = ssh(first[0], 'touch "$HOME/kept"; nvidia-smi -L').stdout
    loopback.stop(first[0])
    assert loopback.hosts(root)[0].pid == 0
    assert ssh(first[0], "true").returncode == 255
    second = loopback.up(3, root=root, gpus=1, gpu_model="L40S")
    assert [host.name for host in second] == ["gpu1", "gpu2", "gpu3"]
    assert second[1] == first[1]
    assert (second[0].address, second[0].fingerprint) == (first[0].address, first[0].fingerprint)
    assert ssh(second[0], 'ls "$HOME"; nvidia-smi -L').stdout == "kept\n" + cards
    assert "NVIDIA L40S" in ssh(second[2], "nvidia-smi -L").stdout


def test_cards_can_be_changed_and_be_sick(root: str, ssh: Ssh) -> None:
    """The cards of one host are set apart from the others'; a fault shows as nvidia-smi shows it."""
    host = loopback.up(1, root=root, gpus=1)[0]
    folder = os.path.dirname(host.home)
    before = ssh(host, "nvidia-smi -L").stdout.splitlines()
    gpus.write(folder, 3, "H100")
    assert ssh(host, "nvidia-smi -L").stdout.splitlines()[:1] == before
    gpus.write(folder, 3, "H100", fault="driver")
    assert ssh(host, "nvidia-smi -L").returncode == 9
    gpus.write(folder, 0, "H100")
    assert ssh(host, "nvidia-smi -L").returncode in (6, 127)


def test_down_leaves_no_process_and_no_folder(root: str, ssh: Ssh) -> None:
    """Daemons, open sessions and what detached itself from them are ended, also after the daemon itself was killed."""
    hosts = loopback.up(2, root=root)
    for host in hosts:
        assert (
            ssh(host, "setsid sleep 600 </dev/null >/dev/null 2>&1 & cd && mkdir -p a/b && chmod 0 a/b").returncode == 0
        )
    options = ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-p", str(hosts[1].port)]
    argv = ["ssh", "-F", "none", "-T", "-i", hosts[1].key, *options, f"{hosts[1].user}@{hosts[1].address}"]
    open_session = subprocess.Popen(
        [*argv, "echo in; exec sleep 600"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert open_session.stdout is not None
    assert open_session.stdout.readline() == b"in\n"
    os.kill(hosts[0].pid, 9)
    assert len(processes.belonging(root)) >= 4
    assert loopback.down(root) == 2
    assert processes.belonging(root) == {}
    assert not os.path.exists(root)
    open_session.communicate(timeout=30)
    assert loopback.down(root) == 0


def test_a_folder_that_is_something_else_is_refused(session_dir: str) -> None:
    """`up` takes no folder that holds other things, so `down` never removes one."""
    folder = os.path.join(session_dir, "thesis")
    os.makedirs(folder)
    with open(os.path.join(folder, "chapter1"), "w", encoding="utf-8"):
        pass
    with pytest.raises(InputError, match="not a lab"):
        loopback.up(1, root=folder)
    assert loopback.down(folder) == 0
    assert os.listdir(folder) == ["chapter1"]


@pytest.mark.parametrize("count", [0, -1, 201])
def test_number_of_hosts_is_checked(root: str, count: int) -> None:
    """A number that no lab has is refused before anything is made."""
    with pytest.raises(InputError):
        loopback.up(count, root=root)
    assert not os.path.exists(root)
