"""Pulls: each image once, however many jobs wait for it, and a named cause where it cannot be had.

A login is for one pull alone: it goes to the engine in a header, and nowhere else.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from typing import Any, Callable

from pool.runner import reference
from pool.runner.engine import Engine, EngineError, EngineGoneError
from pool.runner.ledger import RefusedError

#: An engine that says nothing for this long will not: some are silent while they unpack, however much that is.
_SILENCE_S = 1800.0
#: Who has waited for a pull asks within this time how it ended.
_KEPT_S = 60.0

#: The cause of a failed pull, by what engines and registries say, and in words. The first that matches counts.
_CAUSES = (
    ("disk_full", "no space left on device|disk quota exceeded", "there is no space left for it"),
    ("wrong_platform", "no matching manifest|does not match the specified platform", "there is none for {arch} hosts"),
    ("rate_limited", "toomanyrequests|rate limit", "its registry has had too many pulls from here"),
    (
        "refused_login",
        "incorrect username or password|unauthorized|not authorized|authentication (required|failed)",
        "{login}",
    ),
    ("no_such_image", "manifest unknown|manifest for .* not found|not found|name unknown", "there is no such image"),
    ("refused_login", "denied|no basic auth|forbidden", "{login}"),
    ("bad_image", "invalid reference format|invalid tag|repository name must be", "that is not the name of an image"),
    (
        "registry_unreachable",
        r"dial tcp|no such host|connection refused|i/o timeout|timeout|timed out|\bEOF\b|x509|certificate|\btls\b|"
        r"HTTP status: 5\d\d|service unavailable|bad gateway|HTTP response to HTTPS client|network is unreachable|"
        "no route to host|lookup|connection reset",
        "its registry cannot be reached",
    ),
)
_THERE = ("Pull complete", "Already exists")
_LOADED = (*_THERE, "Download complete", "Verifying Checksum", "Extracting")


class Pulls:
    """The pulls of one engine. Safe to use from several threads."""

    def __init__(self, engine: Engine, done: Callable[[str], None]) -> None:
        """`done(name)` is called, in the pull's own thread, once an image has come."""
        self._engine, self._done = engine, done
        self._lock = threading.Lock()
        self._pulls: dict[tuple[str, str], Pull] = {}

    def of(self, name: str, login: list[str] | None, job: str) -> Pull:
        """The pull of this image with this login that is under way, or that `job` has waited for; else a new one."""
        key = (name, hashlib.sha256(json.dumps(login).encode()).hexdigest())
        with self._lock:
            self._pulls = {other: each for other, each in self._pulls.items() if not each.over}
            pull = self._pulls.get(key)
            if pull is None or (pull.done.is_set() and job not in pull.waiting):
                pull = self._pulls[key] = Pull(name)
                words = (self._engine, reference.header(name, login), self._done)
                threading.Thread(target=pull.run, args=words, name="pull", daemon=True).start()
            pull.waiting.add(job)
        return pull


class Pull:
    """One pull, in a thread of its own."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.problem: RefusedError | str = ""  #: or what the engine said of it
        self.done = threading.Event()
        self.waiting: set[str] = set()  #: the jobs that have not been told how it ended
        self._ended = float("inf")
        self._layers: dict[str, tuple[str, int, int]] = {}  # id -> (what is done with it, bytes so far, of)

    @property
    def over(self) -> bool:
        """True once nobody asks for it any more."""
        return time.monotonic() > self._ended + _KEPT_S

    def run(self, engine: Engine, headers: dict[str, str], done: Callable[[str], None]) -> None:
        """Until the engine has it, or says why not."""
        named = "@" in self.name or ":" in self.name.rpartition("/")[2]
        query = {"fromImage": self.name} if named else {"fromImage": self.name, "tag": "latest"}
        try:
            for line in engine.follow("POST", "/images/create", headers, _SILENCE_S, **query):
                if "error" in line:
                    self.problem = str(line["error"])
                    return
                self._take(line)
            done(self.name)
        except EngineGoneError as error:
            self.problem = str(error) if timed_out(error) else RefusedError("no_docker", str(error))
        except Exception as error:  # whoever waits must not wait for ever
            self.problem = str(error) if isinstance(error, EngineError) else repr(error)
        finally:
            self._ended = time.monotonic()
            self.done.set()

    def progress(self) -> str:
        """How far it is, for people."""
        layers = list(self._layers.values())
        if not layers:
            return "pulling {}".format(self.name)
        there = sum(layer[0] in _THERE for layer in layers)
        text = "pulling {}: {} of {} layers".format(self.name, there, len(layers))
        so_far, of = sum(layer[1] for layer in layers), sum(layer[2] for layer in layers)
        return text + (", {} of {} MB".format(so_far >> 20, of >> 20) if of >> 20 else "")

    def _take(self, line: dict[str, Any]) -> None:
        """One line of the engine's: a layer's sizes are told while it is loaded alone, and remembered."""
        name, status = line.get("id"), line.get("status")
        if not name or not status or status.startswith("Pulling from"):
            return
        detail = line.get("progressDetail") or {}
        _, so_far, of = self._layers.get(name, ("", 0, 0))
        if status == "Downloading" and detail.get("total"):
            so_far, of = int(detail.get("current") or 0), int(detail["total"])
        self._layers[name] = (status, of if status in _LOADED else so_far, of)


def timed_out(error: EngineGoneError) -> bool:
    """True when the engine was there, and did not answer in time."""
    return isinstance(error.__cause__, TimeoutError) or "timed out" in str(error)


def refusal(name: str, said: str, arch: str, with_login: bool) -> RefusedError:
    """The cause of a failed pull, from what the engine said."""
    login = "its registry refuses this login" if with_login else "it does not exist, or its registry wants a login"
    said = "".join(each if each.isprintable() else " " for each in said)  # a registry's words are not ours
    plain = re.sub(r'"?https?://[^\s"]+"?', "", said).replace(name, "")  # an address may look like a cause
    for cause, pattern, words in _CAUSES:
        if re.search(pattern, plain, re.IGNORECASE):
            text = "image {}: {} ({})".format(name, words.format(arch=arch, login=login), said[:300])
            return RefusedError(cause, text)
    return RefusedError("pull_failed", "image {}: {}".format(name, said[:300]))
