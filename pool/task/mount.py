"""What a job finds: host folders (`volumes`), extra files (`files`), code (`repos`), its `working_dir`."""

from __future__ import annotations

import posixpath
from typing import Any

from pool.task.mistake import mistake
from pool.task.scalar import filled, show, within

_VOLUME = "write /folder/on/the/host:/folder/of/the/job, with :ro to forbid writing"
_FILE = "write a path, or local:remote"


def parse_volume(value: Any) -> str:
    """`/host:/ctr[:ro]` or {instance_path, path}; named network volumes are refused."""
    if isinstance(value, dict):
        if "name" in value:
            raise mistake("network volumes are not supported, because a pool has no cloud to make them", _VOLUME)
        _only(value, ("instance_path", "path"), _VOLUME)
        value = f"{filled(value.get('instance_path'))}:{filled(value.get('path'))}"
    written = filled(value)
    parts = written.split(":")
    if not written.startswith("/"):
        raise mistake(f"{show(value)} is not a folder of the host", _VOLUME)
    if len(parts) not in (2, 3) or not parts[1].startswith("/") or (len(parts) == 3 and parts[2] not in ("ro", "rw")):
        raise mistake(f"{show(value)} is not a volume", _VOLUME)
    if ".." in parts[0].split("/") or ".." in parts[1].split("/"):
        raise mistake(f"{show(value)} has .. in it", "write the whole path")
    return written


def parse_file(value: Any) -> str:
    """`local[:remote]` or {local_path, path}, as one text."""
    if isinstance(value, dict):
        _only(value, ("local_path", "path"), _FILE)
        local = filled(value.get("local_path"))
        return f"{local}:{filled(value['path'])}" if "path" in value else local
    written = filled(value)
    if written.count(":") > 1 or written.startswith(":") or written.endswith(":"):
        raise mistake(f"{show(value)} is not a file to take along", _FILE)
    return written


def parse_repo(value: Any) -> str:
    """`.`: the folder itself. A run takes its folder along; nothing else is a repo here."""
    if isinstance(value, dict):
        if "url" in value:
            return within("url", parse_repo, value["url"])
        _only(value, ("local_path", "path"), "write `- .`")
        value = value.get("local_path")
    written = filled(value).partition(":")[0]
    if posixpath.normpath(written) == "." and "://" not in str(value):
        return "."
    if "://" in str(value) or str(value).startswith("git@"):
        raise mistake(
            "repositories by URL are not supported, because a run takes along the folder it is started in",
            "clone it in `setup`, or remove `repos`",
        )
    raise mistake(f"{show(value)} is not the folder of the run", "remove `repos`; take other files along with `files`")


def parse_working_dir(value: Any) -> str:
    """A folder inside the uploaded one."""
    written = filled(value)
    if written.startswith(("/", "~")):
        raise mistake(
            f"working_dir {show(value)} is not inside the folder of the run", "write it relative to the folder: src"
        )
    found = posixpath.normpath(written)
    if found == ".." or found.startswith("../"):
        raise mistake(f"working_dir {show(value)} leaves the folder of the run", "write a folder inside it: src")
    return found


def parse_home_dir(value: Any) -> str:
    """An absolute folder."""
    written = filled(value)
    if not written.startswith("/"):
        raise mistake(f"home_dir {show(value)} is not an absolute path", "write it from the root: /root")
    return written


def _only(value: dict[Any, Any], known: tuple[str, ...], hint: str) -> None:
    for key in value:
        if key not in known:
            raise mistake(f"unknown key {show(key)}", hint, (key,), at_key=True)
