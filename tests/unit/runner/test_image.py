"""Images are had before a job starts: each pulled once, with a cause when it cannot be."""

from __future__ import annotations

import base64
import json
import os
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pool.runner import image, pull, reference
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


@pytest.fixture
def images(engine: FakeEngine, tmp_path: Path) -> Images:
    """Of a host that has none yet."""
    return Images(str(tmp_path))


def _pinned(engine: FakeEngine, name: str) -> str:
    return reference.pinned(name, engine.digest(name))


def _ready(images: Images, name: str, login: list[str] | None = None, pinned: str | None = None) -> dict[str, Any]:
    return images.ready(name, login, 10.0, pinned)


def test_an_image_of_no_registry_is_taken_as_it_is(engine: FakeEngine, images: Images) -> None:
    """Nobody is asked for a name that a stranger may have too; its id is told: a tag may move before the job starts."""
    engine.images["a:1"] = {"Cmd": ["true"]}
    engine.registry["a:1"] = []
    answer = _ready(images, "a:1")
    assert (answer["image"], answer["pinned"]) == ("sha256:a:1", "")
    assert "each host uses its own copy" in answer["said"]
    assert engine.pulls == engine.asked == []


def test_an_image_that_was_made_here_is_so_where_every_image_has_a_digest(engine: FakeEngine, images: Images) -> None:
    """In containerd's store; what a tag stands on was tagged by a person, for pool pulls by digest."""
    engine.info["DriverStatus"] = [["driver-type", "io.containerd.snapshotter.v1"]]
    engine.images["train:7"] = {"Cmd": ["true"], "RepoDigests": ["train@sha256:" + "a" * 64]}
    engine.registry["train:7"] = []
    answer = _ready(images, "train:7")
    assert (answer["image"], answer["pinned"]) == ("sha256:train:7", "")
    assert engine.pulls == engine.asked == []


@pytest.mark.parametrize("by", ["digest", "id", "short id"])
def test_no_name_is_a_way_round_a_private_images_login(engine: FakeEngine, images: Images, by: str) -> None:
    """It was pulled with one; who names it by its digest or its id is asked for one too."""
    engine.registry["reg/a:1"] = []
    exact = str(_ready(images, "reg/a:1", ["ann", "right"])["pinned"])
    found = "sha256:" + "b" * 64
    engine.images["b" * 64] = {**engine.images.pop(exact), "RepoDigests": [exact]}
    engine.aliases = {exact: "b" * 64, "b" * 12: "b" * 64}
    images.shelf._known[exact]["id"] = found
    name = {"digest": exact, "id": found, "short id": "b" * 12}[by]
    engine.registry[exact] = [{"error": "unauthorized: incorrect username or password"}]
    with pytest.raises(RefusedError) as refusal:
        _ready(images, name, ["bob", "wrong"])
    assert refusal.value.cause == "refused_login"
    engine.registry[exact] = []
    assert _ready(images, name, ["ann", "right"])["image"] == found


@pytest.mark.parametrize("said", ["manifest unknown", "cannot be pulled due to configured policy"])
def test_a_copy_is_no_way_round_a_registry_that_says_no(engine: FakeEngine, images: Images, said: str) -> None:
    """As of an image that was taken back."""
    engine.registry["reg/a:1"] = []
    _ready(images, "reg/a:1")
    engine.registry["reg/a:1"] = [{"error": said}]
    with pytest.raises(RefusedError):
        _ready(images, "reg/a:1")


def test_an_image_that_a_person_made_goes_before_one_of_its_name(engine: FakeEngine, images: Images) -> None:
    """Also where pool has pulled that before."""
    engine.registry["reg/a:1"] = []
    _ready(images, "reg/a:1")
    engine.images["reg/a:1"] = {"Cmd": ["true"]}
    answer = _ready(images, "reg/a:1")
    assert (answer["image"], answer["pinned"]) == ("sha256:reg/a:1", "")


def test_a_host_that_has_no_such_copy_says_so(engine: FakeEngine, images: Images) -> None:
    """It does not pull what happens to have that name."""
    engine.registry["a:1"] = []
    with pytest.raises(RefusedError, match="in no registry") as refusal:
        _ready(images, "a:1", pinned="")
    assert (refusal.value.cause, engine.pulls) == ("no_such_image", [])


def test_what_a_name_means_is_asked_once_and_then_pinned(engine: FakeEngine, images: Images) -> None:
    """The answer leads to the very image, also when the name means another by then."""
    engine.registry["reg/a:1"] = []
    first = _ready(images, "reg/a:1", ["ann", "pw"])
    assert first["pinned"] == _pinned(engine, "reg/a:1")
    assert [name for name, _ in engine.pulls] == [first["pinned"]]
    engine.moved["reg/a:1"] = "sha256:" + "f" * 64
    assert _ready(images, "reg/a:1", pinned=first["pinned"])["image"] == first["image"]
    assert (engine.asked, len(engine.pulls)) == (["reg/a:1"], 1)
    again = _ready(images, "reg/a:1")
    assert again["pinned"].endswith("f" * 64)
    assert again["image"] != first["image"]


