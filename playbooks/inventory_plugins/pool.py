"""Ansible's inventory plug-in `pool`: the hosts of a pool, with groups and variables of one's own beside them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

from ansible.errors import AnsibleParserError
from ansible.module_utils.common.text.converters import to_text
from ansible.plugins.inventory import BaseInventoryPlugin, Constructable

DOCUMENTATION = """
name: pool
short_description: The hosts of a pool
description:
  - Lists what C(pool inventory) knows, with groups by pool, status, region, label and model of GPU.
  - The file that configures it ends in C(pool.yml) or C(pool.yaml).
extends_documentation_fragment: [constructed]
options:
  plugin:
    description: This plug-in's name.
    required: true
    choices: [pool]
  command:
    description: The program C(pool-inventory); by itself found beside Ansible's Python, then by PATH.
    type: path
    env: [{name: POOL_INVENTORY}]
  state_dir:
    description: The state folder of the pool, as in POOL_STATE_DIR.
    type: path
"""

EXAMPLES = """
plugin: pool
keyed_groups:
  - {prefix: driver, key: pool_driver}
groups:
  idle: pool_status == 'ready' and pool_jobs == 0
"""

_ASK_S = 120


class InventoryModule(BaseInventoryPlugin, Constructable):
    """Asks `pool-inventory` and passes on what it says; nothing of it is a template."""

    NAME = "pool"

    def verify_file(self, path: str) -> bool:
        """True for files that end in pool.yml or pool.yaml."""
        return super().verify_file(path) and path.endswith(("pool.yml", "pool.yaml"))

    def parse(self, inventory: Any, loader: Any, path: str, cache: bool = True) -> None:
        """Add every host, its groups and variables, then what the file constructs from them."""
        super().parse(inventory, loader, path, cache)
        self._read_config_data(path)
        found = self._ask()
        variables = found.pop("_meta")["hostvars"]
        for name in variables:
            self.inventory.add_host(name)
        for group, members in found.items():
            for host in members.get("hosts", ()):
                self.inventory.add_child(self.inventory.add_group(group), host)
        for name, values in variables.items():
            for variable, value in values.items():
                self.inventory.set_variable(name, variable, value)
            strict = self.get_option("strict")
            self._set_composite_vars(self.get_option("compose"), values, name, strict=strict)
            self._add_host_to_composed_groups(self.get_option("groups"), values, name, strict=strict)
            self._add_host_to_keyed_groups(self.get_option("keyed_groups"), values, name, strict=strict)

    def _ask(self) -> Any:
        program = self.get_option("command")
        if not program:
            beside = os.path.join(os.path.dirname(sys.executable), "pool-inventory")
            program = beside if os.access(beside, os.X_OK) else "pool-inventory"
        folder = self.get_option("state_dir")
        environment = {**os.environ, **({"POOL_STATE_DIR": folder} if folder else {})}
        try:
            done = subprocess.run(
                [program, "--list"], env=environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=_ASK_S
            )
            if done.returncode == 0:
                return json.loads(done.stdout)
            said = to_text(done.stderr).strip()
        except (OSError, ValueError, subprocess.TimeoutExpired) as error:
            said = str(error)
        raise AnsibleParserError(f"{program}: {said}")
