"""Records what Ansible answers on a real machine when a step of a role goes wrong.

    python -m tests.system.record_failures

On a machine of the system lab each thing that goes wrong in a lab is brought about (a package manager at work, a full
disk, a proxy that refuses, …), and a step of a role is run. The results, as Ansible gives them, become
tests/unit/recorded_failures.json, which tests/unit/test_failure.py reads. Needs root; takes some minutes.
"""

from __future__ import annotations

import functools
import json
import os
import re
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pool.lab.system import SystemLab
from pool.provision import progress
from pool.provision.inventory import runner_variables
from pool.provision.playbook import run_playbook
from pool.provision.preflight import preflight
from pool.ssh import connection
from tests.conftest import pinned

_OUT = Path(__file__).parent.parent / "unit" / "recorded_failures.json"
#: What Ansible's apt needs, and what a host has that has lists at all.
_READY = "apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qqy install python3-apt"
_SOURCES = "/etc/apt/sources.list /etc/apt/sources.list.d"
_INSTALL = """
ansible.builtin.apt: {name: %s, install_recommends: false, update_cache: %s, lock_timeout: 3}
environment: {DEBIAN_FRONTEND: noninteractive}
become: true
async: 120
poll: 2
"""
_NOW = _INSTALL % ("docker.io", "false")
_AFTER_UPDATE = _INSTALL % ("docker.io", "true")
_ONE_FILE = "ansible.builtin.copy: {content: x, dest: /etc/pool-test}\nbecome: true"
_LOCK = """
cat > /run/lock.py <<EOF
import fcntl, time
file = open("%s", "w")
fcntl.lockf(file, fcntl.LOCK_EX)
time.sleep(600)
EOF
systemd-run --quiet --unit=holds-the-lock python3 /run/lock.py; sleep 1
"""
_PROXY = r"""
cat > /run/proxy.py <<EOF
import http.server
class Refusing(http.server.BaseHTTPRequestHandler):
    def do_GET(self): self.send_error(407, "Proxy Authentication Required")
http.server.HTTPServer(("127.0.0.1", 8407), Refusing).serve_forever()
EOF
systemd-run --quiet --unit=refuses python3 /run/proxy.py; sleep 1
printf 'Acquire::%s::Proxy "http://127.0.0.1:8407";\n' http https > /etc/apt/apt.conf.d/proxy
"""
#: name -> how it comes about on the host, the step, how it is undone.
CASES: Mapping[str, tuple[str, str, str]] = {
    "a package manager is at work": (_LOCK % "/var/lib/dpkg/lock-frontend", _NOW, "systemctl stop holds-the-lock"),
    "another one reads the lists": (_LOCK % "/var/lib/apt/lists/lock", _AFTER_UPDATE, "systemctl stop holds-the-lock"),
    "no room for packages": (
        "mount -t tmpfs -o size=300k none /var/cache/apt/archives && mkdir /var/cache/apt/archives/partial",
        _NOW,
        "umount /var/cache/apt/archives",
    ),
    "no room for a file": (
        "mkdir /run/etc && mount -t tmpfs -o size=8k none /run/etc && dd if=/dev/zero of=/run/etc/x 2>&-; :",
        _ONE_FILE.replace("/etc/pool-test", "/run/etc/y"),
        "umount /run/etc",
    ),
    "a package is on hold": ("apt-mark hold docker.io", _NOW, "apt-mark unhold docker.io"),
    "dpkg was interrupted": ("touch /var/lib/dpkg/updates/0001", _NOW, "rm /var/lib/dpkg/updates/0001"),
    "a proxy refuses": (_PROXY, _NOW, "systemctl stop refuses; rm /etc/apt/apt.conf.d/proxy"),
    "a proxy does not answer": (
        """echo 'Acquire::http::Proxy "http://127.0.0.1:9";' > /etc/apt/apt.conf.d/proxy""",
        _NOW,
        "rm /etc/apt/apt.conf.d/proxy",
    ),
    "a source's name is not known": (
        f"mkdir -p /run/kept && mv {_SOURCES} /run/kept; echo 'deb http://no.invalid/ x main' > /etc/apt/sources.list",
        _AFTER_UPDATE,
        f"rm -r {_SOURCES}; mv /run/kept/* /etc/apt/",
    ),
    "there is no such package": ("", _NOW.replace("docker.io", "linux-headers-9.9.9-gpu"), ""),
    "sudo wants a password": (
        "mkdir -p /run/kept && mv /etc/sudoers.d /run/kept && mkdir /etc/sudoers.d && usermod -aG sudo debian",
        _ONE_FILE,
        "rm -r /etc/sudoers.d && mv /run/kept/sudoers.d /etc/ && gpasswd -d debian sudo",
    ),
    "it takes too long": ("", "ansible.builtin.command: sleep 60\nbecome: true\nasync: 3\npoll: 1", ""),
    "it hangs": ("", "ansible.builtin.command: sleep 60\nbecome: true\ntimeout: 3", ""),
}


def main() -> None:
    """Bring about each case on a fresh machine, run its step, write what Ansible answered."""
    recorded, answers = {}, []
    classify = progress.classify

    def record(host: str, at: str, result: Mapping[str, Any], **options: Any) -> Any:
        answers.append({"unreachable": options["unreachable"], "result": _kept(result)})
        return classify(host, at, result, **options)

    progress.classify = record  # type: ignore[assignment]
    with tempfile.TemporaryDirectory(prefix="pool-record-") as folder:
        lab = SystemLab(os.path.join(folder, "lab"))
        try:
            host = lab.up(1)[0]
            pins, playbook = os.path.join(folder, "known_hosts"), os.path.join(folder, "step.yml")
            target = pinned(pins, host)
            with connection.connect(target, pins) as made:
                found = preflight(target.name, functools.partial(connection.exec, made))
            assert lab.execute(host.name, "sh", "-c", _READY, timeout=300)[0] == 0
            for name, (before, step, after) in CASES.items():
                lines = "".join(f"      {line}\n" for line in step.strip().splitlines())
                with open(playbook, "w", encoding="utf-8") as file:
                    file.write(f"- hosts: all\n  gather_facts: false\n  tasks:\n    - name: It\n{lines}")
                assert lab.execute(host.name, "sh", "-c", before, timeout=60)[0] == 0, name
                outcome = run_playbook(
                    playbook,
                    [target],
                    known_hosts=pins,
                    log=os.path.join(folder, "log"),
                    variables={host.name: runner_variables(found, "none")},
                    on_event=lambda _: None,
                )[host.name]
                assert outcome.error is not None, f"{name}: nothing went wrong"
                recorded[name] = answers[-1]
                assert lab.execute(host.name, "sh", "-c", after, timeout=60)[0] == 0, name
                said = (f"{name}", f"{type(outcome.error).__name__}: {outcome.error}", str(outcome.error.hint))
                sys.stdout.write("\n    ".join(said) + "\n")
        finally:
            lab.down()
    _OUT.write_text(json.dumps(recorded, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def _kept(result: Mapping[str, Any]) -> dict[str, Any]:
    """What is read of a result, no longer than it says anything; whose mirror it was is nobody's business."""
    words = ("msg", "stderr", "module_stderr", "stdout", "module_stdout", "rc", "unreachable")
    found = {key: result[key] for key in words if key in result}
    return {
        key: re.sub(r"(https?)://[a-z0-9.-]+(?=[/:])", r"\1://mirror.example", value)[:2000]
        if isinstance(value, str)
        else value
        for key, value in found.items()
    }


if __name__ == "__main__":
    main()
