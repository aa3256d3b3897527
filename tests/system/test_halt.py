"""A playbook that is given up, on hosts where only sudo makes root: what it had begun there ends as well."""

from __future__ import annotations

from pathlib import Path

from pool.lab.loopback import LabHost
from pool.lab.system import SystemLab
from pool.provision.playbook import run_playbook
from tests.conftest import pinned
from tests.system.site import until

_PLAY = """
- hosts: all
  gather_facts: false
  become: true
  tasks:
    - name: It
      ansible.builtin.command: sleep 808
"""


def test_a_step_as_root_ends_with_its_playbook(system_lab: tuple[SystemLab, list[LabHost]], tmp_path: Path) -> None:
    """The login user may not signal it; sudo may."""
    lab, (host, *_) = system_lab
    pins, playbook = str(tmp_path / "known_hosts"), tmp_path / "step.yml"
    playbook.write_text(_PLAY)
    target = pinned(pins, host)

    def owners() -> list[str]:
        code, said = lab.execute(host.name, "sh", "-c", "pgrep -f '[s]leep 808' | xargs -r ps -o user= -p", timeout=60)
        assert code == 0
        return said.split()

    given_up = run_playbook(
        str(playbook),
        [target],
        known_hosts=pins,
        log=str(tmp_path / "log"),
        variables={host.name: {"ansible_python_interpreter": "/usr/bin/python3"}},
        on_event=lambda _: None,
        cancelled=lambda: "root" in owners(),
    )[host.name]
    assert given_up.error is not None
    assert "interrupted during: It" in given_up.error.message
    until(lambda: owners() == [], "the end of the step")
