"""How a server comes to a job's ports; see service.py."""

from __future__ import annotations

import socket
from typing import Any, Callable

from pool.runner.carry import carry
from pool.runner.jobs import JobFolder
from pool.runner.ledger import RefusedError
from pool.runner.peer import Owners, Peer
from pool.runner.ports import Ports
from pool.runner.streams import Stream


class PortVerbs:
    """One method a verb."""

    def __init__(self, owners: Owners) -> None:
        self._owners = owners
        self._ports = Ports()

    def verb_port(self, peer: Peer, head: dict[str, Any], _: bytes) -> dict[str, Any]:
        """Whether the job listens on a TCP port, and if not, whether another program of the host does.

        Waits up to `wait_s` for the job.
        """
        folder, port = self._asked(peer, head)
        listens, taken = self._ports.wait(folder, port, min(float(head.get("wait_s", 0)), 30.0))
        return {"listens": listens, "taken": taken}

    def open_port(self, peer: Peer, head: dict[str, Any]) -> tuple[dict[str, Any], Callable[[Stream], None]]:
        """A connection to a TCP port of the job. Refused with `not_listening`, or `refused` by the job itself."""
        folder, port = self._asked(peer, head)
        try:
            link = self._ports.connect(folder, port)
        except OSError as error:
            raise RefusedError("refused", "port {} of job {}: {}".format(port, folder.job, error)) from error
        if link is None:
            raise RefusedError("not_listening", "job {} does not listen on port {}".format(folder.job, port))
        made: socket.socket = link
        return {}, lambda stream: carry(stream, made)

    def _asked(self, peer: Peer, head: dict[str, Any]) -> tuple[JobFolder, int]:
        port = int(head["port"])
        if not 1 <= port <= 65535:
            raise RefusedError("bad_request", "not a port: {}".format(port))
        return self._owners.own(peer, head["job"]), port
