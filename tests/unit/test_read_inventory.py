"""A person's inventory is read by Ansible's own reader, and nothing that is in it is run."""

from __future__ import annotations

from pathlib import Path

import pytest

from pool.errors import InputError
from pool.provision.read_inventory import read_inventory

INI = """\
gpu9 ansible_host=10.0.0.9
[gpu]
gpu[1:3]
evil ansible_user="{{ lookup('pipe', 'touch CANARY') }}"
-oProxyCommand=touch${IFS}CANARY
[cluster:children]
gpu
[cluster:vars]
pool_pool=train
pool_region=lab
"""


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    """A file that must not come to be."""
    return tmp_path / "CANARY"


def test_groups_ranges_and_files_beside_it(tmp_path: Path, canary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Ansible has it: host over group over parent; a template stays what it is, whatever the person's settings."""
    (tmp_path / "i.ini").write_text(INI.replace("CANARY", str(canary)))
    for name, text in {
        "group_vars/gpu.yml": "pool_region: inner\nansible_user: ubuntu\n",
        "host_vars/gpu2.yml": "pool_region: own\npool_labels: {rack: b2}\n",
        "ansible.cfg": f"[defaults]\nvars_plugins={tmp_path}/plugins\n[inventory]\nenable_plugins=script\n",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ANSIBLE_INVENTORY_ENABLED", "script")
    monkeypatch.setenv("ANSIBLE_JINJA2_NATIVE", "True")
    found = read_inventory(str(tmp_path / "i.ini"))
    assert set(found) == {"gpu1", "gpu2", "gpu3", "gpu9", "evil", f"-oProxyCommand=touch${{IFS}}{canary}"}
    assert found["gpu1"] == {"pool_pool": "train", "pool_region": "inner", "ansible_user": "ubuntu"}
    assert found["gpu2"]["pool_region"] == "own"
    assert found["gpu2"]["pool_labels"] == {"rack": "b2"}
    assert found["gpu9"] == {"ansible_host": "10.0.0.9"}
    assert found["evil"]["ansible_user"] == f"{{{{ lookup('pipe', 'touch {canary}') }}}}"
    assert not canary.exists()


def test_yaml_and_a_limit(tmp_path: Path) -> None:
    """Only the hosts of the pattern; a pattern without any is an error."""
    path = tmp_path / "a b.yml"
    path.write_text("all: {children: {gpu: {hosts: {gpu1: {ansible_port: 22}, gpu2: {}}}, other: {hosts: {x: {}}}}}\n")
    assert read_inventory(str(path), "gpu:!gpu2") == {"gpu1": {"ansible_port": 22}}
    with pytest.raises(InputError, match="no host in it that matches '-x'") as caught:
        read_inventory(str(path), "-x")
    assert caught.value.hint == f"ansible-inventory -i '{path}' --graph"


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("script", "#!/bin/sh\ntouch CANARY\necho '{}'\n", "not an INI or YAML inventory"),
        ("pool.yml", "plugin: ansible.builtin.constructed\n", "Plugin configuration YAML file"),
        ("x.yml", "- a\n", "not an INI or YAML inventory"),
    ],
)
def test_what_is_no_inventory(tmp_path: Path, canary: Path, name: str, text: str, said: str) -> None:
    """A script is not run, a plug-in not loaded: one line and what to type."""
    path = tmp_path / name
    path.write_text(text.replace("CANARY", str(canary)))
    path.chmod(0o755)
    with pytest.raises(InputError, match=said) as caught:
        read_inventory(str(path))
    assert caught.value.message.startswith(f"{path}: ")
    assert "\n" not in caught.value.message
    assert not canary.exists()


def test_an_inventory_that_is_not_there() -> None:
    """Is said so."""
    with pytest.raises(InputError, match="there is no inventory /no/such"):
        read_inventory("/no/such")


@pytest.mark.parametrize("line", ["password = 's3cret word", "gpu1 's3cret", "[gpu:vars]\ns3cret"])
def test_an_error_quotes_nothing_of_the_file(tmp_path: Path, line: str) -> None:
    """A line that cannot be read may hold a password."""
    (tmp_path / "hosts.ini").write_text(line + "\n")
    with pytest.raises(InputError) as caught:
        read_inventory(str(tmp_path / "hosts.ini"), None)
    assert "s3cret" not in caught.value.message


def test_a_vault_is_said(tmp_path: Path) -> None:
    """Encrypted variables are not opened, and that is the reason that is told."""
    (tmp_path / "group_vars").mkdir()
    (tmp_path / "group_vars" / "all.yml").write_text("$ANSIBLE_VAULT;1.1;AES256\n6162\n")
    (tmp_path / "hosts.ini").write_text("gpu1\n")
    with pytest.raises(InputError) as caught:
        read_inventory(str(tmp_path / "hosts.ini"), None)
    assert "encrypted" in caught.value.message
