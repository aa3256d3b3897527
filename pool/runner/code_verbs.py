"""How a server brings the uploaded folder here; see service.py."""

from __future__ import annotations

from typing import Any

from pool.runner.archive import Archives
from pool.runner.peer import Peer


class CodeVerbs:
    """One method a verb."""

    def __init__(self, archives: Archives) -> None:
        self._archives = archives

    def verb_code_write(self, _: Peer, head: dict[str, Any], body: bytes) -> dict[str, Any]:
        """Keep one piece of an archive."""
        self._archives.write(head["sha256"], int(head["offset"]), body)
        return {}

    def verb_code_finish(self, _: Peer, head: dict[str, Any], __: bytes) -> dict[str, Any]:
        """The archive is complete: check and keep it."""
        if not self._archives.has(head["sha256"]):
            self._archives.finish(head["sha256"])
        return {}
