"""The lab without its hosts: the stand-in for nvidia-smi, the cards, and the end of processes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pool.errors import InputError
from pool.lab import gpus, nvidia_smi, processes


@pytest.fixture
def host(tmp_path: Path) -> str:
    """A host's folder with two cards."""
    gpus.write(str(tmp_path), 2, "A100")
    return str(tmp_path)


def _smi(host: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [f"{host}/bin/nvidia-smi", *arguments], capture_output=True, text=True, timeout=30, check=False
    )


def test_query_with_heading_and_units(host: str) -> None:
    """The text of a card, as nvidia-smi prints it where neither noheader nor nounits is asked for."""
    done = _smi(host, "--query-gpu=index,name,memory.total,compute_cap,utilization.gpu", "--format=csv")
    assert done.stdout.splitlines() == [
        "index, name, memory.total [MiB], compute_cap, utilization.gpu [%]",
        "0, NVIDIA A100-SXM4-80GB, 81920 MiB, 8.0, 0 %",
        "1, NVIDIA A100-SXM4-80GB, 81920 MiB, 8.0, 0 %",
    ]


def test_one_card_by_index_or_uuid(host: str) -> None:
    """`-i` takes either; a card that is not there is no card."""
    uuid = gpus.read(host)["gpus"][1]["uuid"]
    query = ("--query-gpu=uuid", "--format=csv,noheader")
    assert _smi(host, "-i", "1", *query).stdout == _smi(host, f"--id={uuid}", *query).stdout == uuid + "\n"
    assert _smi(host, "-i", "7", *query).returncode == 6


def test_a_field_that_is_none(host: str) -> None:
    """A typo in a query ends with 2, as with the real one."""
    done = _smi(host, "--query-gpu=index,memroy.total", "--format=csv")
    assert (done.returncode, done.stdout) == (2, 'Field "memroy.total" is not a valid field to query.\n\n')


@pytest.mark.parametrize(("fault", "code"), [("driver", 9), ("none", 6)])
def test_faults(host: str, fault: str, code: int) -> None:
    """A sick card shows on every call."""
    gpus.write(host, 2, "A100", fault=fault)
    assert _smi(host, "-L").returncode == code


def test_cards_keep_their_identity(host: str) -> None:
    """Fewer, more or other cards: those that stay in their place keep their UUID."""
    before = [card["uuid"] for card in gpus.read(host)["gpus"]]
    gpus.write(host, 1, "H100")
    gpus.write(host, 3, "H100")
    after = [card["uuid"] for card in gpus.read(host)["gpus"]]
    assert after[0] == before[0]
    assert len(set(after) | set(before)) == 4


@pytest.mark.parametrize(("count", "model"), [(2, "H900"), (-1, "H100"), (17, "H100")])
def test_cards_that_are_refused(tmp_path: Path, count: int, model: str) -> None:
    """Nothing is written for a model or number that there is not."""
    with pytest.raises(InputError):
        gpus.write(str(tmp_path), count, model)
    assert list(tmp_path.iterdir()) == []


def test_the_stand_in_needs_no_pool(host: str) -> None:
    """It runs on the host with the standard library alone."""
    source = Path(host, "nvidia_smi.py").read_text(encoding="utf-8")
    assert source == Path(nvidia_smi.__file__).read_text(encoding="utf-8")
    json.loads(Path(host, "gpus.json").read_text(encoding="utf-8"))


def test_a_process_with_another_start_time_is_another() -> None:
    """A pid that was given to someone else since is left alone."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    since = processes.started(process.pid)
    assert since is not None
    assert processes.end([(process.pid, since - 1)]) == []
    assert process.poll() is None
    assert processes.end([(process.pid, since)]) == []
    assert process.wait(timeout=30) != 0
    assert processes.started(process.pid) is None


def test_belonging_never_names_this_process_or_its_parents() -> None:
    """`pool lab down` typed inside a session of the lab does not end itself."""
    code = "import sys; from pool.lab import processes; print(processes.belonging(sys.argv[1]))"
    shell = ["sh", "-c", f"'{sys.executable}' -c '{code}' /nowhere/lab; true"]
    env = {"POOL_LAB": "/nowhere/lab", "PYTHONPATH": ":".join(sys.path)}
    assert subprocess.run(shell, env=env, capture_output=True, text=True, check=True, timeout=30).stdout == "{}\n"
