"""playbooks/driver.yml and runner.yml, as ops type them: host by host, and no job pays for it."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pool.provision.zipapp import build_runner
from tests.conftest import REPOSITORY, pinned
from tests.system.site import Site, machines, until

_STAND_INS = REPOSITORY / "tests" / "molecule" / "nvidia"
_OLD, _NEW = "580.95.05", "580.105.08"
_PACKAGES = ("nvidia-driver-cuda", "nvidia-kernel-open-dkms", "nvidia-persistenced")
_MACHINE = "/usr/share/pool-test/machine"
#: An unsigned repository with two versions of the driver, the older one installed and loaded, by its owner.
_DRIVER = f"""
set -e
export DEBIAN_FRONTEND=noninteractive
mv /usr/bin/nvidia-smi /usr/local/bin/
python3 -I /run/machine.py /usr/share/pool-test '{{"machine": {{"whole": true, "cards": ["2330", "2330"]}}}}'
cd /run && python3 -c '
import repository as made
make, folder = made.Maker("{_MACHINE}"), "/usr/share/pool-test/apt"
for version in ("{_OLD}", "{_NEW}"):
    made.driver(make, folder, version, "nvidia-kernel-open-dkms", "nvidia", made.OPEN)
    files = {{made.library(version): "", "/usr/bin/nvidia-smi": made.SMI}}
    make(folder, "nvidia-driver-cuda", version, files,
                     links={{made.library(): made.library(version)}})
made.write(folder + "/Packages", made.index(folder, folder))
'
echo 'deb [trusted=yes] file:/usr/share/pool-test/apt ./' > /etc/apt/sources.list.d/stand-in.list
apt-get -q update -o Dir::Etc::SourceList=/dev/null -o Dir::Etc::SourceParts=/etc/apt/sources.list.d
apt-get -q install -y --no-install-recommends {" ".join(f"{name}={_OLD}-1" for name in _PACKAGES)}
modprobe --all nvidia && systemctl restart nvidia-persistenced
"""


def play(site: Site, playbook: str, *options: str) -> subprocess.Popen[str]:
    """Start `ansible-playbook -i inventory playbooks/…`, from the checkout."""
    known, inventory = os.path.join(site.folder, "known"), Path(site.folder, "inventory.ini")
    hosts = list(site.hosts.values())
    for host in hosts:
        pinned(known, host)
    inventory.write_text(
        "".join(f"{host.name} ansible_host={host.address}\n" for host in hosts)
        + f"[all:vars]\nansible_user=debian\nansible_ssh_private_key_file={hosts[0].key}\n"
        + "ansible_python_interpreter=/usr/bin/python3\npool_skip=['nvidia_container_toolkit']\n"
        + f"nvidia_driver_root={_MACHINE}/\nnvidia_driver_source=none\nnvidia_driver_packages={list(_PACKAGES)}\n"
    )
    env = {name: value for name, value in os.environ.items() if not name.startswith(("ANSIBLE_", "PYTHONPATH"))}
    ssh = f"-F none -o ControlMaster=auto -o ControlPersist=60 -o UserKnownHostsFile={known}"
    env |= {"ANSIBLE_SSH_ARGS": ssh, "ANSIBLE_HOME": site.folder, "ANSIBLE_NOCOLOR": "1"}
    env["PATH"] = f"{os.path.dirname(sys.executable)}:{env['PATH']}"
    argv = ["ansible-playbook", "-i", str(inventory), f"playbooks/{playbook}.yml", *options]
    pipe = subprocess.PIPE
    return subprocess.Popen(
        argv, cwd=REPOSITORY, env=env, text=True, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe
    )


def one_after_the_other(said: str, play: str) -> bool:
    """Whether the play came to node1 alone, and then to node2 alone."""
    first, second = said.split(f"PLAY [{play}]")[1:]
    return "[node2]" not in first and "[node1]" not in second.split("PLAY RECAP")[0]


def drivers(site: Site) -> dict[str, str]:
    """The version that is loaded on each host."""
    ask = f"sed -n 's/.*  \\([0-9.]*\\)  .*/\\1/p' {_MACHINE}/proc/driver/nvidia/version"
    return {name: site.on(name, ask) for name in site.hosts}


def standing(site: Site) -> dict[str, tuple[str, str]]:
    """Each host's status and reason."""
    return {name: (host["status"], host["reason"] or "") for name, host in site.listed().items()}


