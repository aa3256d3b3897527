"""Images are had before a job starts: each pulled once, with a cause when it cannot be."""

from __future__ import annotations

import base64
import json
import os
import tempfile
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from pool.runner import image
from pool.runner.image import Images
from pool.runner.ledger import RefusedError
from tests.fake_engine import FakeEngine


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeEngine]:
    """The one that the environment names."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        made = FakeEngine(os.path.join(folder, "d.sock"))
        monkeypatch.setenv("DOCKER_HOST", f"unix://{made.path}")
        made.open()
        yield made
        made.close()


def _ready(name: str, login: list[str] | None = None) -> dict[str, Any]:
    return Images().ready(name, login, 10.0)


def test_an_image_that_is_here_is_not_pulled(engine: FakeEngine) -> None:
    """Its id is told: a tag may move before the job starts."""
    engine.images["a:1"] = {"Cmd": ["true"]}
    assert _ready("a:1") == {"image": "sha256:a:1"}
    assert engine.pulls == []


def test_an_image_is_pulled_once_for_all_who_wait(engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Meanwhile it is told how far it is."""
    images, gate = Images(), threading.Event()
    line = {"id": "l1", "status": "Downloading", "progressDetail": {"current": 3 << 20, "total": 9 << 20}}
    engine.registry["a:1"] = [line, {"id": "l2", "status": "Pull complete"}]
    real = FakeEngine.pull

    def slow(self: FakeEngine, query: dict[str, str], login: str) -> list[dict[str, Any]]:
        gate.wait(20)
        return real(self, query, login)

    monkeypatch.setattr(FakeEngine, "pull", slow)
    for _ in range(3):
        assert images.ready("a:1", None, 0.0) == {"image": None, "progress": "pulling a:1"}
    gate.set()
    assert images.ready("a:1", None, 20.0) == {"image": "sha256:a:1"}
    assert engine.pulls == [("a:1", "")]


def test_how_far_a_pull_is_is_told_in_words() -> None:
    """Layers, and the bytes of those that are under way."""
    pull = image._Pull(("a:1", ""))
    pull._layers = {"1": ("Pull complete", 0, 0), "2": ("Downloading", 3 << 20, 9 << 20), "3": ("Waiting", 0, 0)}
    assert pull.progress() == "pulling a:1: 1 of 3 layers, 3 of 9 MB"


@pytest.mark.parametrize(
    ("name", "server"),
    [("reg.example:5000/a/b:1", "reg.example:5000"), ("localhost/a:1", "localhost"), ("ann/a:1", "https://index")],
)
def test_a_login_goes_to_its_registry_in_a_header(engine: FakeEngine, name: str, server: str) -> None:
    """And nowhere else."""
    engine.registry[name] = []
    _ready(name, ["ann", "canary"])
    [(pulled, header)] = engine.pulls
    told = json.loads(base64.urlsafe_b64decode(header))
    assert (pulled, told["username"], told["password"]) == (name, "ann", "canary")
    assert told["serveraddress"].startswith(server)


@pytest.mark.parametrize(
    ("said", "login", "cause", "words"),
    [
        ("manifest for a:1 not found: manifest unknown", None, "no_such_image", "there is no such image"),
        ("pull access denied for a, repository does not exist", None, "refused_login", "or its registry wants a login"),
        ("unauthorized: incorrect username or password", ["a", "b"], "refused_login", "refuses this login"),
        ("dial tcp 1.2.3.4:443: i/o timeout", None, "registry_unreachable", "cannot be reached"),
        ("x509: certificate signed by unknown authority", None, "registry_unreachable", "cannot be reached"),
        ("write /x: no space left on device", None, "disk_full", "no space left"),
        ("toomanyrequests: slow down", None, "rate_limited", "too many pulls"),
        ("no matching manifest for linux/arm64", None, "wrong_platform", "none for"),
        ("what nobody has seen", None, "pull_failed", "what nobody has seen"),
    ],
)
def test_a_failed_pull_has_a_cause(
    engine: FakeEngine, said: str, login: list[str] | None, cause: str, words: str
) -> None:
    """From what engines and registries say; what they said stands there too. The next one asks anew."""
    engine.registry["a:1"] = [{"error": said}]
    for _ in range(2):
        with pytest.raises(RefusedError) as refusal:
            _ready("a:1", login)
        assert refusal.value.cause == cause
        assert words in str(refusal.value) and said in str(refusal.value)
    assert len(engine.pulls) == 2


@pytest.mark.parametrize("name", ["", "a b", "a?x=1", "../containers/x", "a#b", " a", "a%2e"])
def test_what_is_no_name_is_not_asked_for(engine: FakeEngine, name: str) -> None:
    """It becomes part of a URL."""
    with pytest.raises(RefusedError) as refusal:
        _ready(name)
    assert refusal.value.cause == "bad_image"
    assert engine.pulls == []


def test_an_image_for_other_machines_is_refused(engine: FakeEngine) -> None:
    """Before anything starts."""
    engine.images["a:1"] = {"Cmd": ["true"], "arch": "s390x"}
    with pytest.raises(RefusedError, match="it is for s390x hosts") as refusal:
        _ready("a:1")
    assert refusal.value.cause == "wrong_platform"


def test_without_an_engine_that_is_the_cause(engine: FakeEngine) -> None:
    """Also where it goes away."""
    engine.close()
    with pytest.raises(RefusedError) as refusal:
        _ready("a:1")
    assert refusal.value.cause == "no_docker"
    engine.open()
