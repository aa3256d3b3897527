"""When somebody was last connected to a job, as its folder tells it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pool.runner import activity, durable
from pool.runner.activity import Activity
from pool.runner.jobs import JobFolder
from tests.runner_host import until


@pytest.fixture
def folder(tmp_path: Path) -> JobFolder:
    """The folder of a job that asks for it."""
    found = JobFolder(str(tmp_path), "active-1")
    os.makedirs(found.path)
    activity.begin(found)
    return found


def _rewind(folder: JobFolder) -> None:
    Path(folder.file("active")).write_text(f"{1.5:024.3f}\n")


def test_the_start_counts(folder: JobFolder) -> None:
    """By the clock that no change of time moves; what cannot be read is never taken for idle."""
    assert abs(durable.boot_clock() - activity.last(folder)) < 5
    _rewind(folder)
    assert activity.last(folder) == 1.5
    Path(folder.file("active")).write_bytes(b"\0\0")
    assert abs(durable.boot_clock() - activity.last(folder)) < 5
    os.unlink(folder.file("active"))
    assert abs(durable.boot_clock() - activity.last(folder)) < 5


def test_it_is_kept_up_while_somebody_is_connected(folder: JobFolder, tmp_path: Path) -> None:
    """Again and again, in place; once all have left, no more. A job that asks for nothing gets no file."""
    other = JobFolder(str(tmp_path), "active-2")
    os.makedirs(other.path)
    kept = Activity(str(tmp_path))
    size, number = os.stat(folder.file("active")).st_size, os.stat(folder.file("active")).st_ino
    with kept.at("active-1"), kept.at("active-1"), kept.at("active-2"), kept.at("active-3"):
        for _ in range(2):
            _rewind(folder)
            until(lambda: activity.last(folder) > 1.5, "a sign of whoever is connected")
    assert (os.stat(folder.file("active")).st_size, os.stat(folder.file("active")).st_ino) == (size, number)
    assert not os.path.exists(other.file("active"))
    assert kept._connected == {}
    _rewind(folder)
    with kept.at("active-1"):  # however short
        pass
    until(lambda: activity.last(folder) > 1.5, "a sign of who was there")
