"""The TCP ports that a job listens on: found in the kernel's own lists, and reached within the job's network.

A port is a job's when a process of the job holds the socket that listens there, or when the network is the job's own,
as a container's. So nobody comes to another job's port, nor to a service of the host, by its number.
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct
import threading
import time
from typing import Any, Iterator, NamedTuple

from pool.runner import processes
from pool.runner.jobs import JobFolder

_CLONE_NEWNET = 0x40000000
_LISTENS = "0A"
_CONNECT_S = 10.0
#: Between looks: at first, and where it takes long. A look takes milliseconds of the host's time.
_LOOK_EVERY_S = (0.1, 1.0)


class _Socket(NamedTuple):
    """One that listens."""

    address: str
    inode: str


class _Place(NamedTuple):
    """Where a job's port is: in `network`, that of `process` (of `processes.identity`), at one of the addresses.

    `held` are the links in /proc by which processes have the sockets that listen: while they have, they listen. To ask
    the kernel who listens takes it 5 ms on a large machine.
    """

    process: dict[str, Any]
    network: str
    addresses: list[str]
    held: dict[str, str]

    @property
    def stands(self) -> bool:
        return bool(self.held) and processes.alive(self.process) and all(map(_leads, self.held, self.held.values()))


class Ports:
    """The ports of all jobs on this host."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, int], _Place] = {}

    def wait(self, folder: JobFolder, port: int, wait_s: float) -> tuple[bool, bool]:
        """`(listens, taken)`: whether the job listens on `port`, and if not, whether something else of the host does.

        Waits up to `wait_s` for the job; not when it has ended or its port is taken.
        """
        deadline = time.monotonic() + wait_s
        pause = _LOOK_EVERY_S[0]
        taken = False
        while self._place(folder, port) is None:
            seen, taken = taken, self._is_taken(folder, port)  # seen twice: the job itself may just have begun
            if time.monotonic() >= deadline or folder.exit is not None or (seen and taken):
                return False, taken
            time.sleep(pause)
            pause = min(pause * 1.3, _LOOK_EVERY_S[1])
        return True, False

    def connect(self, folder: JobFolder, port: int) -> socket.socket | None:
        """A connection to the job's port; None when the job does not listen there. OSError when it is refused."""
        place = self._place(folder, port)
        if place is None:
            return None
        return _connected(place, port)

    def _is_taken(self, folder: JobFolder, port: int) -> bool:
        """True when something listens on `port` of this host's own network and the job is in that network alone."""
        if not _listening(os.getpid(), port):
            return False
        networks = {_network(pid) for pid in _processes_of(folder)} - {""}
        return networks == {_network(os.getpid())}  # a container that has yet to start is in none

    def _place(self, folder: JobFolder, port: int) -> _Place | None:
        known = self._known.get((folder.job, port))
        if known and known.stands:
            return known
        self._known.pop((folder.job, port), None)
        found = _find(folder, port)
        if found:
            self._known[folder.job, port] = found
        return found


def _find(folder: JobFolder, port: int) -> _Place | None:
    """Among all processes of the job."""
    if folder.started is None or folder.exit is not None:
        return None
    pids = _processes_of(folder)
    ours = _network(os.getpid())
    networks = {_network(pid): pid for pid in pids}
    for network, pid in networks.items():
        sockets = _listening(pid, port)
        inodes = {each.inode for each in sockets}
        held = {path: inode for each in pids if inodes for path, inode in _held(each).items() if inode in inodes}
        others = [each for each in sockets if each.inode not in held.values()] if network == ours else []
        addresses = _ways([each.address for each in sockets if each not in others], [each.address for each in others])
        if addresses:
            return _Place(processes.identity(pid), network, addresses, held)
    return None


def program_at(port: int) -> str | None:
    """Which program of this machine listens on `port`, as `name (pid 1)`; None where that cannot be told."""
    wanted = {each.inode for each in _listening(os.getpid(), port)}
    for pid in [int(name) for name in os.listdir("/proc") if name.isdigit()] if wanted else ():
        if wanted & set(_held(pid).values()):
            try:
                with open("/proc/{}/comm".format(pid), encoding="utf-8", errors="replace") as file:
                    return "{} (pid {})".format(file.read().strip(), pid)
            except OSError:
                continue
    return None


def is_held(link: socket.socket) -> bool:
    """Whether a program of this machine still has the other end of `link`, a TCP connection within it.

    A program that has closed it for good looks from here like one that only has no more to say.
    """
    theirs, ours = link.getpeername(), link.getsockname()
    for row in _rows("self", theirs[1]):
        if (_address(row[1]), _address(row[2])) == (theirs, ours):
            return row[9] != "0"  # which the kernel says of what is closed and lingers
    return False


