"""200 MB of text lines from a host to /dev/null: `pool logs` against `ssh host cat` of the very same file."""

from __future__ import annotations

import glob
import os
import subprocess
import time
from collections.abc import Iterator

from benchmarks.row import Measure, Row, Target
from benchmarks.world import Worlds

_BYTES = 200_000_000


def rows(worlds: Worlds) -> Iterator[Row]:
    world = worlds.of(2)
    line = "step 001234 of 100000  loss 2.3456  lr 0.000300  tokens/s 123456  eta 12:34:56"
    task = world.task("log", f"yes '{line}' | head -c {_BYTES}")
    name = world.pool(*task, "-d").strip()
    found = world.wait(name)
    number = [host["name"] for host in world.hosts].index(found["jobs"][0]["host"])
    pattern = os.path.join(world.hosts[number]["home"], "**", "jobs", found["jobs"][0]["id"], "log")
    path = glob.glob(pattern, recursive=True, include_hidden=True)[0]
    peers = {
        "`ssh host cat`": _rate(world.ssh("cat", path, number=number), {}),
        "with aes128-gcm": _rate(
            world.ssh("cat", path, number=number, options=("Ciphers=aes128-gcm@openssh.com",)), {}
        ),
    }
    ours = _rate(world.argv("logs", name), world.env)
    yield Row("log of 200 MB, `pool logs > /dev/null`", ours, peers, Target(0.8, least=True), "MB/s", runs=5)


def _rate(argv: list[str], env: dict[str, str]) -> Measure:
    null = subprocess.DEVNULL

    def once() -> float:
        began = time.perf_counter()
        subprocess.run(argv, env=env or None, stdin=null, stdout=null, stderr=null, check=True)
        return _BYTES / 1e6 / (time.perf_counter() - began)

    return once
