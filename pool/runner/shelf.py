"""The images that are here: who uses them, when one was last used, and which may go when they take too much.

Only what pool itself pulled is ever removed, and of that only what nobody has given another name, no container was made
of and no job here has been promised. `images.json` in the state folder remembers it; `images_gb` in `policy.json` says
how much it may take: `{"images_gb": 200}`; without that nothing is removed.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from typing import Any, Callable

from pool.runner import durable, policy, reference
from pool.runner.container import LABEL_JOB
from pool.runner.engine import Engine, EngineError
from pool.runner.jobs import JobFolder
from pool.runner.ledger import HELD, RefusedError

FILE = "images.json"
_TIDY_EVERY_S = 2.0
_ASK_S = 30.0
_REMOVE_S = 300.0


class Shelf:
    """The images of the host of one state folder. Safe to use from several threads."""

    def __init__(self, state: str, engine: Engine) -> None:
        self._state, self._engine = state, engine
        self._path = os.path.join(state, FILE)
        #: Held while an image is looked for and taken, and while some are removed.
        self.still = threading.RLock()
        self._known = _read(self._path)  # pinned name -> {"id", "names", "at", "pulled"}
        self._taken: dict[str, str] = {}  # job -> id of its image
        self._dirty = False
        self._look = True

    def keep(self, exact: str) -> None:
        """It was pulled, by us: remembered before anybody is told."""
        with self.still:
            image = self._engine.ask("GET", "/images/{}/json".format(exact), timeout_s=_ASK_S)
            entry = self._known.setdefault(exact, _entry())
            entry.update(id=str(image["Id"]), pulled=True, at=time.time())
            durable.write_json(self._path, {"images": self._known})
            self._look = True

    def take(self, exact: str, name: str, image: dict[str, Any], job: str) -> None:
        """An image that is here is used, by `job` or to be had in advance."""
        with self.still:
            entry = self._known.setdefault(exact, _entry())
            names = [name, *(each for each in entry["names"] if each != name)]
            entry.update(id=str(image["Id"]), at=time.time(), names=names[:8])
            self._dirty = True
            if job:
                self._taken[job] = str(image["Id"])

    def newest(self, name: str) -> str:
        """The pinned name of the image that `name` meant last, if that is here; else nothing."""
        with self.still:
            for exact, entry in sorted(self._known.items(), key=lambda item: -float(item[1]["at"])):
                if name in entry["names"] and reference.digest(exact) and self._is_here(exact):
                    return exact
        return ""

    def pulled(self, exact: str) -> bool:
        """True for an image that pool itself pulled, with whatever login that took."""
        with self.still:
            return bool(self._known.get(exact, _entry())["pulled"])

    def pulled_as(self, image: str) -> str:
        """The pinned name of an image, by its id, that pool itself pulled; nothing for another."""
        with self.still:
            return next((exact for exact, each in self._known.items() if each["id"] == image and each["pulled"]), "")

    def tidy_forever(self, ledger: Callable[[], dict[str, Any]]) -> None:
        """Every few seconds: remove what may go and has to. `ledger()`: its entries, by job."""
        while True:
            try:
                while self.tidy(ledger):
                    pass
            except Exception as error:  # a full disk: look again
                sys.stderr.write("images: {!r}\n".format(error))
            time.sleep(_TIDY_EVERY_S)

    def tidy(self, ledger: Callable[[], dict[str, Any]]) -> bool:
        """Remove one image if it may go and has to; True when another has to as well. Asks nobody for nothing."""
        with self.still:
            live = ledger()  # now that nobody can be promised anything more
            ended = [job for job in self._taken if job not in live]
            for job in ended:
                self._use(self._taken.pop(job))
            if self._dirty:
                durable.write_json(self._path, {"images": self._known})
                self._dirty = False
            self._look = self._look or bool(ended)
            # One that is reserved and has not asked for its image yet may be promised any.
            if not self._look or any(e["state"] != HELD and job not in self._taken for job, e in live.items()):
                return False
            limit = self._limit()
            self._look = limit is not None and not self._reduce(limit, live)
            return self._look

    def listed(self, live: dict[str, Any]) -> list[dict[str, Any]]:
        """Every image that is here: `{"names", "id", "digest", "size", "last_used", "pulled", "jobs"}`."""
        with self.still:
            found = []
            users = self._users(live)
            for image in self._engine.ask("GET", "/images/json", timeout_s=_ASK_S):
                digests = image.get("RepoDigests") or []
                mine = [(exact, entry) for exact, entry in self._known.items() if entry["id"] == image["Id"]]
                names = [*(image.get("RepoTags") or []), *(name for _, entry in mine for name in entry["names"])]
                digests = [each for each in digests if "<none>" not in each]
                found.append(
                    {
                        "names": list(dict.fromkeys(name for name in names if "<none>" not in name)),
                        "id": image["Id"],
                        "digest": reference.digest(digests[0]) if digests else None,
                        "size": int(image["Size"]),
                        "last_used": max((entry["at"] for _, entry in mine), default=None),
                        "pulled": any(entry["pulled"] for _, entry in mine),
                        "jobs": sorted(job for job in users.get(image["Id"], ()) if job),
                    }
                )
        return found

    # -- inside -------------------------------------------------------------------------------------------------

    def _reduce(self, limit: int, live: dict[str, Any]) -> bool:
        """Where what was pulled takes more than `limit` bytes, remove the least recently used; True: no more may go.

        One at a time: who wants an image waits meanwhile.
        """
        images = {each["Id"]: each for each in self._engine.ask("GET", "/images/json", timeout_s=_ASK_S)}
        self._forget_gone(images)
        users = self._users(live)
        pulled = sorted((entry["at"], exact) for exact, entry in self._known.items() if entry["pulled"])
        left = sum(int(images[image]["Size"]) for image in {self._known[exact]["id"] for _, exact in pulled})
        for _, exact in pulled:
            image = images[self._known[exact]["id"]]
            tags = [tag for tag in image.get("RepoTags") or () if "<none>" not in tag]
            if left > limit and not tags and image["Id"] not in users and self._remove(exact):
                return False
        return True

    def _remove(self, exact: str) -> bool:
        """Remove an image by the name it was pulled under; the engine refuses what a container needs."""
        try:
            self._engine.ask("DELETE", "/images/{}".format(exact), timeout_s=_REMOVE_S)
        except EngineError as error:
            sys.stderr.write("image {} stays: {}\n".format(exact, error))
            return False
        sys.stderr.write("image {} was removed: it was used least recently\n".format(exact))
        del self._known[exact]
        durable.write_json(self._path, {"images": self._known})
        return True

    def _users(self, live: dict[str, Any]) -> dict[str, set[str]]:
        """Id of an image -> the jobs it is for; "" stands for a container that is of no job."""
        found: dict[str, set[str]] = {}
        for made in self._engine.ask("GET", "/containers/json", timeout_s=_ASK_S, all="1"):
            found.setdefault(str(made["ImageID"]), set()).add((made.get("Labels") or {}).get(LABEL_JOB, ""))
        for job in live:
            image = self._taken.get(job) or self._prepared(job)
            if image:
                found.setdefault(image, set()).add(job)
        return found

    def _prepared(self, job: str) -> str:
        """The image of a job that was made ready before this runner started; nothing for one without a container."""
        try:
            spec = JobFolder(self._state, job).spec
        except RefusedError:
            return ""
        return str(spec.get("container", {}).get("config", {}).get("Image") or "")

    def _forget_gone(self, images: dict[str, Any]) -> None:
        """What somebody has removed is not ours any more, also when somebody else brings it back."""
        for exact, entry in list(self._known.items()):
            known = images.get(entry["id"], {}).get("RepoDigests") or []
            if entry["id"] not in images or (entry["pulled"] and not _names(known, exact)):
                del self._known[exact]
                self._dirty = True

    def _use(self, image: str) -> None:
        for entry in self._known.values():
            if entry["id"] == image:
                entry["at"] = time.time()
                self._dirty = True

    def _is_here(self, exact: str) -> bool:
        try:
            self._engine.ask("GET", "/images/{}/json".format(exact), timeout_s=_ASK_S)
        except EngineError:
            return False
        return True

    def _limit(self) -> int | None:
        """In bytes; None without one."""
        try:
            allowed = policy.read(self._state).get("images_gb")
        except RefusedError as error:
            sys.stderr.write("{}: no image is removed\n".format(error))
            return None
        if allowed is None:
            return None
        if isinstance(allowed, bool) or not isinstance(allowed, (int, float)) or allowed < 0:
            sys.stderr.write("policy.json: images_gb is a number of GB, not {!r}: nothing is removed\n".format(allowed))
            return None
        return int(allowed * (1 << 30))


def _names(digests: list[str], exact: str) -> bool:
    """True when the engine still has the image under this very name."""
    return bool(reference.pinned_in({"RepoDigests": digests}, exact)) and any(
        reference.digest(each) == reference.digest(exact) for each in digests
    )


def _entry() -> dict[str, Any]:
    return {"id": "", "names": [], "at": 0.0, "pulled": False}


def _read(path: str) -> dict[str, dict[str, Any]]:
    """What is remembered; of a file that cannot be read nothing is, so that nothing of it is removed."""
    found = {}
    try:
        for exact, entry in ((durable.read_json(path) or {}).get("images") or {}).items():
            found[str(exact)] = {
                "id": str(entry["id"]),
                "names": [str(name) for name in entry["names"]],
                "at": float(entry["at"]),
                "pulled": entry["pulled"] is True,
            }
    except (KeyError, TypeError, ValueError, AttributeError):
        return {}
    return found
