"""A Docker engine that is not there: its interface on a Unix socket, with processes of this machine as containers.

`tests/container_cases.py` has what is run on it and on the real one alike. It has no file systems: a mount is the path
of its source in the words of the command, and an image is what `FakeEngine.images` says of it.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import signal
import socket
import socketserver
import struct
import subprocess
import termios
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from pool.runner import processes, reference


class _RefusedError(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass
class FakeContainer:
    """One container, as it was asked for, and what runs it."""

    name: str
    config: dict[str, Any]
    state: str = "created"
    code: int = 0
    process: subprocess.Popen[bytes] | None = None
    attached: list[socket.socket] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)


@dataclass
class FakeExec:
    """One more program in a container."""

    made: FakeContainer
    config: dict[str, Any]
    process: subprocess.Popen[bytes] | None = None
    terminal: int = -1


class FakeEngine(socketserver.ThreadingUnixStreamServer):
    """Serves on `path` from `open` to `close`; what runs goes on in between, as under live-restore."""

    daemon_threads = True

    def __init__(self, path: str) -> None:
        self.path = path
        self.images: dict[str, dict[str, Any]] = {}  #: name -> {"Cmd": [...], "User": "", "sh": bool}
        self.registry: dict[str, list[dict[str, Any]]] = {}  #: name -> what a pull of it says, line by line
        self.aliases: dict[str, str] = {}  #: another name of an image -> its key in `images`
        self.pulls: list[tuple[str, str]] = []  #: (name, its login header)
        self.asked: list[str] = []  #: names whose registry was asked what they mean
        self.moved: dict[str, str] = {}  #: name -> the digest it means, when that is no longer its first
        self.containers: dict[str, FakeContainer] = {}
        self.execs: dict[str, FakeExec] = {}
        self.info: dict[str, Any] = {"Architecture": os.uname().machine, "Runtimes": {"runc": {}}}
        self._links: list[socket.socket] = []

    def open(self) -> None:
        """Answer from now on."""
        super().__init__(self.path, _Request)
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        """Hang up on everybody, and answer nobody."""
        self.shutdown()
        self.server_close()
        os.unlink(self.path)
        links, self._links = self._links, []
        for link in links:
            _hang_up(link)
        for made in self.containers.values():
            made.attached.clear()

    def process_request(self, request: Any, client_address: Any) -> None:
        """As of socketserver; remembers the connection."""
        self._links.append(request)
        super().process_request(request, client_address)

    # -- containers ---------------------------------------------------------------------------------------------

    def found(self, name: str) -> FakeContainer:
        """The container of that name, or the engine's 404."""
        if name not in self.containers:
            raise _RefusedError(404, f"No such container: {name}")
        return self.containers[name]

    def create(self, name: str, config: dict[str, Any]) -> dict[str, Any]:
        """Make one; it does not run yet."""
        if name in self.containers:
            raise _RefusedError(409, f'Conflict. The container name "/{name}" is already in use')
        self._image(config["Image"])
        self.containers[name] = FakeContainer(name, config)
        return {"Id": name, "Warnings": []}

    def start(self, made: FakeContainer) -> None:
        """Run its command, on two pipes."""
        for wanted in made.config["HostConfig"].get("DeviceRequests") or ():
            if wanted["Driver"] == "nvidia":
                raise _RefusedError(500, 'could not select device driver "nvidia" with capabilities: [[gpu]]')
        image = self._image(made.config["Image"])
        words = [self._on_the_host(made, word) for word in self._words(made, image)]
        if words[0] == "sh" and not image.get("sh", True):
            words = ["sh", "-c", "exit 127"]  # the engine's init says so, and ends
        (reading, output), (complaints, errors) = os.pipe(), os.pipe()
        made.process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=errors,
            cwd=self._on_the_host(made, made.config.get("WorkingDir") or "/"),
            env={"PATH": os.defpath, **dict(pair.split("=", 1) for pair in made.config["Env"])},
            start_new_session=True,
        )
        made.state = "running"
        for fd in (output, errors):
            os.close(fd)
        kinds = {reading: 1, complaints: 2}
        pumps = [threading.Thread(target=_pump, args=(made, *each), daemon=True) for each in kinds.items()]
        for pump in pumps:
            pump.start()
        threading.Thread(target=self._reap, args=(made, pumps), daemon=True).start()

    def execute(self, made: FakeContainer, config: dict[str, Any]) -> dict[str, Any]:
        """One more program in it; it does not run yet."""
        if made.state != "running":
            raise _RefusedError(409, f"Container {made.name} is not running")
        name = f"exec{len(self.execs)}"
        self.execs[name] = FakeExec(made, config)
        return {"Id": name}

    def begin(self, program: FakeExec) -> tuple[int, dict[int, int]]:
        """Run it; where to write what it reads, and what to read of it, with its kind."""
        config, made = program.config, program.made
        if config["Tty"]:
            program.terminal, theirs = os.openpty()
            ends, ours, kinds = (theirs, theirs, theirs), program.terminal, {program.terminal: 0}
        else:
            (stdin, ours), (reading, output), (complaints, errors) = os.pipe(), os.pipe(), os.pipe()
            ends, kinds = (stdin, output, errors), {reading: 1, complaints: 2}
        pairs = [*made.config["Env"], *config["Env"]]
        program.process = subprocess.Popen(
            [self._on_the_host(made, word) for word in config["Cmd"]],
            stdin=ends[0],
            stdout=ends[1],
            stderr=ends[2],
            cwd=self._on_the_host(made, made.config.get("WorkingDir") or "/"),
            env={"PATH": os.defpath, **dict(pair.split("=", 1) for pair in pairs)},
            start_new_session=True,
            preexec_fn=(lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0)) if config["Tty"] else None,
        )
        for fd in set(ends):
            os.close(fd)
        return ours, kinds

    def look_at(self, program: FakeExec) -> dict[str, Any]:
        """What `inspect` says of it."""
        code = program.process.poll() if program.process else None
        running = program.process is not None and code is None
        pid = program.process.pid if program.process else 0
        return {"Running": running, "Pid": pid, "ExitCode": 128 - code if code is not None and code < 0 else code}

    def kill(self, made: FakeContainer, name: str) -> None:
        """Signal the group of its first process; SIGKILL ends all of it."""
        if made.state != "running" or made.process is None:
            raise _RefusedError(409, f"Container {made.name} is not running")
        if name == "SIGKILL":
            processes.send(processes.of_job(_job(made)), signal.SIGKILL)
        else:
            os.killpg(made.process.pid, getattr(signal, name))

    def remove(self, made: FakeContainer) -> None:
        """Remove it, running or not."""
        if made.state == "running":
            self.kill(made, "SIGKILL")
            made.ended.wait(10)
        self.containers.pop(made.name, None)

    def look(self, made: FakeContainer) -> dict[str, Any]:
        """What `inspect` says of its state."""
        running = made.state == "running"
        pid = made.process.pid if running and made.process else 0
        return {"State": {"Running": running, "Pid": pid, "ExitCode": made.code, "OOMKilled": False}}

    def _reap(self, made: FakeContainer, pumps: list[threading.Thread]) -> None:
        assert made.process is not None
        code = made.process.wait()
        processes.kill_job(_job(made), None, soft_s=0)  # as all of a container ends with its first process
        for pump in pumps:
            pump.join()
        made.code = 128 - code if code < 0 else code
        made.state = "exited"
        made.ended.set()
        for link in made.attached:
            _hang_up(link)

    def _words(self, made: FakeContainer, image: dict[str, Any]) -> list[str]:
        entrypoint = made.config.get("Entrypoint")
        return [*(entrypoint or []), *(made.config.get("Cmd") or (image["Cmd"] if not entrypoint else []))]

    def _on_the_host(self, made: FakeContainer, word: str) -> str:
        for mount in made.config["HostConfig"].get("Mounts") or ():
            word = word.replace(mount["Target"], mount["Source"])
        return word.replace("/.pool", os.path.dirname(made.config["HostConfig"]["Mounts"][0]["Source"]))

    # -- images -------------------------------------------------------------------------------------------------

    def _image(self, name: str) -> dict[str, Any]:
        name = self.aliases.get(name, name)
        for key, image in self.images.items():
            if name in (key, "sha256:" + key):
                return image
        raise _RefusedError(404, f"No such image: {name}")

    def inspect(self, name: str) -> dict[str, Any]:
        """What is known of an image that is here."""
        image = self._image(name)
        key = next(key for key, each in self.images.items() if each is image)
        return {
            "Id": "sha256:" + key,
            "RepoTags": [key] if ":" in key and "@" not in key else [],
            "RepoDigests": image.get("RepoDigests", [key] if "@" in key else []),
            "Size": image.get("Size", 1 << 30),
            "Architecture": image.get("arch", ""),
            "Config": {"User": image.get("User", ""), "Cmd": image["Cmd"]},
        }

    def remove_image(self, name: str) -> list[dict[str, str]]:
        """Remove it; not one that a container was made of."""
        image = self.inspect(name)
        if any(made.config["Image"] == image["Id"] for made in self.containers.values()):
            raise _RefusedError(409, f"conflict: unable to remove {name}: container is using it")
        del self.images[image["Id"].removeprefix("sha256:")]
        return [{"Deleted": image["Id"]}]

    def digest(self, name: str) -> str:
        """What a name in the registry means now."""
        return self.moved.get(name, "sha256:" + hashlib.sha256(name.encode()).hexdigest())

    def distribution(self, name: str) -> dict[str, Any]:
        """What the registry says that a name means."""
        self.asked.append(name)
        for line in self._served(name):
            if "error" in line:
                raise _RefusedError(500, line["error"])
        return {"Descriptor": {"digest": self.digest(name)}, "Platforms": []}

    def _served(self, name: str) -> list[dict[str, Any]]:
        if name not in self.registry:
            raise _RefusedError(500, f'Get "https://{name}": dial tcp: connect: connection refused')
        return self.registry[name]

    def pull(self, query: dict[str, str], login: str) -> list[dict[str, Any]]:
        """What the registry says; the image is here once it has said it without an error."""
        name = query["fromImage"]
        self.pulls.append((name, login))
        pinned = {reference.pinned(each, self.digest(each)): each for each in self.registry}
        lines = self._served(pinned.get(name, name))
        if not any("error" in line for line in lines):
            self.images.setdefault(name, {"Cmd": ["true"]})
        return lines


