"""Ends on the hosts what a playbook that is given up has left at work there: Ansible itself leaves it running.

Ansible's modules run in sessions of one SSH connection to each host, which outlives Ansible: through it what is below
its sshd is ended. A package manager is not torn out of its work: where one is at work, nothing is ended. What was put
into the background (`async`) is below no sshd, and goes on.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from typing import Final

#: For one host; it is asked twice within it, a second apart.
_HOST_S: Final = 10.0
_SCRIPT: Final = r"""
below() {
    ps -A -o pid= -o ppid= -o comm= | awk -v me=$$ '
        { parent[$1] = $2; name[$1] = $3 }
        END {
            for (top = me; top > 1 && name[top] !~ /^sshd/; top = parent[top]);
            for (pid in parent) {
                for (at = pid; at > 1 && at != top && at != me; at = parent[at]);
                if (at != top || pid == top || top <= 1) continue
                if (name[pid] ~ /^(apt|apt-get|aptitude|dpkg|dpkg-deb|dnf|yum|rpm)$/) exit
                found = found " " pid
            }
            print found
        }'
}
for signal in TERM KILL; do
    pids=$(below)
    [ -n "$pids" ] || exit 0
    kill -s $signal $pids 2>/dev/null || sudo -n kill -s $signal $pids 2>/dev/null
    sleep 1
done
"""


def halt(masters: str) -> None:
    """End what runs on the hosts to which a connection is open: those with a control socket in the folder `masters`."""
    with contextlib.suppress(FileNotFoundError):
        sockets = [os.path.join(masters, name) for name in os.listdir(masters)]
        with ThreadPoolExecutor(max(1, len(sockets)), thread_name_prefix="halt") as threads:
            list(threads.map(_halt, sockets))


def _halt(socket: str) -> None:
    argv = ["ssh", "-F", "none", "-o", f"ControlPath={socket}", "-o", "ControlMaster=no", "-o", "BatchMode=yes"]
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):  # a host that is gone cannot be helped
        subprocess.run(
            [*argv, "host", "sh", "-s"],
            input=_SCRIPT.encode(),
            capture_output=True,
            timeout=_HOST_S,
            check=False,
        )
