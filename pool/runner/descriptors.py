"""How many files the runner may have open: each stream takes some. What it starts for jobs has the usual number."""

from __future__ import annotations

import contextlib
import resource

_MOST = 1 << 16
_usual = resource.getrlimit(resource.RLIMIT_NOFILE)


def take() -> None:
    """As many as may be, for this process."""
    soft, hard = _usual
    most = _MOST if hard == resource.RLIM_INFINITY else min(hard, _MOST)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def usual(pid: int) -> None:
    """As many as this process began with, for a child that has just been started."""
    with contextlib.suppress(ProcessLookupError):
        resource.prlimit(pid, resource.RLIMIT_NOFILE, _usual)