class _Request(BaseHTTPRequestHandler):
    """One request; the connection ends with its answer."""

    server: FakeEngine

    def do_GET(self) -> None:
        """As of BaseHTTPRequestHandler."""
        url = urlsplit(self.path)
        query = dict(parse_qsl(url.query))
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"null")
        try:
            self._serve(re.sub(r"^/v\d+\.\d+", "", url.path).strip("/").split("/"), query, body)
        except _RefusedError as error:
            self._say({"message": str(error)}, error.status)
        except (ConnectionError, ValueError):  # nobody listens any more
            self.close_connection = True

    do_POST = do_DELETE = do_GET  # noqa: N815

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def _serve(self, words: list[str], query: dict[str, str], body: Any) -> None:
        engine = self.server
        match self.command, *words:
            case "GET", "version":
                self._say({"Version": "27.0", "ApiVersion": "1.46", "MinAPIVersion": "1.24"})
            case "GET", "info":
                self._say(engine.info)
            case "GET", "images", "json":
                self._say([engine.inspect(name) for name in engine.images])
            case "GET", "distribution", *name, "json":
                self._say(engine.distribution("/".join(name)))
            case "DELETE", "images", *name:
                self._say(engine.remove_image("/".join(name)))
            case "GET", "images", *name, "json":
                self._say(engine.inspect("/".join(name)))
            case "POST", "images", "create":
                lines = engine.pull(query, self.headers.get("X-Registry-Auth") or "")
                self._say(None, text="".join(json.dumps(line) + "\r\n" for line in lines))
            case "POST", "containers", "create":
                self._say(engine.create(query["name"], body), 201)
            case "GET", "containers", "json":
                self._say(self._listed(json.loads(query.get("filters", "{}")).get("label", [])))
            case "GET", "containers", name, "json":
                self._say(engine.look(engine.found(name)))
            case "DELETE", "containers", name:
                engine.remove(engine.found(name))
                self._say(None, 204)
            case "POST", "containers", name, "exec":
                self._say(engine.execute(engine.found(name), body), 201)
            case "GET", "exec", name, "json":
                self._say(engine.look_at(engine.execs[name]))
            case "POST", "exec", name, "resize":
                size = struct.pack("HHHH", int(query["h"]), int(query["w"]), 0, 0)
                fcntl.ioctl(engine.execs[name].terminal, termios.TIOCSWINSZ, size)
                self._say(None)
            case "POST", "exec", name, "start":
                self._carry(engine.execs[name])
            case "POST", "containers", name, verb:
                self._do(engine.found(name), verb, query)
            case _:
                raise _RefusedError(404, "page not found")

    def _do(self, made: FakeContainer, verb: str, query: dict[str, str]) -> None:
        if verb == "attach":
            made.attached.append(self.connection)
            self.wfile.write(b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n")
            made.ended.wait()
        elif verb == "wait":
            self._say(None, text="")
            made.ended.wait()
            self.wfile.write(json.dumps({"StatusCode": made.code}).encode() + b"\n")
        else:
            self.server.start(made) if verb == "start" else self.server.kill(made, query["signal"])
            self._say(None, 204)

    def _carry(self, program: FakeExec) -> None:
        """The connection becomes what it reads and writes; nobody ends the program when the other side goes."""
        writing, kinds = self.server.begin(program)
        self.wfile.write(b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n")

        def inward() -> None:
            try:
                while chunk := self.rfile.read1(1 << 16):  # type: ignore[attr-defined]
                    os.write(writing, chunk)
                if writing not in kinds:
                    os.close(writing)
            except (OSError, ValueError):  # hung up meanwhile
                return

        threading.Thread(target=inward, daemon=True).start()
        pumps = [threading.Thread(target=self._send, args=each, daemon=True) for each in kinds.items()]
        for pump in pumps:
            pump.start()
        assert program.process is not None
        program.process.wait()
        for pump in pumps:
            pump.join(1)
        _hang_up(self.connection)

    def _send(self, fd: int, kind: int) -> None:
        try:
            while chunk := os.read(fd, 1 << 16):
                head = bytes([kind, 0, 0, 0]) + len(chunk).to_bytes(4, "big") if kind else b""
                self.connection.sendall(head + chunk)
        except OSError:
            return

    def _listed(self, labels: list[str]) -> list[dict[str, Any]]:
        wanted = dict(label.split("=", 1) for label in labels)
        made = [each for each in self.server.containers.values() if wanted.items() <= each.config["Labels"].items()]
        return [
            {"Labels": each.config["Labels"], "State": each.state, "ImageID": each.config["Image"]} for each in made
        ]

    def _say(self, answer: Any, status: int = 200, text: str | None = None) -> None:
        data = (text if text is not None else "" if answer is None else json.dumps(answer)).encode()
        head = f"HTTP/1.1 {status} said\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n"
        self.wfile.write(head.encode() + data)
        self.wfile.flush()


def _pump(made: FakeContainer, fd: int, kind: int) -> None:
    """Move output to whoever is attached, in frames."""
    while chunk := os.read(fd, 1 << 16):
        head = bytes([kind, 0, 0, 0]) + len(chunk).to_bytes(4, "big")
        for link in list(made.attached):
            try:
                link.sendall(head + chunk)
            except OSError:
                continue
    os.close(fd)


def _hang_up(link: socket.socket) -> None:
    try:
        link.shutdown(socket.SHUT_RDWR)
    except OSError:
        return


def _job(made: FakeContainer) -> str:
    return str(made.config["Labels"]["pool.job"])
