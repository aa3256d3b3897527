"""Profiles: named policies that lie under every task file of a folder or of a user.

`FOLDER/.dstack/profiles.yml` counts before `~/.dstack/profiles.yml`; `--profile NAME`, else the one with
`default: true`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Annotated

from pydantic import Field

from pool.errors import InputError, TaskError
from pool.task.document import MAX_BYTES, Document, read_document
from pool.task.load import validate
from pool.task.policy import Policy
from pool.task.scalar import filled, show, truth
from pool.task.shapes import TRUTH, WORD
from pool.task.written import Form

_NAMES = ("profiles.yml", "profiles.yaml")


class Profile(Policy):
    """One profile of a profiles file."""

    name: Annotated[str, Form(filled, WORD)] = Field(description="Its name.")
    default: Annotated[bool, Form(truth, TRUTH)] = Field(
        default=False, description="Whether it counts where no `--profile` is given."
    )


def find_profile(folder: str, name: str | None = None, home: str | None = None) -> Profile | None:
    """The profile for a run from `folder`: the one called `name`, else the default one; None where there is none.

    TaskError for a profiles file that is not valid, InputError when no file has the name.
    """
    home = os.path.expanduser("~") if home is None else home
    seen: list[str] = []
    for path in _files(folder, home):
        with open(path, "rb") as file:
            profiles = parse_profiles(file.read(MAX_BYTES + 1), path)
        for profile in profiles:
            if profile.name == name or (name is None and profile.default):
                return profile
        seen += [profile.name for profile in profiles]
    if name is None:
        return None
    known = f"there are: {', '.join(seen)}" if seen else "there are none"
    raise InputError(
        f"no profile {show(name)}; {known}", hint=f"add it to {os.path.join(folder, '.dstack', _NAMES[0])}"
    )


def parse_profiles(text: bytes, source: str) -> tuple[Profile, ...]:
    """Every profile of a file; TaskError when it is not one, or two share a name or are both the default."""
    document = read_document(text, source)
    value = document.value
    if not isinstance(value, dict) or list(value) != ["profiles"] or not isinstance(value["profiles"], list):
        raise document.error("a profiles file is a mapping with the key profiles, a list", "write `profiles:` first")
    found: list[Profile] = []
    for i, item in enumerate(value["profiles"]):
        profile = validate(Profile, item, ("profiles", i), document)
        _refuse_second(profile, found, i, document)
        found.append(profile)
    return tuple(found)


def _refuse_second(profile: Profile, before: list[Profile], i: int, document: Document) -> None:
    for other in before:
        if other.name == profile.name:
            raise _second(document, i, "name", f"two profiles are called {show(profile.name)}")
        if other.default and profile.default:
            raise _second(document, i, "default", f"{other.name} is the default profile already")


def _second(document: Document, i: int, key: str, message: str) -> TaskError:
    return document.error(message, "change or remove one of the two", ("profiles", i, key))


def _files(folder: str, home: str) -> Iterator[str]:
    for parent in dict.fromkeys((folder, home)):
        for name in _NAMES:
            path = os.path.join(parent, ".dstack", name)
            if os.path.isfile(path):
                yield path
                break
