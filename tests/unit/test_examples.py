"""The scripts in examples/, run as a run would run them, without the product."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest

from tests.conftest import REPOSITORY

RING = [sys.executable, str(REPOSITORY / "examples" / "ring.py")]
TRAIN = [sys.executable, str(REPOSITORY / "examples" / "train.py")]


@pytest.mark.parametrize("ips", [["127.0.0.1"], ["127.0.0.1", "127.0.0.2"], ["127.0.0.1", "127.0.0.1", "127.0.0.3"]])
def test_ring_sums_over_any_number_of_nodes(ips: list[str]) -> None:
    """Every rank ends with 0 and says that each sum was right, also when two ranks share an address."""
    with socket.create_server((ips[0], 0)) as held:
        port = held.getsockname()[1]
    shared = os.environ | {
        "DSTACK_NODES_NUM": str(len(ips)),
        "DSTACK_NODES_IPS": "\n".join(ips),
        "DSTACK_MASTER_NODE_IP": ips[0],
        "MASTER_PORT": str(port),
    }
    ranks = [
        subprocess.Popen(
            [*RING, "--steps", "2", "--size", "1001"],
            env=shared | {"DSTACK_NODE_RANK": str(rank)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in reversed(range(len(ips)))
    ]
    for process in ranks:
        output, _ = process.communicate(timeout=60)
        assert process.returncode == 0, output
        assert output.count("correct") == 3


@pytest.mark.parametrize(("arguments", "code"), [(["--epochs", "3"], 0), (["--lr", "10"], 1), (["--steps", "3"], 2)])
def test_training_ends_with_a_code_that_means_something(arguments: list[str], code: int) -> None:
    """0 when it learnt, 1 when the loss grew, 2 when it was told something unknown."""
    done = subprocess.run([*TRAIN, *arguments], capture_output=True, timeout=60, check=False)
    assert done.returncode == code
