"""What this reads: YAML bytes into plain values, with the place of every key and value.

Safe and exact: YAML 1.2 core types, duplicate keys refused, tags refused but `!!str` and its kin, size, depth and
the number of nodes bounded before anything is expanded, so an alias or merge bomb costs nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import yaml

from pool.errors import TaskError
from pool.task.mistake import Mistake, Path, Place, task_error

MAX_BYTES: Final = 256 * 1024
MAX_NODES: Final = 10_000
MAX_DEPTH: Final = 32

#: libyaml's parser where PyYAML has it: the same events, forty times as fast.
_LOADER: Final[Any] = getattr(yaml, "CBaseLoader", yaml.BaseLoader)

_NULLS: Final = frozenset({"", "~", "null", "Null", "NULL"})
_TRUE: Final = frozenset({"true", "True", "TRUE"})
_FALSE: Final = frozenset({"false", "False", "FALSE"})
_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_SPECIAL = re.compile(r"[-+]?(\.inf|\.Inf|\.INF)|\.nan|\.NaN|\.NAN")
#: Longer digits than this stay text: no such number is meant, and int() of a long one is slow.
_NUMBER_MAX: Final = 40
_TOO_MANY: Final = "put data into a file of its own; let no alias stand in another"
_TAG = "tag:yaml.org,2002:"


class Word(str):
    """A plain (unquoted) scalar: the text as written; `value` is what YAML 1.2's core schema makes of it."""

    __slots__ = ()

    @property
    def value(self) -> str | int | float | bool:
        """`3` is 3, `true` is True, `no`, `22:22` and `1_0` are text."""
        text = str(self)
        if text in _TRUE or text in _FALSE:
            return text in _TRUE
        if len(text) > _NUMBER_MAX:
            return text
        if _INT.fullmatch(text):
            return int(text, 0) if text[:2] in ("0o", "0x") else int(text)
        if _FLOAT.fullmatch(text):
            return float(text)
        if _SPECIAL.fullmatch(text):
            return float(text.lower().replace(".", ""))
        return text


@dataclass(slots=True)
class Document:
    """A parsed file: `value` holds dict, list, str (quoted), Word (plain) and None; places are kept by key path."""

    source: str
    lines: list[str]
    value: Any = None
    places: dict[Path, Place] = field(default_factory=dict)
    keys: dict[Path, Place] = field(default_factory=dict)

    def place(self, path: Path, *, key: bool = False) -> Place:
        """Where `path` stands; the nearest parent that has a place when it has none itself."""
        found = (self.keys if key else self.places).get(path) or self.places.get(path)
        return found or (self.place(path[:-1]) if path else Place(1, 1))

    def error(self, message: str, hint: str | None = None, path: Path = (), *, key: bool = False) -> TaskError:
        """The TaskError for one mistake at `path`."""
        return task_error(self.source, self.lines, [Mistake(self.place(path, key=key), message, hint)])


@dataclass(slots=True)
class _Node:
    value: Any  # Word | str | None | list[_Node] | list[tuple[_Node, _Node]]
    kind: str  # scalar | list | map
    place: Place
    size: int = 1  # nodes once every alias is written out
    depth: int = 1


def read_document(text: bytes, source: str) -> Document:
    """`text` as a document; TaskError with its place when it is not one YAML mapping, list or scalar within bounds."""
    document = Document(source, [])
    if len(text) > MAX_BYTES:
        raise document.error(
            f"the file is {len(text) // 1024} KB; a task file may have {MAX_BYTES // 1024} KB",
            "move data into its own file in the folder",
        )
    try:
        decoded = text.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = text.count(b"\n", 0, error.start) + 1
        place = Place(line, error.start - (text.rfind(b"\n", 0, error.start)))
        raise task_error(source, [], [Mistake(place, "the file is not UTF-8 text", "save it as UTF-8")]) from None
    document.lines = re.split(r"\r\n|\n|\r", decoded)
    _Composer(document, decoded).compose()
    return document


