"""A folder of 5,000 files, 200 MB: `pool run` of `true` in it against rsync of what did not change, and tar over ssh.

Between two measurements the disks are synced and everybody rests: hosts make a folder ahead then, which rsync and tar
must not pay for. Nothing is deleted before the end: ext4 steps over inodes that were deleted within half a minute one
by one, and makes files forty times slower meanwhile. Where a host has deleted a folder made ahead, that time passes.
"""

from __future__ import annotations

import glob
import os
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count

from benchmarks.row import Measure, Row, SkipError, Target
from benchmarks.world import World, Worlds

_FILES, _BYTES = 5000, 200_000_000
_QUICK = ("KexAlgorithms=curve25519-sha256", "Ciphers=aes128-gcm@openssh.com")
_REST_S, _DELETED_S = 20.0, 36.0


def rows(worlds: Worlds) -> Iterator[Row]:
    _have_rsync()
    for number in (1, 8):
        world = worlds.of(number)
        hosts = "1 host" if number == 1 else f"{number} hosts"
        ours, folder = _unchanged(world)
        peers = {"`rsync -a`": _rsync(world, folder, ()), "with aes128-gcm": _rsync(world, folder, _QUICK)}
        yield Row(f"unchanged folder of 5,000 files, 200 MB, {hosts}", ours, peers, Target(1), runs=5)
        tar = {"`tar` over ssh, aes128-gcm": _tar(world)}
        yield Row(f"first upload of it, {hosts}", _first(world), tar, Target(1.3 if number == 1 else 0.7), runs=3)


def _unchanged(world: World) -> tuple[Measure, str]:
    words = world.task("unchanged", "true", nodes=len(world.hosts))
    _fill(words[1])
    return _after_rest(world, lambda: _run(world.argv(*words), world.env)), words[1]


def _first(world: World) -> Measure:
    """Each time with contents that nobody has seen."""
    words: list[str] = []
    numbers = count()

    def new_folder() -> None:
        words[:] = world.task(f"first{next(numbers)}", "true", nodes=len(world.hosts))
        _fill(words[1])

    return _after_rest(world, lambda: _run(world.argv(*words), world.env), new_folder, deletes=True)


def _rsync(world: World, folder: str, options: tuple[str, ...]) -> Measure:
    def argv(number: int) -> list[str]:
        ssh = world.ssh(number=number, options=options)
        return ["rsync", "-a", "-e", shlex.join(ssh[:-5] + ssh[-4:]), folder + "/", f"{ssh[-5]}:rsynced/"]

    return _after_rest(world, lambda: _on_all(world, lambda number: _run(argv(number))))


def _tar(world: World) -> Measure:
    folder = os.path.join(world.folder, "tar")
    numbers = count()
    to: list[str] = [""]

    def again() -> None:
        if not os.path.exists(folder):
            os.mkdir(folder)
            _fill(folder)
        to[0] = f"untarred{next(numbers)}"

    def send(number: int) -> None:
        ssh = world.ssh(f"mkdir {to[0]} && tar -C {to[0]} -xf -", number=number, options=_QUICK)
        with subprocess.Popen(["tar", "-C", folder, "-cf", "-", "."], stdout=subprocess.PIPE) as tar:
            subprocess.run(ssh, stdin=tar.stdout, check=True)

    return _after_rest(world, lambda: _on_all(world, send), again)


def _after_rest(
    world: World, work: Callable[[], object], prepare: Callable[[], None] = lambda: None, *, deletes: bool = False
) -> Measure:
    """Milliseconds of `work`, once everybody rests."""

    def once() -> float:
        prepare()
        os.sync()
        before = _state(world)
        began = time.perf_counter()
        work()
        took = time.perf_counter() - began
        _rest(world, before, deletes)
        return took * 1000

    return once


def _rest(world: World, before: tuple[int, set[str]], deletes: bool) -> None:
    """Until each host where a folder was used has made another one ahead, and what it deleted for it is forgotten."""
    jobs, spares = before
    if _state(world)[0] == jobs:
        return
    deadline = time.monotonic() + _REST_S
    while len((now := _state(world)[1]) - spares) < len(world.hosts) and time.monotonic() < deadline:
        time.sleep(0.1)
    if deletes and spares - now:
        time.sleep(_DELETED_S)


def _state(world: World) -> tuple[int, set[str]]:
    """How many jobs there were, and the folders that are made ahead."""
    return len(_of_hosts(world, "jobs/*")), set(_of_hosts(world, "jobs/.trees/spare-*"))


def _of_hosts(world: World, pattern: str) -> list[str]:
    """Paths below the runners' folders."""
    state = ".local/state/pool-runner"
    return [path for host in world.hosts for path in glob.glob(os.path.join(host["home"], state, pattern))]


def _on_all(world: World, act: Callable[[int], object]) -> None:
    with ThreadPoolExecutor(len(world.hosts)) as threads:
        list(threads.map(act, range(len(world.hosts))))


def _run(argv: list[str], env: dict[str, str] | None = None) -> None:
    done = subprocess.run(argv, env=env, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{argv} ended with {done.returncode}: {done.stderr.decode(errors='replace')[-2000:]}")


def _fill(folder: str) -> None:
    """New random contents, in 50 folders, of a few hundred bytes to twice the mean."""
    size = _BYTES // _FILES
    for number in range(_FILES):
        here = os.path.join(folder, f"part{number % 50:02}")
        os.makedirs(here, exist_ok=True)
        with open(os.path.join(here, f"file{number:04}.bin"), "wb") as file:
            file.write(os.urandom(size // 100 + (2 * size - size // 50) * (number // 50) // (_FILES // 50 - 1)))


def _have_rsync() -> None:
    """Install rsync where it is missing and that can be done."""
    if shutil.which("rsync"):
        return
    apt = ["apt-get", "-q", "-o", "DPkg::Lock::Timeout=300"]
    if os.geteuid() or not shutil.which("apt-get"):
        raise SkipError("rsync is missing: apt-get install rsync")
    for command in ([*apt, "update"], [*apt, "install", "-y", "--no-install-recommends", "rsync"]):
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=600, check=False)
    if done.returncode or not shutil.which("rsync"):
        raise SkipError("rsync cannot be installed: apt-get install rsync")