@pytest.mark.parametrize("name", ["reg/a@sha256:" + "a" * 64, "reg/a:1@sha256:" + "a" * 64])
def test_a_name_that_says_its_digest_is_not_asked_about(engine: FakeEngine, images: Images, name: str) -> None:
    """Its tag, if it has one, means nothing."""
    engine.registry["reg/a@sha256:" + "a" * 64] = []
    assert _ready(images, name)["pinned"] == "reg/a@sha256:" + "a" * 64
    assert engine.asked == []


def test_a_copy_does_where_the_registry_cannot_be_asked(engine: FakeEngine, images: Images, tmp_path: Path) -> None:
    """The one that the name meant last; one that is silent is not asked again for a while. Also by a later runner."""
    engine.registry["reg/a:1"] = []
    first = _ready(images, "reg/a:1")
    del engine.registry["reg/a:1"]
    for _ in range(2):
        answer = _ready(images, "reg/a:1")
        assert (answer["image"], answer["pinned"]) == (first["image"], first["pinned"])
        assert "registry_unreachable" in answer["said"]
    assert len(engine.asked) == 2
    images.shelf.tidy(dict)
    assert _ready(Images(str(tmp_path)), "reg/a:1")["image"] == first["image"]


@pytest.mark.parametrize("has_copy", [True, False])
def test_a_registry_that_is_silent_holds_nobody_up(
    engine: FakeEngine, images: Images, monkeypatch: pytest.MonkeyPatch, has_copy: bool
) -> None:
    """A copy that is here is used soon, and at once the next time; without one that is the cause."""
    engine.registry["reg/a:1"] = []
    if has_copy:
        _ready(images, "reg/a:1")
    asked: list[str] = []
    over = threading.Event()
    monkeypatch.setattr(FakeEngine, "distribution", lambda _, name: (asked.append(name), over.wait(20))[1])
    monkeypatch.setattr(image, "_ASK_S" if has_copy else "_ASK_LONG_S", 0.1)
    for _ in range(2):
        if has_copy:
            assert "registry_unreachable" in _ready(images, "reg/a:1")["said"]
        else:
            with pytest.raises(RefusedError, match="no answer within") as refusal:
                _ready(images, "reg/a:1")
            assert refusal.value.cause == "registry_unreachable"
    over.set()
    assert len(asked) == (1 if has_copy else 2)


@pytest.mark.parametrize("login", [["ann", "wrong"], None])
def test_a_copy_does_not_make_up_for_a_refused_login(
    engine: FakeEngine, images: Images, login: list[str] | None
) -> None:
    """It was had with another."""
    engine.registry["reg/a:1"] = []
    _ready(images, "reg/a:1", ["ann", "right"])
    engine.registry["reg/a:1"] = [{"error": "unauthorized: authentication required"}]
    with pytest.raises(RefusedError) as refusal:
        _ready(images, "reg/a:1", login)
    assert refusal.value.cause == "refused_login"


def test_a_copy_that_a_person_pulled_needs_no_login(engine: FakeEngine, images: Images) -> None:
    """Who may bring images to the host may give them to all."""
    pinned = "reg/a@sha256:" + "a" * 64
    engine.registry["reg/a:1"] = [{"error": "no basic auth credentials"}]
    engine.images["reg/a:1"] = {"Cmd": ["true"], "RepoDigests": [pinned]}
    engine.images[pinned] = {"Cmd": ["true"]}
    answer = _ready(images, "reg/a:1")
    assert (answer["pinned"], engine.pulls) == (pinned, [])
    assert "refused_login" in answer["said"]


def test_a_copy_that_somebody_pulled_is_known_by_its_digest(engine: FakeEngine, images: Images) -> None:
    """Nothing is pulled where it is what the name means."""
    engine.registry["docker.io/library/a:1"] = []
    digest = engine.digest("docker.io/library/a:1")
    engine.images["docker.io/library/a:1"] = {"Cmd": ["true"], "RepoDigests": [f"a@{digest}"]}
    engine.images["docker.io/library/a@" + digest] = {"Cmd": ["true"]}
    assert _ready(images, "docker.io/library/a:1")["pinned"] == f"docker.io/library/a@{digest}"
    assert (engine.asked, engine.pulls) == (["docker.io/library/a:1"], [])


