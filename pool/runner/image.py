"""Container images of this host: had before a job starts, each pulled once however many jobs wait for it.

A login is for one pull alone: it goes to the engine in a header, and nowhere else.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from typing import Any

from pool.runner.engine import Engine, EngineError, EngineGoneError
from pool.runner.ledger import RefusedError

#: A registry that says nothing for this long will not.
_SILENCE_S = 120.0
_LOOK_S = 10.0

#: The cause of a failed pull, by what engines and registries say, and in words. The first that matches counts.
_CAUSES = (
    ("disk_full", "no space left on device|disk quota exceeded", "there is no space left for it"),
    ("wrong_platform", "no matching manifest|does not match the specified platform", "there is none for {arch} hosts"),
    ("rate_limited", "toomanyrequests|rate limit", "its registry has had too many pulls from here"),
    ("refused_login", "incorrect username or password|unauthorized|authentication required|401", "{login}"),
    ("no_such_image", "manifest unknown|manifest for .* not found|not found|name unknown", "there is no such image"),
    ("refused_login", "denied|no basic auth|403", "{login}"),
    (
        "registry_unreachable",
        r"dial tcp|no such host|connection refused|i/o timeout|timeout|timed out|EOF|x509|certificate|tls|"
        r"HTTP response to HTTPS client|network is unreachable|no route to host|lookup|connection reset",
        "its registry cannot be reached",
    ),
    ("bad_image", "invalid reference format|invalid tag|repository name must be", "that is not the name of an image"),
)
#: Host architecture -> what it can run, by Docker's names.
_RUNS = {"amd64": {"amd64", "386"}, "arm64": {"arm64", "arm"}}
_MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}


class Images:
    """Brings images here. Safe to use from several threads."""

    def __init__(self) -> None:
        self._engine = Engine()
        self._lock = threading.Lock()
        self._pulls: dict[tuple[str, str], _Pull] = {}

    def ready(self, name: str, login: list[str] | None, wait_s: float) -> dict[str, Any]:
        """`{"image": its id}` once it is here, else, after `wait_s`, `{"image": None, "progress": …}`: ask again.

        RefusedError with the cause when it cannot be had.
        """
        try:
            image = self.find(name)
            if image is None:
                pull = self._pull(name, login)
                if not pull.done.wait(wait_s):
                    return {"image": None, "progress": pull.progress()}
                with self._lock:
                    self._pulls.pop(pull.key, None)
                if pull.problem:
                    raise refusal(name, pull.problem, self._arch(), bool(login))
                image = self.find(name)
        except EngineGoneError as error:
            raise RefusedError("no_docker", str(error)) from error
        if image is None:
            raise RefusedError("no_such_image", "image {}: it was pulled, and is not here".format(name))
        return {"image": self._fitting(name, image)}

    def find(self, name: str) -> dict[str, Any] | None:
        """What the engine knows about an image that is here, by name or id; None when it is not."""
        if not name or name != name.strip() or re.search(r"[\s?#%\\]|\.\./", name):
            raise RefusedError("bad_image", "{!r} is not the name of an image".format(name))
        try:
            found: dict[str, Any] = self._engine.ask("GET", "/images/{}/json".format(name), timeout_s=_LOOK_S)
        except EngineError as error:
            if error.code == 404:
                return None
            raise RefusedError("bad_image", "image {}: {}".format(name, error)) from error
        return found

    def _pull(self, name: str, login: list[str] | None) -> _Pull:
        """The pull of this image with this login that is under way; it is begun when there is none."""
        key = (name, hashlib.sha256(json.dumps(login).encode()).hexdigest())
        with self._lock:
            pull = self._pulls.get(key)
            if pull is None:
                pull = self._pulls[key] = _Pull(key)
                threading.Thread(target=pull.run, args=(self._engine, login), name="pull", daemon=True).start()
        return pull

    def _fitting(self, name: str, image: dict[str, Any]) -> str:
        arch, has = self._arch(), str(image.get("Architecture") or "")
        if has and arch in _RUNS and has not in _RUNS[arch]:
            text = "image {}: it is for {} hosts, and this one is {}".format(name, has, arch)
            raise RefusedError("wrong_platform", text)
        return str(image["Id"])

    def _arch(self) -> str:
        machine = str(self._engine.ask("GET", "/info", timeout_s=_LOOK_S)["Architecture"])
        return _MACHINES.get(machine, machine)


class _Pull:
    """One pull, in a thread of its own."""

    def __init__(self, key: tuple[str, str]) -> None:
        self.key = key
        self.problem = ""
        self.done = threading.Event()
        self._layers: dict[str, tuple[str, int, int]] = {}  # id -> (what is done with it, bytes so far, of)

    def run(self, engine: Engine, login: list[str] | None) -> None:
        """Until the engine has it, or says why not."""
        name = self.key[0]
        headers = {"X-Registry-Auth": _header(name, login)} if login else {}
        query = {"fromImage": name} if _has_tag(name) else {"fromImage": name, "tag": "latest"}
        try:
            for line in engine.follow("POST", "/images/create", headers, _SILENCE_S, **query):
                if "error" in line:
                    self.problem = str(line["error"])
                    return
                detail = line.get("progressDetail") or {}
                if line.get("id") and line.get("status") and not line["status"].startswith("Pulling from"):
                    place = (line["status"], int(detail.get("current") or 0), int(detail.get("total") or 0))
                    self._layers[line["id"]] = place
        except (EngineError, EngineGoneError) as error:
            self.problem = str(error)
        except Exception as error:  # whoever waits must not wait for ever
            self.problem = repr(error)
        finally:
            self.done.set()

    def progress(self) -> str:
        """How far it is, for people."""
        layers = list(self._layers.values())
        if not layers:
            return "pulling {}".format(self.key[0])
        there = [layer for layer in layers if layer[0] in ("Pull complete", "Already exists")]
        loading = [layer for layer in layers if layer[0] == "Downloading" and layer[2]]
        text = "pulling {}: {} of {} layers".format(self.key[0], len(there), len(layers))
        if loading:
            so_far, of = sum(layer[1] for layer in loading) >> 20, sum(layer[2] for layer in loading) >> 20
            text += ", {} of {} MB".format(so_far, of)
        return text


def refusal(name: str, said: str, arch: str, with_login: bool) -> RefusedError:
    """The cause of a failed pull, from what the engine said."""
    login = "its registry refuses this login" if with_login else "it does not exist, or its registry wants a login"
    for cause, pattern, words in _CAUSES:
        if re.search(pattern, said, re.IGNORECASE):
            text = "image {}: {} ({})".format(name, words.format(arch=arch, login=login), said[:300])
            return RefusedError(cause, text)
    return RefusedError("pull_failed", "image {}: {}".format(name, said[:300]))


def _has_tag(name: str) -> bool:
    """True for `image:tag` and `image@digest`; a port of a registry is no tag."""
    return "@" in name or ":" in name.rpartition("/")[2]


def _header(name: str, login: list[str]) -> str:
    """The login as the engine wants it. It is for the registry of this image alone."""
    first, slash, _ = name.partition("/")
    here = slash and ("." in first or ":" in first or first == "localhost")
    server = first if here else "https://index.docker.io/v1/"
    auth = {"username": login[0], "password": login[1], "serveraddress": server}
    return base64.urlsafe_b64encode(json.dumps(auth).encode()).decode()