def _processes_of(folder: JobFolder) -> list[int]:
    started = folder.started or {}
    return processes.of_job(folder.job, started.get("session"), started.get("supervisor"))


def _network(pid: int) -> str:
    try:
        return os.readlink("/proc/{}/ns/net".format(pid))
    except OSError:
        return ""


def _listening(pid: int, port: int) -> list[_Socket]:
    """The sockets that listen on `port` in the network of `pid`."""
    return [_Socket(_address(row[1])[0], row[9]) for row in _rows(pid, port) if row[3] == _LISTENS]


def _rows(pid: int | str, port: int) -> Iterator[list[str]]:
    """What the kernel says of each TCP socket at `port` in the network of `pid`, word by word."""
    wanted = ":{:04X} ".format(port)
    for name in ("tcp", "tcp6"):
        try:
            with open("/proc/{}/net/{}".format(pid, name)) as file:
                rows = [line.split() for line in file if wanted in line]  # there may be thousands
        except OSError:
            continue
        for row in rows:
            if row[1].endswith(wanted[:-1]):
                yield row


def _address(hexadecimal: str) -> tuple[str, int]:
    address, _, port = hexadecimal.rpartition(":")
    return _readable(address), int(port, 16)


def _readable(hexadecimal: str) -> str:
    """The kernel writes an address as words of 32 bits, each as this machine has it in memory."""
    words = [int(hexadecimal[at : at + 8], 16) for at in range(0, len(hexadecimal), 8)]
    raw = struct.pack("={}I".format(len(words)), *words)
    return socket.inet_ntop(socket.AF_INET if len(words) == 1 else socket.AF_INET6, raw)


def _ways(theirs: list[str], others: list[str]) -> list[str]:
    """Where to connect to what of the job listens at `theirs`, and never come to what listens at `others`.

    What takes every IPv6 address mostly takes IPv4 as well, and may be all there is where the host has no ::1.
    """
    found = []
    for address in map(_plain, theirs):
        found.append({"::": "::1", "0.0.0.0": "127.0.0.1"}.get(address, address))
    if "::" in theirs and not any("." in _plain(other) for other in others):
        found.append("127.0.0.1")
    return found


def _plain(address: str) -> str:
    """An IPv4 address that a socket for IPv6 has, as itself."""
    return address[len("::ffff:") :] if address.startswith("::ffff:") else address


def _held(pid: int) -> dict[str, str]:
    """The sockets that a process holds: inodes by their links in /proc."""
    folder, found = "/proc/{}/fd".format(pid), {}
    try:
        for name in os.listdir(folder):
            path = os.path.join(folder, name)
            target = os.readlink(path)
            if target.startswith("socket:["):
                found[path] = target[len("socket:[") : -1]
    except OSError:
        pass
    return found


def _leads(path: str, inode: str) -> bool:
    try:
        return os.readlink(path) == "socket:[{}]".format(inode)
    except OSError:
        return False


def _connected(place: _Place, port: int) -> socket.socket:
    """A connection from within the network of `place`; a socket stays in the network that it was made in."""
    if place.network == _network(os.getpid()):
        return _connect(place.addresses, port)
    made: list[socket.socket] = []
    failed: list[OSError] = []

    def enter() -> None:
        try:
            network = os.open("/proc/{}/ns/net".format(place.process["pid"]), os.O_RDONLY | os.O_CLOEXEC)
            try:
                if os.readlink("/proc/self/fd/{}".format(network)) != place.network:  # the number is another's now
                    raise ConnectionRefusedError("it has ended")
                libc = ctypes.CDLL(None, use_errno=True)
                if libc.setns(network, _CLONE_NEWNET) != 0:
                    number = ctypes.get_errno()
                    raise OSError(number, os.strerror(number))
            finally:
                os.close(network)
            made.append(_connect(place.addresses, port))
        except OSError as error:
            failed.append(error)

    visitor = threading.Thread(target=enter)  # a thread of its own, which ends there: only it changes its network
    visitor.start()
    visitor.join()
    if failed:
        raise failed[0]
    return made[0]


def _connect(addresses: list[str], port: int) -> socket.socket:
    refused: OSError = ConnectionRefusedError("nothing listens there")
    for address in addresses:
        try:
            link = socket.create_connection((address, port), timeout=_CONNECT_S)
        except OSError as error:
            refused = error
            continue
        link.settimeout(None)
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return link
    raise refused
