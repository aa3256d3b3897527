"""From what a server asks to what the supervisor execs."""

from __future__ import annotations

import os
import pwd
import shutil
from pathlib import Path
from typing import Any

import pytest

from pool.runner import spec
from pool.runner.jobs import EXITED, PREPARED, RUNNING, JobFolder, all_jobs
from pool.runner.ledger import RefusedError

UID = os.getuid()
ME = pwd.getpwuid(UID)


@pytest.fixture
def folder(tmp_path: Path) -> JobFolder:
    """A job's folder, empty."""
    made = JobFolder(str(tmp_path), "job-1")
    os.makedirs(made.work)
    return made


def _build(folder: JobFolder, **asked: Any) -> dict[str, Any]:
    return spec.build(folder, asked, ["GPU-1"], "p", ME)


def _env(folder: JobFolder, gpus: list[str] | None = None, who: pwd.struct_passwd = ME, **asked: Any) -> dict[str, Any]:
    return spec.environment(folder, asked, gpus or [], who)


def test_the_users_variables_win_over_the_pools_and_these_over_the_hosts(folder: JobFolder) -> None:
    """Last wins; the GPUs and the mark are nobody's but the runner's."""
    env = _env(
        folder,
        ["GPU-1", "GPU-2"],
        pool_env={"A": "pool", "B": "pool", "LANG": "pool", "CUDA_VISIBLE_DEVICES": "9"},
        env={"B": "user", "HOME": "/user", "NVIDIA_VISIBLE_DEVICES": "all", "POOL_JOB_ID": "x"},
    )
    assert (env["A"], env["B"], env["LANG"], env["HOME"]) == ("pool", "user", "pool", "/user")
    assert env["CUDA_VISIBLE_DEVICES"] == env["NVIDIA_VISIBLE_DEVICES"] == "GPU-1,GPU-2"
    assert env["POOL_JOB_ID"] == "job-1"
    assert "DSTACK_MPI_HOSTFILE" not in env


def test_without_gpus_none_is_visible(folder: JobFolder) -> None:
    """Empty for CUDA, `void` for the container toolkit."""
    env = _env(folder)
    assert (env["CUDA_VISIBLE_DEVICES"], env["NVIDIA_VISIBLE_DEVICES"]) == ("", "void")


def test_another_user_gets_his_own_home_and_path(folder: JobFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the runner's environment; the runner's own user keeps HOME and PATH as they are."""
    monkeypatch.setenv("HOME", "/runners/home")
    monkeypatch.setenv("PATH", "/runners/bin")
    other = next(who for who in pwd.getpwall() if who.pw_uid != UID)
    env = _env(folder, who=other)
    assert (env["HOME"], env["USER"], env["LOGNAME"]) == (other.pw_dir, other.pw_name, other.pw_name)
    assert env["PATH"].endswith("/sbin:/bin")
    assert (_env(folder)["HOME"], _env(folder)["PATH"]) == ("/runners/home", "/runners/bin")


def test_the_spec_says_what_to_run_where_as_whom(folder: JobFolder) -> None:
    """No environment in it: that may be secret."""
    built = _build(
        folder, working_dir="a/./b", env={"TOKEN": "canary"}, max_duration_s=5, stop_duration_s=7, inactivity_s=9
    )
    assert built["argv"] == [shutil.which("bash"), folder.file("script")]
    assert built["cwd"] == os.path.join(folder.work, "a", "b")
    assert (built["uid"], built["gid"], built["user"]) == (UID, ME.pw_gid, ME.pw_name)
    assert (built["max_duration_s"], built["stop_duration_s"], built["inactivity_s"]) == (5, 7, 9)
    assert (built["job"], built["pool"], built["gpus"]) == ("job-1", "p", ["GPU-1"])
    assert "canary" not in str(built)
    assert _build(folder, shell="sh")["argv"][0] == shutil.which("sh")


@pytest.mark.parametrize("outside", ["..", "/", "/etc", "a/../..", "../work", "../workshop", "./../x"])
def test_a_folder_outside_is_refused(folder: JobFolder, outside: str) -> None:
    """`../work` is the same folder by a way that leaves it: it is inside."""
    if outside == "../work":
        assert _build(folder, working_dir=outside)["cwd"] == folder.work
        return
    with pytest.raises(RefusedError, match="outside"):
        _build(folder, working_dir=outside)


def test_a_shell_that_is_not_there_is_refused(folder: JobFolder) -> None:
    """By name."""
    with pytest.raises(RefusedError, match="no shell 'zsh-none'"):
        _build(folder, shell="zsh-none")


@pytest.mark.parametrize(
    "job", ["", ".", "..", "a/b", "../x", "-a", "A", "a_b", "a.b", "a\n", "a" * 64, "ä", None, 3, ["a"]]
)
def test_what_is_no_plain_id_is_no_path(tmp_path: Path, job: Any) -> None:
    """A job's id becomes a folder."""
    with pytest.raises(RefusedError, match="not a job id"):
        JobFolder(str(tmp_path), job)


def test_a_jobs_state_is_what_its_files_say(folder: JobFolder, tmp_path: Path) -> None:
    """Nothing, prepared, running, exited: by the files alone; a torn file counts as none."""
    assert not folder.exists
    assert folder.pool is None
    assert all_jobs(str(tmp_path)) == []
    with pytest.raises(RefusedError, match="not on this host"):
        _ = folder.spec
    for name, text, state in (
        ("spec.json", '{"pool": "p"}', PREPARED),
        ("started", '{"boot": ', PREPARED),
        ("started", '{"boot": "b", "at": 1.5}', RUNNING),
        ("exit.json", "", RUNNING),
        ("exit.json", '{"exit_code": 3}' + " " * 4000, EXITED),
    ):
        Path(folder.file(name)).write_text(text, encoding="utf-8")
        assert folder.status()["state"] == state, (name, text)
    assert folder.status()["exit"] == {"exit_code": 3}
    assert [each.job for each in all_jobs(str(tmp_path))] == ["job-1"]
    folder.remove()
    assert not folder.exists


def test_the_end_needs_no_more_room_than_was_kept(folder: JobFolder) -> None:
    """Written over what was reserved: the file does not grow, and is whole under its name at once."""
    folder.keep_exit_room()
    size = os.stat(folder.file("exit.tmp")).st_size
    number = os.stat(folder.file("exit.tmp")).st_ino
    folder.write_exit({"exit_code": 0, "reason": "x" * 500})
    found = os.stat(folder.file("exit.json"))
    assert (found.st_size, found.st_ino) == (size, number)
    assert folder.exit == {"exit_code": 0, "reason": "x" * 500}
    assert not os.path.exists(folder.file("exit.tmp"))