def hold_on(site: Site, name: str, host: str) -> None:
    """Run a job there that goes on until it is let go."""
    site.run(name, f"until [ -e /tmp/{name} ]; do sleep 0.1; done; echo went on", host=host)


def let_go(site: Site, name: str, host: str) -> None:
    """Have the job end, and find that nothing had happened to it."""
    site.on(host, f"touch /tmp/{name}")
    assert (site.end_of(name)["status"], site.log(name)) == ("done", b"went on\n")
    site.on(host, f"rm /tmp/{name}")


def test_runners_under_their_jobs(site: Site, tmp_path: Path) -> None:
    """Every runner is a new one, one host after the other; the jobs that ran on them go on to their ends."""
    ask = "systemctl show --property=MainPID --value pool-runner.service"
    before = {name: site.on(name, ask) for name in site.hosts}
    for name in site.hosts:
        hold_on(site, f"outlives-{name}", name)
    zipapp = str(tmp_path / "runner.pyz")
    build_runner(zipapp)
    with zipfile.ZipFile(zipapp, "a") as archive:
        archive.comment = b"newer"
    playing = play(site, "runner", "--extra-vars", f"runner_zipapp={zipapp}")
    said, errors = playing.communicate(timeout=300)
    try:
        assert playing.returncode == 0, said + errors
        assert one_after_the_other(said, "Upgrade the runners")
        for name in site.hosts:
            assert site.on(name, ask) != before[name]
            assert site.on(name, "tail -c 5 /usr/local/lib/pool-runner/runner.pyz") == "newer"
            let_go(site, f"outlives-{name}", name)
    finally:
        site.add(*site.hosts)


@pytest.fixture(scope="module")
def fleet(session_dir: str) -> Iterator[Site]:
    """Two machines of these tests' own, in a pool, with a driver that is not the newest."""
    with machines(session_dir, "fleet", 2) as fleet:
        with ThreadPoolExecutor() as side_by_side:
            made = [side_by_side.submit(_give_a_driver, fleet, name) for name in fleet.hosts]
            added = fleet.add(*fleet.hosts)
            assert all(each.rc == 0 for each in added.values()), added
            assert [each.result() for each in made]
        yield fleet


def _give_a_driver(fleet: Site, name: str) -> str:
    for program in ("machine", "repository"):
        fleet.on(name, f"cat > /run/{program}.py <<'PROGRAM'\n{(_STAND_INS / f'{program}.py').read_text()}PROGRAM\n")
    return fleet.on(name, _DRIVER, timeout=300)


def test_drivers_one_host_first(fleet: Site) -> None:
    """The first is drained and its job waited for; where it fails it stays so, and no other is touched; then both."""
    hold_on(fleet, "waited", "node1")
    fleet.on("node1", f"apt-mark hold {_PACKAGES[0]}")
    playing = play(fleet, "driver")
    until(lambda: standing(fleet)["node1"][0] == "draining", "a drained host")
    assert standing(fleet)["node1"][1] == "the driver is being upgraded (playbooks/driver.yml)"
    assert fleet.job("waited")["shown"] == "running"
    let_go(fleet, "waited", "node1")
    said, _ = playing.communicate(timeout=300)
    assert playing.returncode != 0
    assert "it stays drained. Set it right and run this again, or: pool undrain node1" in said, said
    status, reason = until(lambda: _failed(fleet), "the reason")
    assert status == "draining"
    assert "someone holds nvidia-driver-cuda; on the host: apt-mark unhold (playbooks/driver.yml)" in reason
    assert standing(fleet)["node2"] == ("ready", "")
    assert drivers(fleet) == {"node1": _OLD, "node2": _OLD}

    fleet.on("node1", f"apt-mark unhold {_PACKAGES[0]}")
    assert fleet.cli("drain", "node2", "--reason", "new fans").rc == 0
    again = play(fleet, "driver")
    said, errors = again.communicate(timeout=600)
    assert again.returncode == 0, said + errors
    assert drivers(fleet) == {"node1": _NEW, "node2": _NEW}
    assert one_after_the_other(said, "Upgrade the drivers")
    until(lambda: standing(fleet)["node1"] == ("ready", ""), "the first host's return")
    status, reason = standing(fleet)["node2"]
    assert (status, reason.split(" (")[0], "driver" in reason) == ("draining", "new fans", False)
    assert fleet.cli("undrain", "node2").rc == 0


def _failed(fleet: Site) -> tuple[str, str] | None:
    status, reason = standing(fleet)["node1"]
    return (status, reason) if "the driver upgrade failed" in reason else None