class _Composer:
    """Turns parser events into a document. Used once."""

    def __init__(self, document: Document, text: str) -> None:
        self.document = document
        self.text = text
        self.anchors: dict[str, _Node | None] = {}
        self.events: Iterator[Any] = iter(())
        self.event: Any = None

    def compose(self) -> None:
        try:
            self.events = iter(yaml.parse(self.text, Loader=_LOADER))
            self._next()  # stream start
            self._next()  # document start, or stream end
            if isinstance(self.event, yaml.StreamEndEvent):
                raise self.document.error("the file is empty", "start it with `type: task`")
            self._next()
            root = self._node(1)
            self._next()
            if not isinstance(self.event, yaml.StreamEndEvent):
                raise self._mistake("a second document begins here", "keep one document a file: remove the `---`")
        except yaml.YAMLError as error:
            raise self._syntax(error) from None
        self.document.value = self._value(root, ())

    def _next(self) -> Any:
        self.event = next(self.events)
        return self.event

    def _here(self) -> Place:
        mark = self.event.start_mark
        return Place(mark.line + 1, mark.column + 1)

    def _mistake(self, message: str, hint: str | None = None, place: Place | None = None) -> TaskError:
        return task_error(self.document.source, self.document.lines, [Mistake(place or self._here(), message, hint)])

    def _too_deep(self, place: Place | None = None) -> TaskError:
        return self._mistake(f"nested more than {MAX_DEPTH} deep", "a task file needs five levels", place)

    def _node(self, depth: int) -> _Node:
        """The node that begins at the current event; the current event is the next one afterwards."""
        event: Any = self.event
        place = self._here()
        if isinstance(event, yaml.AliasEvent):
            found = self.anchors.get(str(event.anchor))
            if found is None:
                problem = "contains itself" if event.anchor in self.anchors else "is not defined above"
                raise self._mistake(f"the anchor &{event.anchor} {problem}", "write the value itself")
            self._next()
            return found
        if event.anchor:
            self.anchors[event.anchor] = None
        if isinstance(event, yaml.ScalarEvent):
            node = _Node(self._scalar(event), "scalar", place)
            self._next()
        else:
            node = self._collection(event, place, depth)
        if event.anchor:
            self.anchors[event.anchor] = node
        return node

    def _scalar(self, event: yaml.ScalarEvent) -> str | None:
        try:
            event.value.encode()
        except UnicodeEncodeError:
            raise self._mistake("an escape that is half a character", "write the character itself") from None
        plain = event.style in (None, "")
        tag = event.tag
        if tag in (None, "!"):
            if not plain or tag == "!":
                return str(event.value)
            return None if event.value in _NULLS else Word(event.value)
        if tag == _TAG + "str":
            return str(event.value)
        if tag in (_TAG + "int", _TAG + "float", _TAG + "bool"):
            return Word(event.value)
        if tag == _TAG + "null":
            return None
        raise self._mistake(f"the tag {_shown(tag)} is not allowed", "remove it: values need no tag")

    def _collection(self, event: Any, place: Place, depth: int) -> _Node:
        is_map = isinstance(event, yaml.MappingStartEvent)
        if event.tag not in (None, "!", _TAG + ("map" if is_map else "seq")):
            raise self._mistake(f"the tag {_shown(event.tag)} is not allowed", "remove it: values need no tag")
        if depth > MAX_DEPTH:
            raise self._too_deep()
        node = _Node([], "map" if is_map else "list", place)
        end = yaml.MappingEndEvent if is_map else yaml.SequenceEndEvent
        self._next()
        while not isinstance(self.event, end):
            item = self._node(depth + 1)
            self._grow(node, item, depth)
            if is_map:
                value = self._node(depth + 1)
                self._grow(node, value, depth)
                node.value.append((item, value))
            else:
                node.value.append(item)
        self._next()
        return node

    def _grow(self, node: _Node, child: _Node, depth: int) -> None:
        node.size += child.size
        node.depth = max(node.depth, child.depth + 1)
        if node.size > MAX_NODES:
            raise self._mistake(f"more than {MAX_NODES} values, aliases written out", _TOO_MANY, node.place)
        if depth + node.depth > MAX_DEPTH + 1:
            raise self._too_deep(child.place)

    def _value(self, node: _Node, path: Path) -> Any:
        self.document.places[path] = node.place
        if node.kind == "scalar":
            return node.value
        if node.kind == "list":
            return [self._value(child, (*path, i)) for i, child in enumerate(node.value)]
        return self._mapping(node, path)

    def _mapping(self, node: _Node, path: Path) -> dict[str, Any]:
        found: dict[str, Any] = {}
        merged: list[_Node] = []
        for key, value in node.value:
            name = self._key(key)
            if isinstance(key.value, Word) and name == "<<":
                merged.append(value)
                continue
            here = (*path, name)
            if name in found:
                first = self.document.keys[here].line
                raise self._mistake(
                    f"{_shown(name)} is set twice; first on line {first}", "keep one of the two", key.place
                )
            self.document.keys[here] = key.place
            found[name] = self._value(value, here)
        if len(merged) > 1:
            raise self._mistake("<< is set twice", "write `<<: [*a, *b]`", merged[1].place)
        for node_ in merged:
            for name, value, key in self._merge(node_):
                if name not in found:
                    self.document.keys[(*path, name)] = key.place
                    found[name] = self._value(value, (*path, name))
        return found

    def _merge(self, node: _Node) -> Iterator[tuple[str, _Node, _Node]]:
        """Every key a `<<` brings, the nearest first: the first one of a name counts."""
        sources = node.value if node.kind == "list" else [node]
        for source in sources:
            if source.kind != "map":
                raise self._mistake("<< takes a mapping or a list of mappings", "write `<<: *anchor`", source.place)
            later = []
            for key, value in source.value:
                name = self._key(key)
                if isinstance(key.value, Word) and name == "<<":
                    later.append(value)
                else:
                    yield name, value, key
            for inner in later:
                yield from self._merge(inner)

    def _key(self, node: _Node) -> str:
        if node.kind != "scalar":
            raise self._mistake("a key must be a word", "write `key: value`", node.place)
        return "" if node.value is None else str(node.value)

    def _syntax(self, error: yaml.YAMLError) -> TaskError:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        if mark is None:
            position = getattr(error, "position", 0) or 0
            before = self.text[:position] if isinstance(position, int) else ""
            place = Place(before.count("\n") + 1, len(before) - before.rfind("\n"))
            return self._mistake("a character that YAML does not allow", "remove it, or write it as an escape", place)
        problem = getattr(error, "problem", None) or "not YAML"
        place = Place(mark.line + 1, mark.column + 1)
        if "nesting depth" in problem:  # from libyaml 0.2.6: it scans past our own bound before it tells of the first [
            return self._too_deep(place)
        return self._mistake(f"not valid YAML: {problem}", _syntax_hint(self.document.lines, place, problem), place)


def _syntax_hint(lines: list[str], place: Place, problem: str) -> str:
    line = lines[place.line - 1] if place.line <= len(lines) else ""
    if "\t" in line[: place.column]:
        return "indent with spaces: YAML takes no tabs"
    if "mapping values" in problem:
        return 'quote a text that has ": " in it, or check the indentation of the line'
    if "expected <block end>" in problem or "did not find expected" in problem:
        return "check the indentation: the items of one list or mapping start in the same column"
    return "put the text in quotes, or write it below a `|`"


def _shown(text: str, limit: int = 60) -> str:
    clean = "".join(c if c.isprintable() else "?" for c in text)
    return clean if len(clean) <= limit else clean[:limit] + "…"
