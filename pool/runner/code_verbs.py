"""What a server may ask about folders: to have one here, piece by piece.

    code_list    the folder's list (its manifest), in pieces; the answer to the last tells which contents are wanted
    code_write   a piece of these contents, in the order of the list, as one stream
    code_finish  all pieces are here

`reserve` tells whether any of it is needed.
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any, Callable, Container

from pool.runner import policy
from pool.runner.code import DEFAULT_GB, Code
from pool.runner.ledger import RefusedError
from pool.runner.manifest import MAX_BYTES

if TYPE_CHECKING:
    from pool.runner.peer import Peer

#: Lists that are on their way in at once, over all servers.
_LISTS_MAX = 16


class CodeVerbs:
    """The verbs, and what jobs have been promised."""

    def __init__(self, state: str, path: str, live: Callable[[], Container[str]]) -> None:
        """`live()`: the jobs that hold or reserve something of this host."""
        self._state, self._live = state, live
        self._lock = threading.Lock()
        self._lists: dict[tuple[str, str], bytearray] = {}
        self._promised: dict[str, str] = {}
        # Jobs may have a disk of their own, and a folder is only renamed within one. No job has such an id.
        self.code = Code(path, self._limit, self._needed, os.path.join(state, "jobs", ".trees"))

    def promise(self, job: str, sha256: str) -> bool:
        """True when the folder is here; it then stays until the job has it, or is no more."""
        with self._lock:
            self._promised[job] = sha256
        return self.code.has(sha256)

    def made(self, job: str) -> None:
        """The job has its folder."""
        with self._lock:
            self._promised.pop(job, None)

    def verb_code_list(self, peer: Peer, head: dict[str, Any], body: bytes) -> Any:
        """One piece of a folder's list: `sha256`, its `offset`, `size` of the whole.

        The last answers `{"upload", "bytes"}` and, as body, a bit for each content; no upload when none is wanted.
        """
        sha256, offset, size = str(head["sha256"]), int(head["offset"]), int(head["size"])
        if size > MAX_BYTES:
            raise RefusedError("bad_manifest", "the folder's list has more than {} MiB".format(MAX_BYTES >> 20))
        with self._lock:
            if offset == 0:
                while len(self._lists) >= _LISTS_MAX:
                    del self._lists[next(iter(self._lists))]
                self._lists[peer.pool, sha256] = bytearray()
            data = self._lists.get((peer.pool, sha256))
            if data is None or len(data) != offset or offset + len(body) > size:
                raise RefusedError("no_upload", "this upload is over; it is begun again")
            data += body
            if len(data) < size:
                return {}
            del self._lists[peer.pool, sha256]
        upload, wanted, count = self.code.begin(sha256, bytes(data))
        return {"upload": upload, "bytes": count}, wanted

    def verb_code_write(self, _: Peer, head: dict[str, Any], body: bytes) -> dict[str, Any]:
        """Keep one piece of the contents."""
        self.code.write(str(head["upload"]), int(head["offset"]), body)
        return {}

    def verb_code_finish(self, _: Peer, head: dict[str, Any], __: bytes) -> dict[str, Any]:
        """The contents are all here: keep them."""
        self.code.finish(str(head["upload"]))
        return {}

    def _needed(self) -> list[str]:
        """What jobs were promised that have not got it yet."""
        live = self._live()
        with self._lock:
            self._promised = {job: sha256 for job, sha256 in self._promised.items() if job in live}
            return list(self._promised.values())

    def _limit(self) -> int:
        """Bytes that code may take here: `code_gb` of policy.json."""
        try:
            allowed = policy.read(self._state).get("code_gb", DEFAULT_GB)
        except RefusedError:
            return 1 << 62  # what it meant is not known, so nothing is removed
        if isinstance(allowed, bool) or not isinstance(allowed, (int, float)) or allowed < 0:
            return 1 << 62
        return int(allowed * (1 << 30))
