"""The task file: every field a person may write, its form, its default, and what it does on a pool."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from typing import Annotated, Any

from pydantic import Field, model_validator

from pool.run import Port
from pool.task.duration import parse_limit
from pool.task.env import Env, parse_env
from pool.task.mistake import mistake
from pool.task.mount import parse_file, parse_home_dir, parse_repo, parse_volume, parse_working_dir
from pool.task.policy import Limit, Policy
from pool.task.port import parse_ports
from pool.task.resources import Resources
from pool.task.scalar import commands, filled, listed, one_of, show, text, truth, whole
from pool.task.shapes import (
    COMMANDS,
    ENTRYPOINT,
    ENV,
    LIMIT,
    MOUNTS,
    NONE,
    PORTS,
    PYTHON,
    TRUTH,
    WORD,
    pattern,
    whole_number,
    words,
)
from pool.task.written import Form, Written

TASK, DEV_ENVIRONMENT = "task", "dev-environment"
PYTHONS = tuple(f"3.{minor}" for minor in range(8, 14))
NODES_MAX = 10_000
ENTRYPOINT_MAX = 10_000
#: Fields of a dev-environment only.
DEV_ONLY = ("ide", "inactivity_duration", "init", "version")

_NAME = r"^[a-z][a-z0-9-]{1,40}$"


def parse_name(value: Any) -> str:
    """2 to 41 small letters, digits and dashes, a letter first."""
    found = text(value)
    if not re.fullmatch(_NAME[1:-1], found):
        suggestion = re.sub(r"[^a-z0-9]+", "-", found.lower()).lstrip("-0123456789")[:41].rstrip("-")
        fix = suggestion if re.fullmatch(_NAME[1:-1], suggestion) else "train-1"
        raise mistake(
            f"{show(found)} is not a run name: 2 to 41 of a-z, 0-9 and -, a letter first", f"write name: {fix}"
        )
    return found


def parse_python(value: Any) -> str:
    """3.8 to 3.13; an unquoted 3.1 can only mean 3.10."""
    found = text(value).strip()
    if found == "3.1" and type(value) is not str:
        found = "3.10"
    if found not in PYTHONS:
        raise mistake(
            f"python {show(found)} is not one of {', '.join(PYTHONS)}", 'write it in quotes, such as python: "3.11"'
        )
    return found


def parse_entrypoint(value: Any) -> str:
    """A command line, split like a shell would; a list of words is joined."""
    if isinstance(value, (list, tuple)):
        value = shlex.join(listed(text, "words")(value))
    found = filled(value)
    if len(found) > ENTRYPOINT_MAX:
        raise mistake(f"entrypoint is longer than {ENTRYPOINT_MAX} characters", "put it into a script of the folder")
    try:
        shlex.split(found)
    except ValueError:
        raise mistake("the quotes in entrypoint are not closed", "close them") from None
    return found


def parse_shell(value: Any) -> str:
    """sh, bash, or the absolute path of a shell."""
    found = filled(value)
    if found not in ("sh", "bash") and not found.startswith("/"):
        raise mistake(f"shell is sh, bash or a path, not {show(value)}", "write shell: bash")
    return found


def _refuse_groups(value: Any) -> tuple[str, ...]:
    if value == [] or value == ():
        return ()
    raise mistake("groups are not supported yet", "write one file for each group of nodes")


Text = Annotated[str, Form(filled, WORD)]
Truth = Annotated[bool, Form(truth, TRUTH)]
Commands = Annotated[tuple[str, ...], Form(commands, COMMANDS)]


def _mounts(read: Callable[[Any], str], what: str) -> Form:
    return Form(listed(read, what), MOUNTS)


class RegistryAuth(Written):
    """Who pulls the image from a private registry."""

    username: Annotated[str, Form(filled, WORD)] = Field(description="The account.")
    password: Annotated[str, Form(filled, WORD)] = Field(
        description="Its password or token; `${{ env.NAME }}` keeps it out of the file."
    )

    def __repr__(self) -> str:
        return f"RegistryAuth(username={self.username!r}, password=…)"

    __str__ = __repr__


class TaskConfig(Policy):
    """A task file, as written."""

    type: Annotated[str, Form(one_of("type", (TASK, DEV_ENVIRONMENT)), words(TASK, DEV_ENVIRONMENT))] = Field(
        description="`task` runs to its end; `dev-environment` stays up until it is stopped."
    )
    name: Annotated[str | None, Form(parse_name, pattern("run name", _NAME))] = Field(
        None, description="Name of the run; made up when not written."
    )
    nodes: Annotated[int, Form(whole("nodes", 1, NODES_MAX), whole_number(1))] = Field(
        1, description="How many nodes run it together, all or none."
    )
    commands: Commands = Field((), description="Shell commands, one after the other; a failing one stops the rest.")
    setup: Commands = Field((), description="Commands before `commands`.")
    image: Text | None = Field(None, description="Container image. `commands` or `image` must be written.")
    entrypoint: Annotated[str | None, Form(parse_entrypoint, ENTRYPOINT)] = Field(
        None,
        description="Split like a shell would, run without one; each of `commands` is then one argument of it.",
    )
    python: Annotated[str | None, Form(parse_python, PYTHON)] = Field(
        None, description="Python of the default image; not together with `image`."
    )
    shell: Annotated[str | None, Form(parse_shell, WORD)] = Field(
        None, description="`sh`, `bash` or a path; `bash` where there is one, else `sh`."
    )
    env: Annotated[Env, Form(parse_env, ENV)] = Field(
        {}, description="Environment: `NAME=value`, or `NAME` for the caller's value; a list or a map."
    )
    working_dir: Annotated[str, Form(parse_working_dir, WORD)] = Field(
        ".", description="Where commands start, relative to the folder and inside it."
    )
    home_dir: Annotated[str, Form(parse_home_dir, pattern("absolute path", "^/"))] = Field(
        "/root", description="HOME inside a container."
    )
    user: Annotated[str | None, Form(filled, WORD)] = Field(
        None, description="User inside the container; the image's own when not written."
    )
    registry_auth: RegistryAuth | None = Field(None, description="Login for a private registry.")
    ports: Annotated[tuple[Port, ...], Form(parse_ports, PORTS)] = Field(
        (), description='Forwarded to 127.0.0.1 while one is attached: `6000`, `80:8080` (local:job), `"*:8080"`.'
    )
    resources: Resources = Field(Resources.model_validate({}), description="What each node needs.")
    volumes: Annotated[tuple[str, ...], _mounts(parse_volume, "volumes")] = Field(
        (), description="Host folders, `/host:/job[:ro]`, where the operator allows them."
    )
    files: Annotated[tuple[str, ...], _mounts(parse_file, "files")] = Field(
        (), description="More files and folders to take along: `local` or `local:remote`, the latter in the folder."
    )
    repos: Annotated[tuple[str, ...], _mounts(parse_repo, "repos")] = Field(
        (), description="Only `.`, the folder itself, which every run takes along."
    )
    privileged: Truth = Field(False, description="A privileged container; refused unless the operator allows it.")
    docker: Truth = Field(
        False, description="For a Docker engine of the image's inside the job; refused unless the operator allows it."
    )
    nvcc: Truth = Field(False, description="Accepted: the plan says how the default image meets it.")
    groups: Annotated[
        tuple[str, ...],
        Form(_refuse_groups, NONE),
    ] = Field((), description="Not supported yet.")
    runtime: Annotated[
        str,
        Form(one_of("runtime", ("auto", "docker", "process")), words("auto", "docker", "process")),
    ] = Field("auto", description="`process` runs on the host itself; `auto` is docker with `image` or `python`.")
    ide: Annotated[str | None, Form(one_of("ide", ("vscode", "cursor")), words("vscode", "cursor"))] = Field(
        None, description="dev-environment: the editor whose link is printed."
    )
    version: Text | None = Field(None, description="dev-environment: the editor's version.")
    init: Commands = Field((), description="dev-environment: commands at start, before `setup`.")
    inactivity_duration: Annotated[Limit | None, Form(parse_limit, LIMIT)] = Field(
        None,
        description="dev-environment: the host stops it after this long with nobody connected, reachable or not. `off`,"
        " as when not written, is no limit.",
    )

    @model_validator(mode="after")
    def _fits_together(self) -> TaskConfig:
        if self.python and self.image:
            raise _clash("python", "python and image exclude each other", "remove python: the image brings its own")
        if self.type == TASK:
            if not self.commands and not self.image and not self.entrypoint:
                raise mistake("commands or image must be set", "add `commands:` with the lines to run")
            for name in DEV_ONLY:
                if self.wrote(name):
                    raise _clash(name, f"{name} is for type: dev-environment only", f"remove {name}")
        elif self.nodes != 1:
            raise _clash("nodes", "a dev-environment has one node", "write type: task, or remove nodes")
        elif self.entrypoint:
            raise _clash(
                "entrypoint", "a dev-environment stays up by a shell, and entrypoint runs without one", "remove it"
            )
        if self.entrypoint and self.setup:
            raise _clash("setup", "setup needs a shell, and entrypoint runs without one", "remove one of the two")
        if self.wrote("retry") and self.wrote("retry_policy"):
            raise _clash("retry_policy", "retry and retry_policy are one field, spelt twice", "remove retry_policy")
        return self


def _clash(key: str, message: str, hint: str) -> Exception:
    return mistake(message, hint, (key,), at_key=True)
