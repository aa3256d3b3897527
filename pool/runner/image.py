"""Container images of this host: what a name means now, and the image itself, had before a job starts.

What a name means is asked of its registry once a run, on one host: `repository@sha256:…`. Every host of the run then
has that very image, whatever the tag means by then.
"""

from __future__ import annotations

import time
from typing import Any

from pool.runner import reference
from pool.runner.engine import Engine, EngineError, EngineGoneError
from pool.runner.ledger import RefusedError
from pool.runner.pull import Pulls, refusal, timed_out
from pool.runner.shelf import Shelf

_LOOK_S = 10.0
#: How long a registry may take to say what a name means: where a copy is here, and where there is none.
_ASK_S, _ASK_LONG_S = 3.0, 15.0
#: One that could not be reached is not asked again for so long, where a copy is here.
_SILENT_S = 60.0
#: Why a registry does not tell what a name means: it cannot; it will not.
_CANNOT_TELL, _SAYS_NO = ("registry_unreachable", "rate_limited"), ("refused_login", "no_such_image")
_CONTAINERD = "io.containerd.snapshotter.v1"
#: Host architecture -> what it can run, by Docker's names.
_RUNS = {"amd64": {"amd64", "386"}, "arm64": {"arm64", "arm"}}
_MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}


class Images:
    """Brings images to the host of one state folder. Safe to use from several threads."""

    def __init__(self, state: str) -> None:
        self._engine = Engine()
        self.shelf = Shelf(state, self._engine)
        self._pulls = Pulls(self._engine, self.shelf.keep)
        self._silent: dict[str, float] = {}
        self._machine = ""

    def ready(
        self, name: str, login: list[str] | None, wait_s: float, pinned: str | None = None, job: str = ""
    ) -> dict[str, Any]:
        """`{"image": its id, "pinned", "said"}` once it is here, else, after `wait_s`, with `"image": None` and
        `"progress"`: ask again, with the `pinned` that was answered.

        `pinned` is the name with its digest, which other hosts take as it is; empty where it is in no registry and
        each host has its own copy; None to find out. `said` is what else there is to say of that. The image stays
        while `job` is here. RefusedError with the cause when it cannot be had.
        """
        try:
            said = ""
            if pinned is None:
                pinned, said = self._meaning(name, login)
            exact, progress = pinned or name, ""
            image = self._take(exact, name, job)
            if image is None and not pinned:
                text = "image {}: it is in no registry, and this host has none of that name".format(name)
                raise RefusedError("no_such_image", text)
            if image is None:
                pull = self._pulls.of(exact, login, job)
                if pull.done.wait(wait_s):
                    pull.waiting.discard(job)
                    self._raise(name, pull.problem, login)
                    image = self._take(exact, name, job)
                else:
                    progress = pull.progress()
        except EngineGoneError as error:
            raise RefusedError("no_docker", str(error)) from error
        if image is None and not progress:
            raise RefusedError("no_such_image", "image {}: it was pulled, and is not here".format(name))
        found = self._fitting(name, image) if image else None
        return {"image": found, "pinned": pinned, "said": said, "progress": progress}

    def find(self, name: str) -> dict[str, Any] | None:
        """What the engine knows about an image that is here, by name or id; None when it is not. RefusedError."""
        reference.check(name)
        try:
            found: dict[str, Any] = self._engine.ask("GET", "/images/{}/json".format(name), timeout_s=_LOOK_S)
        except EngineError as error:
            if error.code == 404:
                return None
            if error.code == 400:
                text = "image {}: that is not the name of an image ({})".format(name, error)
                raise RefusedError("bad_image", text) from error
            raise RefusedError("no_docker", "image {}: {}".format(name, error)) from error
        except EngineGoneError as error:
            raise RefusedError("no_docker", str(error)) from error
        return found

    def listed(self, live: dict[str, Any]) -> list[dict[str, Any]]:
        """As of Shelf; RefusedError where no engine tells."""
        try:
            return self.shelf.listed(live)
        except (EngineError, EngineGoneError) as error:
            raise RefusedError("no_docker", str(error)) from error

    def _take(self, exact: str, name: str, job: str) -> dict[str, Any] | None:
        """The image, if it is here; from now on it is not cleared away while the job is."""
        with self.shelf.still:
            image = self.find(exact)
            if image is not None:
                self.shelf.take(exact, name, image, job)
        return image

    def _meaning(self, name: str, login: list[str] | None) -> tuple[str, str]:
        """The name with the digest that it means now, and what there is to say of it.

        A copy that is here does where its registry cannot be asked. One that pool pulled, with whatever login that
        took, is no way round a registry that says no, by whatever name it is asked for.
        """
        exact = reference.pinned(name, reference.digest(name)) if reference.digest(name) else ""
        if exact and not self.shelf.pulled(exact):
            return exact, ""  # to pull it is to ask
        here = self.find(name)
        if here and not exact and reference.is_id(name) and not here.get("RepoTags"):
            exact = self.shelf.pulled_as(str(here["Id"]))
        theirs = reference.pinned_in(here, name) if here else ""
        if here and not exact and (not theirs or self._was_made_here(here)):
            return "", "it is in no registry: each host uses its own copy"
        copy = exact or self.shelf.newest(name) or theirs
        try:
            told = self._ask_registry(exact or name, login, bool(copy))
            return exact or reference.pinned(name, told), ""
        except RefusedError as error:
            own = not login and not self.shelf.pulled(copy)  # a person's, who had it by a way of their own
            if not copy or not (error.cause in _CANNOT_TELL or (own and error.cause in _SAYS_NO)):
                raise
            return copy, "its registry does not tell it ({}): a copy is used that is here".format(error.cause)

    def _was_made_here(self, image: dict[str, Any]) -> bool:
        """True for what a person built or tagged, though it has a digest: containerd's store gives one to every image.

        What pool pulls has no tag.
        """
        status = self._engine.ask("GET", "/info", timeout_s=_LOOK_S).get("DriverStatus") or ()
        return ["driver-type", _CONTAINERD] in [list(each) for each in status] and bool(image.get("RepoTags"))

    def _ask_registry(self, name: str, login: list[str] | None, has_copy: bool) -> str:
        server, limit = reference.registry(name), _ASK_S if has_copy else _ASK_LONG_S
        if has_copy and time.monotonic() < self._silent.get(server, 0.0):
            raise RefusedError("registry_unreachable", "image {}: its registry could not be reached".format(name))
        headers, path = reference.header(name, login), "/distribution/{}/json".format(name)
        try:
            answer = self._engine.ask("GET", path, headers=headers, timeout_s=limit)
            self._silent.pop(server, None)
            return str(answer["Descriptor"]["digest"])
        except EngineError as error:
            found = refusal(name, str(error), self._arch(), bool(login))
        except EngineGoneError as error:
            if not timed_out(error):
                raise
            text = "image {}: its registry cannot be reached (no answer within {:.0f} s)".format(name, limit)
            found = RefusedError("registry_unreachable", text)
        if found.cause == "registry_unreachable":
            self._silent[server] = time.monotonic() + _SILENT_S
        raise found

    def _raise(self, name: str, problem: RefusedError | str, login: list[str] | None) -> None:
        if isinstance(problem, RefusedError):
            raise problem
        if problem:
            raise refusal(name, problem, self._arch(), bool(login))

    def _fitting(self, name: str, image: dict[str, Any]) -> str:
        arch, has = self._arch(), str(image.get("Architecture") or "")
        if has and arch in _RUNS and has not in _RUNS[arch]:
            text = "image {}: it is for {} hosts, and this one is {}".format(name, has, arch)
            raise RefusedError("wrong_platform", text)
        return str(image["Id"])

    def _arch(self) -> str:
        if not self._machine:
            self._machine = str(self._engine.ask("GET", "/info", timeout_s=_LOOK_S)["Architecture"])
        return _MACHINES.get(self._machine, self._machine)
