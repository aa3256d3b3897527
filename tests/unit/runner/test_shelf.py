"""Images are cleared away under a limit: the least recently used, of those that pool pulled and nobody needs."""

from __future__ import annotations

import json
import os
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pool.runner import shelf
from pool.runner.image import Images
from tests.fake_engine import FakeContainer, FakeEngine

NAMES = ("reg/a:1", "reg/b:1", "reg/c:1")


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeEngine]:
    """With a registry of three images of 1 GB each; its clock ticks with every look at it."""
    ticks = iter(range(1, 1000))
    monkeypatch.setattr(shelf.time, "time", lambda: float(next(ticks)))
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        made = FakeEngine(os.path.join(folder, "d.sock"))
        monkeypatch.setenv("DOCKER_HOST", f"unix://{made.path}")
        made.registry = {name: [] for name in NAMES}
        made.open()
        yield made
        made.close()


def _allow(state: Path, gb: Any) -> None:
    (state / "policy.json").write_text(json.dumps({"images_gb": gb}), encoding="utf-8")


def _pulled(state: Path, *names: str) -> Images:
    images = Images(str(state))
    for name in names or NAMES:
        images.ready(name, None, 10.0)
    return images


def _here(engine: FakeEngine) -> set[str]:
    return {name.partition("@")[0] for name in engine.images}


def _tidy(images: Images, live: dict[str, Any] | None = None) -> None:
    for _ in range(5):
        images.shelf.tidy(lambda: live or {})


def test_without_a_limit_everything_stays(engine: FakeEngine, tmp_path: Path) -> None:
    """Nothing is removed that nobody has asked to be."""
    _tidy(_pulled(tmp_path))
    assert _here(engine) == {"reg/a", "reg/b", "reg/c"}


