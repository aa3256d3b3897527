"""The entry for a person's own ssh: a file of settings with a Host for each live run, and its Include in ~/.ssh/config.

<state folder>/ssh/config        written by us, whenever a run is shown or asked for
<state folder>/ssh/known_hosts   the key of the server's end, by which ssh knows it
"""

from __future__ import annotations

import os
import shlex
import sys

from pool import config
from pool.errors import InputError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pool.client import Client

_ALIAS = "pool-job"
_HEAD = "# Written by pool, for runs that are alive; changes are lost. See: pool ssh-config --help\n"


def write(client: Client) -> str:
    """Write the entry anew, with the caller's live runs, newest first; the path of its settings."""
    told = client.get("/ssh")
    folder = config.path("ssh")
    os.makedirs(folder, mode=0o700, exist_ok=True)
    _replace(os.path.join(folder, "known_hosts"), f"{_ALIAS} {told['host_key']}\n")
    text = _HEAD + "".join(_host(run, folder) for run in told["runs"])
    _replace(path(), text)
    return path()


def path() -> str:
    """The entry's settings."""
    return os.path.join(config.path("ssh"), "config")


def include_line() -> str:
    """The line of ~/.ssh/config that brings the entry in. InputError where ssh cannot be told of our folder."""
    if any(letter in path() for letter in '"%\n\\*?['):
        raise InputError(f"ssh cannot be told of a file of this name: {path()!a}", hint="export POOL_STATE_DIR=…")
    return f'Include "{path()}"'


def is_included() -> bool:
    """True when ~/.ssh/config has that line."""
    return include_line() in _person_s()


def include() -> None:
    """Put the line first: below a Host it would be for that host alone. What is there stays."""
    if not is_included():
        _write_person_s([include_line(), *_person_s()])


def exclude() -> bool:
    """Take the line out again; False when it was not there."""
    lines = _person_s()
    kept = [line for line in lines if line != include_line()]
    if lines and not kept and not os.path.islink(_person_s_path()):
        os.unlink(_person_s_path())  # it held nothing else
    elif kept != lines:
        _write_person_s(kept)
    return kept != lines


def _host(run: dict[str, Any], folder: str) -> str:
    """The Hosts of one run: its name leads to rank 0, `NAME-rank-K` to each."""
    nodes = int(run["nodes"])
    names = [f"{run['name']}-rank-{rank}" for rank in range(nodes)] if nodes > 1 else [""]
    names[0] = f"{run['name']} {names[0]}".strip()
    return "".join(_rank(run, rank, each, folder) for rank, each in enumerate(names))


def _rank(run: dict[str, Any], rank: int, name: str, folder: str) -> str:
    settings = {
        "HostName": "localhost",
        "User": run["user"],
        "ProxyCommand": shlex.join(_proxy(run["id"], rank)).replace("%", "%%"),
        "HostKeyAlias": _ALIAS,
        "UserKnownHostsFile": f'"{folder}/known_hosts"',
        "GlobalKnownHostsFile": "/dev/null",
        "StrictHostKeyChecking": "yes",
        "UpdateHostKeys": "no",
        "ForwardAgent": "no",
    }
    return f"\nHost {name}\n" + "".join(f"  {key} {value}\n" for key, value in settings.items())


def _proxy(run_id: str, rank: int) -> list[str]:
    """The command that ssh starts, wherever it is typed: with this Python, and the server that is ours now."""
    named = {name: os.environ[name] for name in ("POOL_STATE_DIR", "POOL_SERVER", "PYTHONPATH") if os.environ.get(name)}
    words = ["env", *(f"{name}={_absolute(value)}" for name, value in named.items())] if named else []
    return [*words, sys.executable, "-P", "-m", "pool.cli.main", "proxy", run_id, "--rank", str(rank)]


def _absolute(paths: str) -> str:
    return os.pathsep.join(os.path.abspath(path) for path in paths.split(os.pathsep) if path)


def _person_s() -> list[str]:
    try:
        with open(_person_s_path(), encoding="utf-8", errors="surrogateescape") as file:
            return file.read().splitlines()
    except FileNotFoundError:
        return []


def _write_person_s(lines: list[str]) -> None:
    file = os.path.realpath(_person_s_path())  # a link into a repository of dotfiles stays one
    os.makedirs(os.path.dirname(file), mode=0o700, exist_ok=True)
    mode = os.stat(file).st_mode & 0o777 if os.path.exists(file) else 0o600
    _replace(file, "".join(line + "\n" for line in lines), mode)


def _person_s_path() -> str:
    return os.path.expanduser("~/.ssh/config")


def _replace(file: str, text: str, mode: int = 0o600) -> None:
    """Whole or not at all: ssh may read it at any moment."""
    temporary = f"{file}.{os.getpid()}"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(fd, "w", encoding="utf-8", errors="surrogateescape") as writing:
        writing.write(text)
    os.chmod(temporary, mode)
    os.rename(temporary, file)
