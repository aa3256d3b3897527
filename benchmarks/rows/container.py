"""A container on a host whose link is warm and that has the image, the whole command, against `ssh host docker run`."""

from __future__ import annotations

import os
from collections.abc import Iterator

from benchmarks.command import run, timed_run
from benchmarks.row import Row, SkipError, Target
from benchmarks.world import Worlds

_IMAGE = "shell:1"
#: An image of one shell, without a registry.
_MAKE = f"""
mkdir /run/shell && cd /run/shell
for file in /bin/sh $(ldd /bin/sh | grep -o '/[^ ]*'); do cp -L --parents "$file" .; done
tar -c . | docker import - {_IMAGE}
"""


def rows(worlds: Worlds) -> Iterator[Row]:
    if os.geteuid() != 0:
        raise SkipError("it needs root, for a machine with Docker")
    world = worlds.of(1, system=True)
    run(world.ssh("sudo", "sh", "-ec", f"'{_MAKE.replace(chr(39), chr(34))}'"))
    docker = ["sudo", "docker", "run", "--rm"]
    program = [_IMAGE, "/bin/sh", "-c", "'echo hi'"]
    peers = {
        "cold `ssh host docker run`": timed_run(world.ssh(*docker, *program)),
        "warm ControlMaster": timed_run(world.warm_ssh(*docker, *program)),
    }
    ours = timed_run(world.argv(*world.task("contained", "echo hi", image=_IMAGE)), env=world.env)
    yield Row("`pool run` of `echo hi` in a container, one warm host", ours, peers, Target(1.3), runs=15, warm_up=2)
