"""What a folder is, as one value: each path with its kind, mode, date and the hash of its content.

JSON without a space, each folder before what is in it, so that the same folder gives the same bytes; the sha256 of
these bytes is the folder's name everywhere:

    {"version":1,"entries":[["d",PATH,MODE],["f",PATH,MODE,MTIME_NS,SIZE,SHA256],["l",PATH,TARGET],...]}

What a manifest may say is settled here, and nothing else is ever made into files: paths below the folder only, below
folders that it names itself, each once, and links that do not lead out. Bytes of a name that are not UTF-8 are lone
surrogates, as in Python.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any, Iterable, Iterator, List, Tuple

from pool.runner.ledger import RefusedError

FOLDER, FILE, LINK = "d", "f", "l"

#: Most bytes and entries of one manifest: what half a million files take.
MAX_BYTES = 64 << 20
MAX_ENTRIES = 500_000
#: Most bytes of one file, and of all files of a folder.
MAX_SIZE = 1 << 50
_MAX_NAME, _MAX_PATH = 255, 4000
_MAX_NS = 1 << 63
_MAX_HOPS = 40

_SHA = re.compile(r"[0-9a-f]{64}\Z")

#: As above: kind, path, and what belongs to the kind.
Entry = List[Any]
#: (sha256, bytes) of one content.
Content = Tuple[str, int]


class Manifest:
    """A folder that may be made as it is: see `encode` and `decode`."""

    def __init__(self, data: bytes, entries: list[Entry]) -> None:
        self.data = data
        self.sha256 = hashlib.sha256(data).hexdigest()
        self.entries = entries
        #: Each content once, in the order in which the files first have it: so they are sent and kept.
        self.contents: list[Content] = list({entry[5]: (entry[5], entry[4]) for entry in files(entries)}.values())
        #: Bytes of all files, as the folder takes them.
        self.total = sum(entry[4] for entry in files(entries))


def files(entries: Iterable[Entry]) -> Iterator[Entry]:
    """Those of the entries that are files."""
    return (entry for entry in entries if entry[0] == FILE)


def encode(entries: list[Entry]) -> Manifest:
    """The manifest of these entries, which the caller has put in order: each folder before what is in it."""
    return Manifest(json.dumps({"version": 1, "entries": entries}, separators=(",", ":")).encode(), entries)


def decode(data: bytes) -> Manifest:
    """The manifest in `data`; RefusedError("bad_manifest") for one that must not be made into files."""
    if len(data) > MAX_BYTES:
        raise _bad("it has more than {} MiB".format(MAX_BYTES >> 20))
    if data.count(b"[") > 4 * MAX_ENTRIES:  # each list takes memory, before anything is known of it
        raise _bad("it has too many lists")
    try:
        value = json.loads(data, parse_int=_number, parse_float=_no_number, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise _bad("it is not JSON") from error
    entries = value.get("entries") if isinstance(value, dict) and value.get("version") == 1 else None
    if not isinstance(entries, list) or len(entries) > MAX_ENTRIES:
        raise _bad("it is not a list of at most {} entries".format(MAX_ENTRIES))
    _check(entries)
    return Manifest(data, entries)


def is_sha(value: object) -> bool:
    """True for what may be a hash; hashes become file names."""
    return isinstance(value, str) and bool(_SHA.match(value))


def leaving(entries: list[Entry]) -> list[Entry]:
    """The links among the entries that lead out of the folder, by themselves or by way of others."""
    links = {entry[1]: entry[2] for entry in entries if entry[0] == LINK}
    return [entry for entry in entries if entry[0] == LINK and _leaves(entry[1], links)]


def flags(wanted: Iterable[bool]) -> bytes:
    """A bit for each, the first one lowest: which of the contents are meant."""
    bits = bytearray()
    for number, each in enumerate(wanted):
        if number % 8 == 0:
            bits.append(0)
        bits[-1] |= bool(each) << number % 8
    return bytes(bits)


def flagged(contents: list[Content], bits: bytes) -> list[Content]:
    """Those of the contents whose bit is set."""
    if len(bits) != (len(contents) + 7) // 8:
        raise ValueError("{} bytes do not mark {} contents".format(len(bits), len(contents)))
    return [content for number, content in enumerate(contents) if bits[number // 8] >> number % 8 & 1]


def _check(entries: list[Entry]) -> None:
    folders, seen, total = {""}, set(), 0
    sizes: dict[str, int] = {}
    for entry in entries:
        if not isinstance(entry, list) or len(entry) != {FOLDER: 3, FILE: 6, LINK: 3}.get(_kind(entry)):
            raise _bad("an entry is of no known kind")
        kind, path = entry[0], entry[1]
        _check_path(path, folders)
        if path in seen:
            raise _bad("{!r} is there twice".format(path))
        seen.add(path)
        if kind == LINK:
            _check_target(entry[2])
            continue
        if not _whole(entry[2], 0o1000):
            raise _bad("the mode of {!r} is not one".format(path))
        if kind == FOLDER:
            folders.add(path)
            continue
        _, _, _, mtime, size, sha256 = entry
        if not (_whole(mtime, _MAX_NS) and _whole(size, MAX_SIZE) and is_sha(sha256)):
            raise _bad("date, size or hash of {!r} is not one".format(path))
        if sizes.setdefault(sha256, size) != size:
            raise _bad("two sizes are given for one content")
        total += size
    if total >= MAX_SIZE:
        raise _bad("its files have {} bytes".format(total))
    for entry in leaving(entries):
        raise _bad("the link {!r} leads out of the folder".format(entry[1]))


def _number(text: str) -> int:
    """Of a few digits: a million of them would take a day to read."""
    if len(text) > 20:
        raise ValueError("a number is too long")
    return int(text)


def _no_number(text: str) -> int:
    raise ValueError("{} is not a whole number".format(text[:20]))


def _kind(entry: Entry) -> str:
    return entry[0] if entry and isinstance(entry[0], str) else ""


def _check_path(path: object, folders: set[str]) -> None:
    if not isinstance(path, str):
        raise _bad("a path is not text")
    above, _, name = path.rpartition("/")
    if above not in folders or name in ("", ".", "..") or "\0" in name:
        raise _bad("{!r} is not a path below a folder of it".format(path[:200]))
    if len(_bytes(name)) > _MAX_NAME or len(_bytes(path)) > _MAX_PATH:
        raise _bad("{!r} is too long".format(path[:200]))


def _check_target(target: object) -> None:
    if not isinstance(target, str) or not target or "\0" in target or len(_bytes(target)) > _MAX_PATH:
        raise _bad("a link leads nowhere")


def _bytes(name: str) -> bytes:
    try:
        return name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise _bad("{!r} is no name of a file".format(name[:200])) from None


def _whole(value: object, below: int) -> bool:
    return type(value) is int and 0 <= value < below


def _leaves(path: str, links: dict[str, str]) -> bool:
    """Follow the link at `path` through the folder's other links, as the kernel would."""
    here: list[str] = []
    todo = path.split("/")[::-1]
    hops = 0
    while todo:
        name = todo.pop()
        if name in ("", "."):
            continue
        if name == "..":
            if not here:
                return True
            here.pop()
            continue
        here.append(name)
        target = links.get("/".join(here))
        if target is None:
            continue
        hops += 1
        if target.startswith("/"):
            return True
        if hops > _MAX_HOPS:
            return False  # the kernel gives up too
        here.pop()
        todo += target.split("/")[::-1]
        if len(todo) > MAX_ENTRIES:
            return True
    return False


def _bad(why: str) -> RefusedError:
    return RefusedError("bad_manifest", "not a folder as we send them: {}".format(why))
