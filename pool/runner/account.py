"""Who jobs without a container run as.

A runner that runs as root has an account, which servers log in as too: its name is in the state folder, written by the
role that made it. A runner without one runs jobs as whoever asks.
"""

from __future__ import annotations

import os
import pwd

from pool.runner.ledger import RefusedError

ACCOUNT_FILE = "account"


def job_user(state: str, asking: int) -> pwd.struct_passwd:
    """The user that a job gets which the user `asking` has asked for; `pw_dir` is the job's home.

    Refused: an account that has gone, for whoever asks may have more rights than a job should.
    """
    try:
        with open(os.path.join(state, ACCOUNT_FILE)) as file:
            name = file.read().strip()
    except FileNotFoundError:
        return pwd.getpwuid(asking)
    try:
        found = list(pwd.getpwnam(name))
    except KeyError:
        raise RefusedError("no_account", "the user {} that jobs run as has gone from the host".format(name)) from None
    # Of its entry's home sshd reads who may log in, so jobs must not write there: they get a folder of their own.
    found[5] = os.path.join(state, "home")
    return pwd.struct_passwd(found)
