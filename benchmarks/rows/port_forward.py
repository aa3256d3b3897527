"""A job's port at 127.0.0.1 of this machine, while `pool attach` runs, against `ssh -L` to the very same one."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator

from benchmarks.row import Measure, Row, Target
from benchmarks.world import World, Worlds

_BYTES = 200_000_000
_REQUESTS = 200
_PATIENCE_S = 30.0
#: Sends as many bytes as it is asked for, line by line.
_SERVER = """
import socket, sys, threading
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
block = bytes(range(256)) * 1024
def serve(link):
    link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for line in link.makefile("rb"):
        left = int(line)
        while left:
            piece = block[:left]
            link.sendall(piece)
            left -= len(piece)
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
"""


def rows(worlds: Worlds) -> Iterator[Row]:
    world = worlds.of(2)
    name, number, port = _serve(world)
    ours, theirs = _free(), _free()
    ssh = ("-N", "-L", f"127.0.0.1:{theirs}:127.0.0.1:{port}", "-o", "ExitOnForwardFailure=yes")
    gcm, gcm_port = ("-o", "Ciphers=aes128-gcm@openssh.com"), _free()
    ssh_gcm = ("-N", "-L", f"127.0.0.1:{gcm_port}:127.0.0.1:{port}", *gcm)
    _allow(world, number)
    carriers = [
        _start(world.argv("attach", name, "-p", f"{ours}:{port}"), world.env),
        _start(_with(world.ssh(number=number), ssh), None),
        _start(_with(world.ssh(number=number), ssh_gcm), None),
    ]
    try:
        yield Row(
            "200 MB through a forwarded port",
            _rate(ours),
            {"`ssh -L`": _rate(theirs), "with aes128-gcm": _rate(gcm_port)},
            Target(0.7, least=True),
            "MB/s",
            runs=5,
        )
        yield Row(
            "a request of 1 kB on an open connection through it",
            _latency(ours),
            {"`ssh -L`": _latency(theirs)},
            runs=5,
        )
        yield Row("a new connection and such a request", _dialled(ours), {"`ssh -L`": _dialled(theirs)}, runs=25)
    finally:
        for carrier in carriers:
            carrier.terminate()
            carrier.wait()
        world.pool("stop", name, "--abort", "-y")


def _serve(world: World) -> tuple[str, int, int]:
    """The run of the server, the number of its host, and its port."""
    words = world.task("ports", "exec python3 serve.py")
    with open(os.path.join(words[1], "serve.py"), "w", encoding="ascii") as file:
        file.write(_SERVER)
    name = world.pool(*words, "-d").strip()
    deadline = time.monotonic() + _PATIENCE_S
    while not (said := world.pool("logs", name)):
        if time.monotonic() > deadline:
            raise RuntimeError(f"{name}: {world.run_named(name)}")
        time.sleep(0.1)
    host = world.run_named(name)["jobs"][0]["host"]
    return name, [each["name"] for each in world.hosts].index(host), int(said)


def _allow(world: World, number: int) -> None:
    """Have the host's sshd forward ports, as ssh -L wants it."""
    host = world.hosts[number]
    path = os.path.join(os.path.dirname(host["home"]), "sshd_config")
    with open(path, encoding="utf-8") as file:
        text = file.read()
    with open(path, "w", encoding="utf-8") as file:
        file.write(text.replace("AllowTcpForwarding no", "AllowTcpForwarding yes"))
    os.kill(host["pid"], signal.SIGHUP)
    time.sleep(0.5)


def _with(ssh: list[str], options: tuple[str, ...]) -> list[str]:
    return [ssh[0], *options, *ssh[1:]]


def _start(argv: list[str], env: dict[str, str] | None) -> subprocess.Popen[bytes]:
    null = subprocess.DEVNULL
    return subprocess.Popen(argv, env=env, stdin=null, stdout=null, stderr=null)


def _free() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def _connect(port: int) -> socket.socket:
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        try:
            link = socket.create_connection(("127.0.0.1", port), timeout=_PATIENCE_S)
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
            continue
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return link


def _ask(link: socket.socket, number: int) -> None:
    link.sendall(b"%d\n" % number)
    room = bytearray(1 << 18)
    while number:
        got = link.recv_into(room)
        if not got:
            raise RuntimeError("the connection ended too early")
        number -= got


def _rate(port: int) -> Measure:
    def once() -> float:
        with _connect(port) as link:
            began = time.perf_counter()
            _ask(link, _BYTES)
            return _BYTES / 1e6 / (time.perf_counter() - began)

    return once


def _latency(port: int) -> Measure:
    """Milliseconds of one request, of many after each other."""

    def once() -> float:
        with _connect(port) as link:
            _ask(link, 1000)
            began = time.perf_counter()
            for _ in range(_REQUESTS):
                _ask(link, 1000)
            return (time.perf_counter() - began) * 1000 / _REQUESTS

    return once


def _dialled(port: int) -> Measure:
    def once() -> float:
        began = time.perf_counter()
        with _connect(port) as link:
            _ask(link, 1000)
        return (time.perf_counter() - began) * 1000

    return once
