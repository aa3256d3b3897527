"""Who jobs without a container run as."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest

from pool.runner.account import ACCOUNT_FILE, job_user
from pool.runner.ledger import RefusedError

OTHER = next(who for who in pwd.getpwall() if who.pw_uid != os.getuid())


def test_without_an_account_they_run_as_whoever_asks(tmp_path: Path) -> None:
    """With all that this user has."""
    assert job_user(str(tmp_path), OTHER.pw_uid) == OTHER


def test_with_an_account_nobody_runs_as_root_because_root_asks(tmp_path: Path) -> None:
    """Whoever asks; the home is one that the account may write to."""
    (tmp_path / ACCOUNT_FILE).write_text(f"{OTHER.pw_name}\n")
    who = job_user(str(tmp_path), 0)
    assert (who.pw_name, who.pw_uid, who.pw_gid) == (OTHER.pw_name, OTHER.pw_uid, OTHER.pw_gid)
    assert who.pw_dir == str(tmp_path / "home")


def test_an_account_that_has_gone_is_not_replaced_by_another_user(tmp_path: Path) -> None:
    """Root may be asking."""
    (tmp_path / ACCOUNT_FILE).write_text("no-such-user\n")
    with pytest.raises(RefusedError, match="no-such-user that jobs run as has gone") as caught:
        job_user(str(tmp_path), 0)
    assert caught.value.cause == "no_account"
