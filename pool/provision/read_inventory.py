"""Reads a person's own Ansible inventory: INI or YAML, with group_vars/ and host_vars/ beside it.

Ansible's own reader does it, in a process of its own that can load these two kinds only: a script is not run, a plug-in
not loaded, a template not expanded. What comes back is plain JSON and still not trusted.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from typing import Any, Final

from pool.errors import InputError, ProvisionError
from pool.provision.failure import first_line

#: Reading a file takes a second or two; what takes longer was made to.
_READ_S: Final = 60
_SIZE_MAX: Final = 64 << 20
#: Of this process's environment; nothing by which a person's own Ansible settings would come in.
_ENVIRONMENT: Final = ("LANG", "LC_ALL", "LOGNAME", "TMPDIR", "USER", "POOL_LAB")


def read_inventory(path: str, limit: str | None = None) -> dict[str, dict[str, Any]]:
    """The variables of each host by its name, those of its groups included; only hosts that match the pattern `limit`.

    InputError when the file is missing, is no INI or YAML inventory, or has no such host.
    """
    if not os.path.exists(path):
        raise InputError(f"there is no inventory {path}", hint="pool add-ssh --inventory inventory.ini")
    rc, out, err = _ask(path, limit)
    if rc != 0 and "no vault secrets" in err:
        raise InputError(f"{path}: a part of it is encrypted, and pool opens no vault", hint="keep vaulted files apart")
    if rc != 0:
        message = f"{path}: not an INI or YAML inventory that can be read: {_reason(err)}"
        raise InputError(message, hint=f"ansible-inventory -i {shlex.quote(path)} --list")
    try:
        hosts: dict[str, dict[str, Any]] = json.loads(out)["_meta"]["hostvars"]
    except (ValueError, KeyError, RecursionError) as error:
        raise ProvisionError(f"{path}: ansible-inventory answered something else than an inventory") from error
    if not hosts:
        matching = f" that matches {limit!a}" if limit else ""
        raise InputError(
            f"{path}: there is no host in it{matching}", hint=f"ansible-inventory -i {shlex.quote(path)} --graph"
        )
    return hosts


def _ask(path: str, limit: str | None) -> tuple[int, bytes, str]:
    search = os.path.dirname(sys.executable) + os.pathsep + os.environ.get("PATH", os.defpath)
    program = shutil.which("ansible-inventory", path=search)
    if program is None:
        raise ProvisionError("ansible-inventory is not installed", hint=f"{sys.executable} -m pip install ansible-core")
    with tempfile.TemporaryDirectory(prefix="pool-inventory-") as folder:
        open(os.path.join(folder, "ansible.cfg"), "x").close()
        environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ} | {
            "PATH": search,
            "HOME": folder,
            "ANSIBLE_CONFIG": os.path.join(folder, "ansible.cfg"),
            "ANSIBLE_HOME": folder,
            "ANSIBLE_INVENTORY_ENABLED": "ansible.builtin.ini,ansible.builtin.yaml",
            "ANSIBLE_INVENTORY_UNPARSED_FAILED": "True",
            "ANSIBLE_NOCOLOR": "True",
        }
        argv = [program, "--list", f"--inventory={path}", *([f"--limit={limit}"] if limit else [])]
        with tempfile.TemporaryFile(dir=folder) as out, tempfile.TemporaryFile(dir=folder) as err:
            try:
                done = subprocess.run(
                    argv, stdin=subprocess.DEVNULL, stdout=out, stderr=err, cwd=folder, env=environment,
                    timeout=_READ_S, check=False,
                )  # fmt: skip
            except subprocess.TimeoutExpired as error:
                raise InputError(f"{path}: reading it takes longer than {_READ_S} s") from error
            if os.fstat(out.fileno()).st_size > _SIZE_MAX:
                raise InputError(f"{path}: its hosts' variables are more than {_SIZE_MAX >> 20} MiB")
            out.seek(0)
            err.seek(0)
            return done.returncode, out.read(), err.read(1 << 20).decode(errors="replace")


def _reason(said: str) -> str:
    """The last of the plug-ins' own reasons, without what they quote of the file: a password may stand there."""
    causes = [line for line in said.splitlines() if "Failed to parse inventory with" in line]
    words = [line.split("plugin: ", 1)[1] for line in causes if "plugin: " in line]
    reasons = dict.fromkeys(word.removeprefix("Failed to parse inventory: ") for word in words)
    told = [re.sub(r"['\"].*['\"]|(?<=got: ).*", "…", first_line(reason)) for reason in reasons]
    return "; ".join(told) or "see for yourself"
