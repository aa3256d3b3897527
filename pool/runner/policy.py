"""What the operator of this host allows jobs and sets for them: `policy.json` of the runner's state folder.

    {"volumes": ["/data"], "privileged": true, "docker": true, "pids": 4096, "images_gb": 200,
     "code_gb": 50}

Without that file nothing is allowed. It is read for each job, so that a change holds from the next one on.
"""

from __future__ import annotations

import os
from typing import Any

from pool.runner import durable
from pool.runner.ledger import RefusedError

FILE = "policy.json"


def read(state: str) -> dict[str, Any]:
    """The policy. RefusedError for a file that is none: what it meant to forbid or to limit is not known."""
    path = os.path.join(state, FILE)
    found = durable.read_json(path)
    if found is None and os.path.exists(path):
        raise RefusedError("bad_policy", "{} of this host is not a JSON object".format(path))
    return found or {}


def refused(state: str, what: str, example: str) -> RefusedError:
    """Says that the operator does not allow `what`, and what would."""
    path = os.path.join(state, FILE)
    return RefusedError("not_allowed", "{}; to allow it, write {} into {} there".format(what, example, path))