@pytest.mark.parametrize("gb", ["2", -1, True, None, [], "two"])
def test_a_limit_that_is_none_removes_nothing(
    engine: FakeEngine, tmp_path: Path, gb: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is said in the log."""
    _allow(tmp_path, gb)
    _tidy(_pulled(tmp_path))
    assert _here(engine) == {"reg/a", "reg/b", "reg/c"}
    assert ("images_gb" in capsys.readouterr().err) == (gb is not None)


def test_a_policy_that_cannot_be_read_removes_nothing(engine: FakeEngine, tmp_path: Path) -> None:
    """What it meant is not known."""
    (tmp_path / "policy.json").write_text('{"images_gb": 0')
    _tidy(_pulled(tmp_path))
    assert len(_here(engine)) == 3


def test_the_least_recently_used_goes_first(engine: FakeEngine, tmp_path: Path) -> None:
    """By its last use, not by when it came; what is within the limit stays."""
    images = _pulled(tmp_path)
    images.ready("reg/a:1", None, 10.0)
    _allow(tmp_path, 2)
    _tidy(images)
    assert _here(engine) == {"reg/a", "reg/c"}


def test_what_pool_did_not_pull_stays(engine: FakeEngine, tmp_path: Path) -> None:
    """One that somebody brought, and one of ours that somebody has named."""
    engine.images["mine:1"] = {"Cmd": ["true"], "RepoDigests": []}
    engine.images["theirs@sha256:" + "a" * 64] = {"Cmd": ["true"]}
    images = _pulled(tmp_path, "reg/a:1", "reg/b:1", "mine:1", "theirs@sha256:" + "a" * 64)
    tagged = engine.images.pop(next(name for name in engine.images if name.startswith("reg/a@")))
    engine.images["reg/a:1"] = {**tagged, "RepoDigests": [f"reg/a@{engine.digest('reg/a:1')}"]}
    _allow(tmp_path, 0)
    _tidy(images)
    assert {"mine:1", "theirs", "reg/a:1"} <= _here(engine)
    assert "reg/b" not in _here(engine)


def test_an_image_in_use_stays(engine: FakeEngine, tmp_path: Path) -> None:
    """Of a container, whoever's and also one that has ended; of a job that has reserved it or is made ready."""
    images = _pulled(tmp_path, "reg/a:1")
    engine.containers["x"] = FakeContainer("x", {"Image": next(iter(_ids(engine))), "Labels": {}}, "exited")
    images.ready("reg/b:1", None, 10.0, None, "job-b")
    prepared = tmp_path / "jobs" / "job-c"
    prepared.mkdir(parents=True)
    answer = images.ready("reg/c:1", None, 10.0)
    (prepared / "spec.json").write_text(json.dumps({"container": {"config": {"Image": answer["image"]}}}))
    live = {"job-b": {"state": "reserved"}, "job-c": {"state": "held"}}
    _allow(tmp_path, 0)
    _tidy(images, live)
    assert _here(engine) == {"reg/a", "reg/b", "reg/c"}
    shown = {image["names"][0]: image["jobs"] for image in images.listed(live)}
    assert shown == {"reg/a:1": [], "reg/b:1": ["job-b"], "reg/c:1": ["job-c"]}
    _tidy(images)
    assert _here(engine) == {"reg/a"}
    engine.containers.clear()
    _pulled(tmp_path, "reg/b:1")
    _tidy(Images(str(tmp_path)))
    assert _here(engine) == set()


def test_nothing_goes_while_a_job_may_be_promised_it(engine: FakeEngine, tmp_path: Path) -> None:
    """One that is reserved and has not yet told its image: a runner that was restarted has forgotten it."""
    images = _pulled(tmp_path)
    _allow(tmp_path, 0)
    _tidy(images, {"job-x": {"state": "reserved"}})
    assert len(_here(engine)) == 3
    _tidy(images)
    assert _here(engine) == set()


def test_a_promise_made_while_it_begins_is_kept(engine: FakeEngine, tmp_path: Path) -> None:
    """Who has an image has a place in the ledger, which is read once nothing more can be promised."""
    images = _pulled(tmp_path, "reg/a:1")
    _allow(tmp_path, 0)
    promised = threading.Thread(target=images.ready, args=("reg/a:1", None, 10.0, None, "job-a"))

    def ledger() -> dict[str, Any]:
        promised.start()
        promised.join(0.3)
        return {}

    images.shelf.tidy(ledger)
    promised.join()
    assert len(engine.pulls) == 2
    assert _here(engine) == {"reg/a"}
    images.shelf.tidy(lambda: {"job-a": {"state": "reserved"}})
    assert _here(engine) == {"reg/a"}


def test_what_the_engine_will_not_remove_is_no_end(engine: FakeEngine, tmp_path: Path) -> None:
    """The next one goes instead; and a removal that failed is not taken for one."""
    images = _pulled(tmp_path)
    real = engine.remove_image

    def refuse(name: str) -> Any:
        return real(name if not name.startswith("reg/a") else "none")

    engine.remove_image = refuse  # type: ignore[method-assign]
    _allow(tmp_path, 1)
    _tidy(images)
    assert _here(engine) == {"reg/a"}


def test_what_is_ours_is_remembered(engine: FakeEngine, tmp_path: Path) -> None:
    """By the next runner too; not after somebody removed it, not from a file that makes no sense."""
    _allow(tmp_path, 0)
    _pulled(tmp_path)
    _tidy(Images(str(tmp_path)))
    assert _here(engine) == set()
    _pulled(tmp_path)
    (tmp_path / "images.json").write_text('{"images": {"reg/a:1": 7}}')
    _tidy(Images(str(tmp_path)))
    assert len(_here(engine)) == 3


def test_a_list_tells_what_is_here(engine: FakeEngine, tmp_path: Path) -> None:
    """Names, id, digest, size, last use."""
    engine.images["mine:1"] = {"Cmd": ["true"]}
    images = _pulled(tmp_path, "reg/a:1")
    ours, mine = sorted(images.listed({}), key=lambda image: not image["pulled"])
    assert ours["names"] == ["reg/a:1"]
    assert ours["digest"] == engine.digest("reg/a:1")
    assert (ours["size"], ours["jobs"], ours["last_used"] > 0) == (1 << 30, [], True)
    assert (mine["names"], mine["digest"], mine["last_used"], mine["pulled"]) == (["mine:1"], None, None, False)


def _ids(engine: FakeEngine) -> list[str]:
    return [str(engine.inspect(name)["Id"]) for name in engine.images]
