"""`pool inventory`: what Ansible is told of the pool, whatever a host says of itself."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from pool.errors import InputError
from pool.host import Gpu, HostView
from pool.server.inventory import ansible_inventory
from tests.unit.scheduler.pools import view


def test_groups_and_the_way_in() -> None:
    """By pool, status, region, label and card; pinned keys only, and nothing of the person's own ssh settings."""
    one = view("gpu1")
    one = replace(one, host=replace(one.host, labels=(("rack", "b 2"),), key="/k"))
    found = ansible_inventory([one], "/state/known hosts")
    groups = {name for name, group in found.items() if name not in ("_meta", "all") and "gpu1" in group["hosts"]}
    assert {"pool_default", "status_ready", "region_remote", "label_rack_b_2"} <= groups
    assert found["all"] == {"children": sorted(groups)}
    said = found["_meta"]["hostvars"]["gpu1"]
    assert said["ansible_host"] == one.host.address
    arguments = said["ansible_ssh_common_args"]
    assert arguments.startswith("-F none -o")
    assert "StrictHostKeyChecking=yes" in arguments
    assert "IdentitiesOnly=yes" in arguments


def test_no_fact_is_a_template() -> None:
    """A card, a system and a reason that carry Jinja are words."""
    evil = "{{ lookup('pipe', 'touch /tmp/canary') }}{% raw %}{# x #}"
    one = view("gpu1")
    facts = replace(one.host.facts, os=evil, gpu_problem=evil, gpus=(Gpu("GPU-1", evil, 1024),))
    found = ansible_inventory([HostView(replace(one.host, facts=facts, reason=evil), (), 1, 1)], "/known_hosts")
    text = json.dumps(found)
    assert "pipe" in text
    assert not any(opening in text for opening in ("{{", "{%", "{#"))


@pytest.mark.parametrize("path", ["/a\nb", "/a{{ b }}/known_hosts", "/100%/known_hosts", '/a"b'])
def test_a_state_folder_that_ssh_cannot_be_told_of(path: str) -> None:
    """One error; no inventory that would mean something else."""
    with pytest.raises(InputError):
        ansible_inventory([view("gpu1")], path)
