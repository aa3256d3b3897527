"""Who asks, and which jobs are theirs: a server may see and touch those of its own pool alone."""

from __future__ import annotations

from pool.runner.jobs import JobFolder
from pool.runner.ledger import Ledger, RefusedError


class Peer:
    """Who speaks on one connection: the uid the kernel names, and the pool it said hello for."""

    def __init__(self, uid: int) -> None:
        self.uid = uid
        self.pool = ""
        self.epoch = 0
        self.ssh_ip: str | None = None


class Owners:
    """Whose the jobs of one state folder are."""

    def __init__(self, state: str, ledger: Ledger) -> None:
        self._state, self._ledger = state, ledger

    def own(self, peer: Peer, job: str, must_exist: bool = True) -> JobFolder:
        """The job's folder, of the asking pool; another pool's job is refused."""
        folder = JobFolder(self._state, job)
        owner = folder.pool
        if owner not in (None, peer.pool) or self._ledger.pool_of(folder.job) not in (None, peer.pool):
            raise RefusedError("not_yours", "job {} belongs to another pool".format(folder.job))
        if must_exist and owner is None:
            raise RefusedError("no_such_job", "job {} is not on this host".format(folder.job))
        return folder