def test_an_image_is_pulled_once_for_all_who_wait(
    engine: FakeEngine, images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Meanwhile it is told how far it is."""
    gate = threading.Event()
    line = {"id": "l1", "status": "Downloading", "progressDetail": {"current": 3 << 20, "total": 9 << 20}}
    engine.registry["a:1"] = [line, {"id": "l2", "status": "Pull complete"}]
    real = FakeEngine.pull

    def slow(self: FakeEngine, query: dict[str, str], login: str) -> list[dict[str, Any]]:
        gate.wait(20)
        return real(self, query, login)

    monkeypatch.setattr(FakeEngine, "pull", slow)
    pinned = _pinned(engine, "a:1")
    for _ in range(3):
        answer = images.ready("a:1", None, 0.0)
        assert answer == {"image": None, "pinned": pinned, "said": "", "progress": f"pulling {pinned}"}
    gate.set()
    assert images.ready("a:1", None, 20.0, pinned)["image"] == f"sha256:{pinned}"
    assert engine.pulls == [(pinned, "")]


def test_a_failed_pull_is_told_to_all_who_waited(
    engine: FakeEngine, images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not begun anew for each; for one who comes later it is, at once."""
    gate = threading.Event()
    engine.registry["a:1"] = [{"error": "manifest unknown"}]
    pinned = _pinned(engine, "a:1")
    real = FakeEngine.pull
    monkeypatch.setattr(FakeEngine, "pull", lambda *words: (gate.wait(20), real(*words))[1])
    for job in ("j1", "j2"):
        assert images.ready("a:1", None, 0.0, pinned, job)["image"] is None
    gate.set()
    for job in ("j1", "j2"):
        with pytest.raises(RefusedError, match="no such image"):
            images.ready("a:1", None, 10.0, pinned, job)
    assert len(engine.pulls) == 1
    engine.registry["a:1"] = []
    for job in ("j3", "j1"):
        assert images.ready("a:1", None, 10.0, pinned, job)["image"]
    assert len(engine.pulls) == 2


def test_how_far_a_pull_is_is_told_in_words() -> None:
    """Layers, and bytes: of those that are under way and of those that are here."""
    told = pull.Pull("a:1")
    for name, status, current, total in (
        ("1", "Downloading", 1 << 20, 4 << 20),
        ("1", "Download complete", 0, 0),
        ("1", "Pull complete", 0, 0),
        ("2", "Downloading", 3 << 20, 9 << 20),
        ("3", "Waiting", 0, 0),
    ):
        detail = {"current": current, "total": total} if total else {}
        told._take({"id": name, "status": status, "progressDetail": detail})
    assert told.progress() == "pulling a:1: 1 of 3 layers, 7 of 13 MB"


@pytest.mark.parametrize(
    ("name", "server"),
    [("reg.example:5000/a/b:1", "reg.example:5000"), ("localhost/a:1", "localhost"), ("ann/a:1", "https://index")],
)
def test_a_login_goes_to_its_registry_in_a_header(
    engine: FakeEngine, images: Images, tmp_path: Path, name: str, server: str
) -> None:
    """And nowhere else."""
    engine.registry[name] = []
    _ready(images, name, ["ann", "canary"])
    images.shelf.tidy(dict)
    [(pulled, header)] = engine.pulls
    told = json.loads(base64.urlsafe_b64decode(header))
    assert (pulled, told["username"], told["password"]) == (_pinned(engine, name), "ann", "canary")
    assert "canary" not in (tmp_path / "images.json").read_text(encoding="utf-8")
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
        (
            'Get "https://r:401/v2/": dial tcp 1.2.3.4:401: connect: no route to host',
            None,
            "registry_unreachable",
            "cannot be reached",
        ),
        ("what nobody has seen", None, "pull_failed", "what nobody has seen"),
    ],
)
def test_a_failed_pull_has_a_cause(
    engine: FakeEngine, images: Images, said: str, login: list[str] | None, cause: str, words: str
) -> None:
    """From what engines and registries say, before the pull or in it; what they said stands there too."""
    engine.registry["a:1"] = [{"error": said}]
    for pinned in (None, _pinned(engine, "a:1")):
        with pytest.raises(RefusedError) as refusal:
            _ready(images, "a:1", login, pinned)
        assert refusal.value.cause == cause
        assert words in str(refusal.value) and said in str(refusal.value)
    assert (len(engine.asked), len(engine.pulls)) == (1, 1)


def test_an_address_is_no_cause() -> None:
    """Whatever words and numbers are in it."""
    said = 'Get "https://tls.example:401/v2/denied/manifests/lookup": manifest unknown'
    assert pull.refusal("tls.example:401/denied:lookup", said, "amd64", False).cause == "no_such_image"


@pytest.mark.parametrize("name", ["", "a b", "a?x=1", "../containers/x", "a#b", " a", "a%2e"])
def test_what_is_no_name_is_not_asked_for(engine: FakeEngine, images: Images, name: str) -> None:
    """It becomes part of a URL."""
    with pytest.raises(RefusedError) as refusal:
        _ready(images, name)
    assert refusal.value.cause == "bad_image"
    assert engine.pulls == engine.asked == []


def test_an_image_for_other_machines_is_refused(engine: FakeEngine, images: Images) -> None:
    """Before anything starts."""
    engine.images["a:1"] = {"Cmd": ["true"], "arch": "s390x"}
    with pytest.raises(RefusedError, match="it is for s390x hosts") as refusal:
        _ready(images, "a:1")
    assert refusal.value.cause == "wrong_platform"


def test_without_an_engine_that_is_the_cause(engine: FakeEngine, images: Images) -> None:
    """Also where it goes away."""
    engine.close()
    with pytest.raises(RefusedError) as refusal:
        _ready(images, "a:1")
    assert refusal.value.cause == "no_docker"
    engine.open()
