"""Where a reader stopped: kept whole, found again, thrown away when it is of no use any more."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from pool.cli.places import Places, kept_places


def test_places_are_kept_and_forgotten(state_dir: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within the second, the last at the end; after a whole run none."""
    monkeypatch.setattr("pool.cli.places._EVERY_S", 0.01)
    now = {0: "1:5"}
    places = Places("r1", lambda: dict(now))
    assert kept_places("r1") == {}
    for change in ({0: "1:6"}, {0: "2:7", 3: "1:0"}):
        now |= change
        places.shown()
        deadline = time.monotonic() + 10
        while kept_places("r1") != now:
            assert time.monotonic() < deadline
    now[0] = "2:8"
    places.close(whole=False)
    assert kept_places("r1") == {0: "2:8", 3: "1:0"}
    Places("r1", dict).close(whole=True)
    assert kept_places("r1") == {}
    assert os.listdir(os.path.join(state_dir, "places")) == []


@pytest.mark.parametrize("text", ["", "{", "[]", "1", '{"x": "1:2"}', '{"0": "1"}', '{"0": 7}', '{"0": "1:&from=2"}'])
def test_a_file_of_no_use_is_as_none(state_dir: str, text: str) -> None:
    """The run is shown from its start."""
    Path(state_dir, "places").mkdir()
    Path(state_dir, "places", "r1").write_text(text)
    assert kept_places("r1") == {}


def test_old_ones_are_removed(state_dir: str) -> None:
    """Of runs that nobody came back to for a month."""
    folder = Path(state_dir, "places")
    folder.mkdir()
    for name, days in (("old", 31), ("new", 29)):
        (folder / name).write_text(json.dumps({"0": "1:1"}))
        os.utime(folder / name, (time.time() - days * 86400,) * 2)
    Places("r1", lambda: {0: "1:1"}).close(whole=False)
    assert sorted(os.listdir(folder)) == ["new", "r1"]


def test_a_place_that_cannot_be_kept(state_dir: str) -> None:
    """Is no reason to stop showing a run."""
    Path(state_dir, "places").write_text("in the way")
    places = Places("r1", lambda: {0: "1:1"})
    places.shown()
    places.close(whole=False)
    assert kept_places("r1") == {}
