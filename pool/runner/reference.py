"""The name of a container image, taken apart: `python`, `ann/train:7`, `registry:5000/train@sha256:…`, or its id."""

from __future__ import annotations

import base64
import json
import re
from typing import Any

from pool.runner.ledger import RefusedError

_HUB = "docker.io"
_HUBS_LOGIN = "https://index.docker.io/v1/"


def check(name: str) -> None:
    """RefusedError for what can be no name; it becomes part of a URL."""
    if not name or name != name.strip() or not name.isprintable() or re.search(r"[\s?#%\\]|[^\x00-\x7f]|\.\./", name):
        raise RefusedError("bad_image", "{!r} is not the name of an image".format(name))


def is_id(name: str) -> bool:
    """True for what may be an image's id, or the beginning of one."""
    return bool(re.fullmatch("(sha256:)?[0-9a-f]{4,64}", name))


def digest(name: str) -> str:
    """`sha256:…` of a name that says exactly which image it means; else nothing."""
    return name.partition("@")[2]


def repository(name: str) -> str:
    """The name without its tag and digest; a port of a registry is no tag."""
    plain = name.partition("@")[0]
    first, slash, last = plain.rpartition("/")
    return first + slash + last.partition(":")[0]


def pinned(name: str, to: str) -> str:
    """The name of the very image with the digest `to`, in the repository of `name`."""
    return "{}@{}".format(repository(name), to)


def pinned_in(image: dict[str, Any], name: str) -> str:
    """`name`, pinned to what an image that is here was pulled as; nothing where it came from no registry."""
    mine = _short(repository(name))
    for each in image.get("RepoDigests") or ():
        if _short(repository(each)) == mine:
            return pinned(name, digest(each))
    return ""


def registry(name: str) -> str:
    """Who serves it: `registry:5000`, else Docker's own."""
    first, slash, _ = name.partition("/")
    is_host = slash and ("." in first or ":" in first or first == "localhost")
    return first if is_host else _HUB


def header(name: str, login: list[str] | None) -> dict[str, str]:
    """The login as the engine wants it, in a header; it is for the registry of this image alone."""
    if not login:
        return {}
    server = registry(name)
    auth = {
        "username": login[0],
        "password": login[1],
        "serveraddress": _HUBS_LOGIN if server == _HUB else server,
    }
    return {"X-Registry-Auth": base64.urlsafe_b64encode(json.dumps(auth).encode()).decode()}


def _short(repo: str) -> str:
    """As Docker lists it: `python` for `docker.io/library/python`."""
    for start in ("index.docker.io/", "docker.io/"):
        if repo.startswith(start):
            repo = repo[len(start) :]
    return repo[len("library/") :] if repo.startswith("library/") else repo
