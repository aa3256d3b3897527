"""`pool add-ssh --inventory`: hosts of an Ansible inventory, each for itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from pool.lab.loopback import LabHost
from tests.conftest import Cli
from tests.e2e.test_jump import carry, hosts

Machine = Callable[[], LabHost]


def test_an_inventory(cli: Cli, machine: Machine, tmp_path: Path) -> None:
    """Groups, files beside it and a jump host count; what is wrong with one host is told and holds up no other."""
    bastion, behind, direct = carry(machine()), machine(), machine()
    canary = tmp_path / "canary"
    (tmp_path / "group_vars").mkdir()
    through = f"ssh -W %h:%p -p {bastion.port} -i key {bastion.user}@{bastion.address}"
    (tmp_path / "group_vars" / "inner.yml").write_text(
        f"ansible_ssh_common_args: -o ProxyCommand='{through}'\npool_jump_fingerprint: {bastion.fingerprint}\n"
    )
    os.symlink(behind.key, tmp_path / "key")
    (tmp_path / "inventory.ini").write_text(
        "[gpu:children]\ninner\nouter\n[gpu:vars]\npool_pool=train\nansible_become=false\nansible_timeout=5\n"
        "ansible_ssh_private_key_file=key\npool_network=127.0.0.0/8\n"
        f"[inner]\none ansible_host={behind.address} ansible_port={behind.port} ansible_user={behind.user}"
        f" pool_fingerprint={behind.fingerprint} pool_labels=rack=b2,type=big\n"
        f"[outer]\ntwo ansible_host={direct.address} ansible_port={direct.port} ansible_user={direct.user}"
        f" pool_fingerprint={direct.fingerprint} pool_region=own ansible_python_interpreter=/usr/bin/python3\n"
        f"zwei ansible_host={direct.address} ansible_port={direct.port}\n"
        f"evil ansible_user=\"{{{{ lookup('pipe', 'touch {canary}') }}}}\"\n"
        f"-oProxyCommand=touch${{IFS}}{canary}\n"
        "here ansible_connection=local\n"
        "secret ansible_become_password=hunter2\n"
        "closed ansible_host=127.0.0.1 ansible_port=1\n"
        "[rest]\nother\n"
    )
    words = ("add-ssh", "--inventory", "inventory.ini", "--limit", "gpu", "--region", "lab", "--json")
    done = cli(*words, cwd=tmp_path)
    assert done.rc == 11, done
    told = json.loads(done.stdout)
    assert {host["name"]: host["error"] for host in told["hosts"]} == {"one": None, "two": None}, done
    errors = [error["message"] for error in told["errors"]]
    for said in (
        "zwei: it is the same host as two",
        "evil: ansible_user is a template, which is not expanded",
        "-oProxyCommand=touch${IFS}",
        "here: ansible_connection='local' cannot be honoured",
        "secret: ansible_become_password cannot be honoured",
        "closed",
    ):
        assert any(error.startswith(said) for error in errors), done
    assert len(errors) == 6
    assert "hunter2" not in done.stdout + done.stderr
    assert "pool: closed, one, two: ansible_timeout is left aside" in done.stderr, done
    assert not canary.exists()
    known = hosts(cli)
    assert set(known) == {"one", "two"}
    assert [known["one"][key] for key in ("pool", "region", "labels", "status")] == [
        "train",
        "lab",
        {"rack": "b2", "type": "big"},
        "ready",
    ]
    assert known["one"]["jumps"] == [{"address": bastion.address, "port": bastion.port, "user": bastion.user}]
    assert [known["two"][key] for key in ("region", "jumps", "network")] == ["own", [], "127.0.0.0/8"]
    again = cli(*words[:4], "one:two", "--json", cwd=tmp_path)
    assert again.rc == 0, again
    assert [host["changed"] for host in json.loads(again.stdout)["hosts"]] == [0, 0]


def test_an_inventory_that_is_none(cli: Cli, tmp_path: Path) -> None:
    """One error and the next command; nothing is run or changed."""
    (tmp_path / "script").write_text(f"#!/bin/sh\ntouch {tmp_path}/canary\n")
    (tmp_path / "script").chmod(0o755)
    (tmp_path / "empty.ini").write_text("[gpu]\n")
    for words, said in (
        (["--inventory", "script"], "not an INI or YAML inventory"),
        (["--inventory", "empty.ini"], "there is no host in it"),
        (["--inventory", "none.ini"], f"there is no inventory {tmp_path}/none.ini"),
        (["--inventory", "empty.ini", "gpu1"], "name the hosts, or an --inventory"),
        (["gpu1", "--limit", "gpu1"], "name the hosts, or an --inventory"),
        (["--inventory", "empty.ini", "--name", "x"], "for one host at a time"),
        ([], "name the hosts, or an --inventory"),
    ):
        done = cli("add-ssh", *words, cwd=tmp_path)
        assert (done.rc, done.stdout) == (2, ""), done
        assert said in done.stderr, done
        assert len(done.stderr.splitlines()) <= 2, done
    assert not (tmp_path / "canary").exists()
    assert hosts(cli) == {}


def test_the_pool_is_an_inventory(ready: Cli, lab: list[LabHost], tmp_path: Path) -> None:
    """Ansible reaches the pool's hosts through the program and the plug-in, and refuses a key that is not pinned."""
    told = json.loads(ready("inventory", "--host", "gpu1").stdout)
    assert (told["ansible_host"], told["ansible_port"], told["pool_status"]) == (lab[0].address, lab[0].port, "ready")
    assert ready("inventory", "--host", "none").rc == 3
    program = os.path.join(os.path.dirname(sys.executable), "pool-inventory")
    done = _ping(ready, program, "status_ready", tmp_path)
    assert done.returncode == 0, done
    assert done.stdout.count('"ping": "pong"') == 2
    (tmp_path / "lab.pool.yml").write_text("plugin: pool\nkeyed_groups:\n  - {prefix: is, key: pool_status}\n")
    plugins = ready("inventory", "--plugins").stdout.strip()
    listed = _ping(ready, str(tmp_path / "lab.pool.yml"), "is_ready", tmp_path, ANSIBLE_INVENTORY_PLUGINS=plugins)
    assert listed.stdout.count('"ping": "pong"') == 2, listed
    pins = Path(ready.env["POOL_STATE_DIR"], "known_hosts")
    right = pins.read_text()
    swapped = {line.split()[0]: line.split()[1:] for line in right.splitlines()}
    names = list(swapped)
    pins.write_text("".join(f"{name} {' '.join(swapped[names[i - 1]])}\n" for i, name in enumerate(names)))
    try:
        refused = _ping(ready, program, "all", tmp_path)
    finally:
        pins.write_text(right)
    assert refused.returncode == 4, refused
    assert refused.stdout.count("UNREACHABLE!") == 2
    assert "Host key verification failed" in refused.stdout


def _ping(cli: Cli, inventory: str, pattern: str, folder: Path, **env: str) -> subprocess.CompletedProcess[str]:
    argv = [
        os.path.join(os.path.dirname(sys.executable), "ansible"),
        "-i",
        inventory,
        pattern,
        "-m",
        "ansible.builtin.ping",
    ]
    (folder / "ansible.cfg").write_text("[ssh_connection]\nssh_args = -o ControlMaster=no\n")
    own = cli.env | {"ANSIBLE_HOME": str(folder / "ansible"), "ANSIBLE_NOCOLOR": "1"} | env
    return subprocess.run(argv, env=own, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
