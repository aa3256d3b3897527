"""The Docker engine of this host, over its Unix socket. What is asked for stands in no argv and no file.

Its HTTP interface is the one that the `docker` program itself speaks: causes have numbers, output arrives as the very
bytes, and an environment or a password is never part of a command line.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import subprocess
from typing import Any, Iterator
from urllib.parse import urlencode

#: What this module was written for. A newer engine still speaks it; an older one is spoken to in its own.
_NEWEST = (1, 47)
_SOCKET = "/var/run/docker.sock"


class EngineError(Exception):
    """The engine refuses; `code` is HTTP's, the message its own."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.code = status


class EngineGoneError(Exception):
    """No engine answers, or not in time: what was asked may have been done, or be done yet."""


def was_restarted(since: float) -> bool:
    """True when systemd has ended or started the engine of this host after `since`, by the monotonic clock.

    A reload is neither. False where systemd has no such unit: nobody can tell.
    """
    names = "ActiveState,ActiveEnterTimestampMonotonic,StateChangeTimestampMonotonic"
    argv = ["systemctl", "show", "--property=" + names, "docker.service"]
    try:
        done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=5, check=False)
    except FileNotFoundError:
        return False
    except subprocess.TimeoutExpired:
        return True
    told = dict(line.split("=", 1) for line in done.stdout.decode().splitlines() if "=" in line)
    is_up = told.get("ActiveState") in ("active", "reloading")
    last = told.get("ActiveEnterTimestampMonotonic" if is_up else "StateChangeTimestampMonotonic")
    return int(last or 0) / 1e6 > since


class Engine:
    """The engine behind one socket. Safe to use from several threads: each request has its own connection."""

    def __init__(self, path: str = "") -> None:
        """`path`: the socket; else what DOCKER_HOST says, else Docker's own."""
        host = os.environ.get("DOCKER_HOST", "")
        self._path = path or (host[len("unix://") :] if host.startswith("unix://") else _SOCKET)
        self._prefix = ""

    def version(self, timeout_s: float = 5.0) -> str:
        """The engine's version; EngineGoneError without one."""
        return str(self._ask("GET", "/version", None, {}, timeout_s)["Version"])

    def ask(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | None = None,
        headers: dict[str, str] | None = None,
        timeout_s: float = 30.0,
        **query: Any,
    ) -> Any:
        """One request; the answer's JSON, or None where there is none. EngineError, EngineGoneError."""
        return self._ask(method, self._url(path, query), body, headers or {}, timeout_s)

    def follow(
        self, method: str, path: str, headers: dict[str, str], timeout_s: float, **query: Any
    ) -> Iterator[dict[str, Any]]:
        """One request that is answered bit by bit; `timeout_s` is for each silence in between."""
        connection = _Connection(self._path, timeout_s)
        try:
            connection.request(method, self._url(path, query), headers=headers)
            answer = connection.getresponse()
            if answer.status >= 300:
                raise _error(answer.status, answer.read())
            for line in answer:
                if line.strip():
                    yield json.loads(line)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise EngineGoneError("Docker does not answer: {}".format(error)) from error
        finally:
            connection.close()

    def open(
        self, method: str, path: str, body: dict[str, Any] | None = None, timeout_s: float = 30.0, **query: Any
    ) -> socket.socket:
        """A request whose answer is a stream: the socket, at the first byte after the headers.

        What is attached or started so is a stream both ways.
        """
        link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            link.settimeout(timeout_s)
            link.connect(self._path)
            data = json.dumps(body).encode() if body is not None else b""
            words = [method + " " + self._url(path, query) + " HTTP/1.1", "Host: docker"]
            words += ["Content-Type: application/json", "Content-Length: {}".format(len(data))]
            upgrades = path.endswith(("/attach", "/start"))
            words += ["Connection: Upgrade", "Upgrade: tcp"] if upgrades else ["Connection: close"]
            link.sendall("\r\n".join([*words, "", ""]).encode() + data)
            head = b""
            while not head.endswith(b"\r\n\r\n"):  # one by one: what follows is not ours to take
                byte = link.recv(1)
                if not byte or len(head) > 1 << 16:
                    raise EngineGoneError("Docker hung up")
                head += byte
            status = int(head.split(b" ", 2)[1])
            if status not in (101, 200):
                raise _error(status, link.recv(1 << 16))
            link.settimeout(None)
        except OSError as error:
            link.close()
            raise EngineGoneError("Docker does not answer: {}".format(error)) from error
        except BaseException:
            link.close()
            raise
        return link

    def _url(self, path: str, query: dict[str, Any]) -> str:
        if not self._prefix:
            told = self._ask("GET", "/version", None, {}, 10.0)
            newest, oldest = _numbers(told["ApiVersion"]), _numbers(told.get("MinAPIVersion", "1.12"))
            self._prefix = "/v{}.{}".format(*max(oldest, min(newest, _NEWEST)))
        return self._prefix + path + ("?" + urlencode(query) if query else "")

    def _ask(
        self, method: str, url: str, body: dict[str, Any] | None, headers: dict[str, str], timeout_s: float
    ) -> Any:
        connection = _Connection(self._path, timeout_s)
        try:
            data = None if body is None else json.dumps(body)
            connection.request(method, url, data, {"Content-Type": "application/json", **headers})
            answer = connection.getresponse()
            said = answer.read()
            if answer.status >= 300 and answer.status != 304:  # 304: it is so already
                raise _error(answer.status, said)
            return json.loads(said) if said.strip() else None
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise EngineGoneError("Docker does not answer: {}".format(error)) from error
        finally:
            connection.close()


class _Connection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str, timeout_s: float) -> None:
        super().__init__("docker", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def _error(status: int, said: bytes) -> EngineError:
    text = said.decode(errors="replace")
    start, end = text.find("{"), text.rfind("}")
    with contextlib.suppress(ValueError, KeyError):
        text = str(json.loads(text[start : end + 1])["message"])
    return EngineError(status, text.strip()[:500] or "status {}".format(status))


def _numbers(version: str) -> tuple[int, int]:
    major, _, minor = version.partition(".")
    return int(major), int(minor)
