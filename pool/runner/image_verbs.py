"""What a server may ask about container images; see service.py."""

from __future__ import annotations

from typing import Any

from pool.runner.image import Images
from pool.runner.ledger import Ledger
from pool.runner.peer import Owners, Peer


class ImageVerbs:
    """One method a verb."""

    def __init__(self, images: Images, ledger: Ledger, owners: Owners) -> None:
        self._images, self._ledger, self._owners = images, ledger, owners

    def verb_image(self, peer: Peer, head: dict[str, Any], _: bytes) -> dict[str, Any]:
        """Have a container image here for a job; `{"image": None}` when that takes longer than `wait_s`: ask again."""
        return self._have(head, self._owners.own(peer, head["job"], must_exist=False).job)

    def verb_pull(self, _: Peer, head: dict[str, Any], __: bytes) -> dict[str, Any]:
        """The same for no job, in advance."""
        return self._have(head)

    def verb_images(self, _: Peer, __: dict[str, Any], ___: bytes) -> dict[str, Any]:
        """The images that are here, and the jobs that use them."""
        return {"images": self._images.listed(self._ledger.snapshot())}

    def _have(self, head: dict[str, Any], job: str = "") -> dict[str, Any]:
        wait_s = min(float(head.get("wait_s", 0)), 30.0)
        return self._images.ready(str(head["name"]), head.get("login"), wait_s, head.get("pinned"), job)
