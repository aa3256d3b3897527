"""The GPUs of one node: `2`, `A100`, `A10G,A100`, `A100:80GB:2`, `24GB..40GB:2`, `nvidia:A100`, or an object.

Tokens are split on `:` and may stand in any order: a vendor, names (start with a letter), a memory range (has a
letter), a count range (has none). A card number alone, such as `4090`, is a name: nobody asks for 4090 GPUs.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Any

from pydantic import Field

from pool.cards import VENDORS, card_of, is_card_number
from pool.offer import GpuRequest, Range
from pool.task.mistake import mistake
from pool.task.scalar import listed, plain, show
from pool.task.shapes import CAPABILITY, COUNT_RANGE, GPU, NAMES, SIZE_RANGE, VENDOR
from pool.task.size import (
    format_count,
    format_range,
    format_size,
    parse_count,
    parse_range,
    parse_size,
)
from pool.task.written import Form, ShortForm, Written

#: More GPUs than any host has.
GPU_COUNT_MAX = 1024

#: Longer than any card's name or any useful list of them.
_NAME_MAX, _TEXT_MAX = 60, 2000

FORMS = "2, A100, A100:2, A100:80GB, A100:40GB:2, A10G,A100, 24GB..40GB:2"
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9 ._+/()-]{0,60}")
_TIMES = (
    re.compile(r"(?P<name>[A-Za-z].*?\d.*?)\s*[xX*×]\s*(?P<count>\d{1,4})"),
    re.compile(r"(?P<count>\d{1,4})\s*[xX*×]\s*(?P<name>[A-Za-z].*)"),
    re.compile(r"(?P<count>\d{1,3})\s+(?P<name>[A-Za-z].*)"),
)
_SIZED = re.compile(r"(?P<name>[A-Za-z][^:]*?)[-_ ](?P<size>\d+\s*[GT]I?B?)", re.IGNORECASE)


def _parse_memory(value: Any) -> Range:
    return parse_range(value, parse_size, bare_is_minimum=False)


def parse_gpu_count(value: Any) -> Range:
    """A range of GPUs of one node, each end 0 to 1024."""
    found = parse_range(value, parse_count, bare_is_minimum=False)
    for end in (found.min, found.max):
        if end is not None and end > GPU_COUNT_MAX:
            raise mistake(f"{show(value)} GPUs are more than a host has", "write how many GPUs each node gets")
    if found.min is None:  # `..4`: whoever writes it wants a GPU; none is written `0`
        return Range(min(1, found.max or 0), found.max)
    return found


def parse_capability(value: Any) -> tuple[int, int]:
    """`8.0`, `8` or [8, 0]: at least this compute capability."""
    if isinstance(value, (list, tuple)) and len(value) == 2:
        value = f"{value[0]}.{value[1]}"
    match = re.fullmatch(r"(\d{1,2})(?:\.(\d{1,2}))?", str(value).strip())
    if isinstance(plain(value), bool) or not match:
        raise mistake(f"{show(value)} is not a compute capability", "write it as 8.0")
    return int(match[1]), int(match[2] or 0)


def parse_vendor(value: Any) -> str:
    """nvidia or amd, in any case."""
    found = str(value).strip().lower()
    if found not in VENDORS:
        raise mistake(f"{show(value)} is not a vendor a pool knows", f"write {' or '.join(VENDORS)}")
    return found


def parse_names(value: Any) -> tuple[str, ...]:
    """Card names: a list, or one text with commas."""
    if isinstance(value, str):
        value = str(value).split(",")
    return listed(_parse_name, "card names")(value)


def _parse_name(value: Any) -> str:
    name = str(value).strip()
    if len(name) > _NAME_MAX:
        raise mistake(f"{show(name)} is not a card's name", f"write it as one of {FORMS}")
    if match := _SIZED.fullmatch(name):
        size = re.sub(r"\s|I?B$", "", match["size"].upper())
        raise mistake(f"{show(name)} is not a card's name", f"write the memory after a colon: {match['name']}:{size}B")
    if card_of(name) or is_card_number(name):
        return name
    for pattern in _TIMES:
        if match := pattern.fullmatch(name):
            raise _times(name, match)
    if not _NAME.fullmatch(name):
        raise mistake(f"{show(name)} is not a card's name", f"write it as one of {FORMS}")
    return name


def _times(text: str, match: re.Match[str]) -> Exception:
    name = match["name"].strip()
    if not card_of(name) and card_of(name + "X"):
        name += "X"
    return mistake(f'"{text}" is not a GPU', f"write the count after a colon: {name}:{match['count']}")


def split_gpu(text: str) -> dict[str, Any]:
    """The fields that a GPU string gives, still to be parsed; refuses two tokens of one kind and empty tokens."""
    found: dict[str, Any] = {}
    for raw in text.split(":"):
        token = raw.strip()
        if not token:
            raise mistake(f"{show(text)} has an empty part", f"write it as one of {FORMS}")
        kind = _kind(token)
        if kind in found:
            raise _twice(text, kind, str(found[kind]), token)
        found[kind] = token
    return found


def _kind(token: str) -> str:
    if token.startswith("-"):
        raise mistake(f"{show(token)} is negative", f"write it as one of {FORMS}")
    if token.lower() in VENDORS:
        return "vendor"
    if token[0].isalpha() or is_card_number(token.split(",")[0]):
        return "name"
    for pattern in _TIMES[1:] if len(token) <= _NAME_MAX else ():
        if (match := pattern.fullmatch(token)) and not re.fullmatch(r"[MGTP](I?B)?", match["name"], re.IGNORECASE):
            raise _times(token, match)
    return "memory" if any(c.isalpha() for c in token) else "count"


def _twice(text: str, kind: str, first: str, second: str) -> Exception:
    hints: dict[str, Callable[[], str]] = {
        "name": lambda: f"separate names with a comma: {first},{second}",
        "memory": lambda: f"write a range: {first}..{second}",
        "count": lambda: f"write one count: {first}, or a range: {first}..{second}",
        "vendor": lambda: f"write one vendor: {first}",
    }
    word = {"name": "names", "memory": "memory", "count": "the count", "vendor": "the vendor"}[kind]
    return mistake(f"{show(text)} gives {word} twice: {first} and {second}", hints[kind]())


class Gpu(Written):
    """Which GPUs each node gets."""

    vendor: Annotated[str | None, Form(parse_vendor, VENDOR)] = Field(
        None, description="`nvidia` or `amd`; any when not written."
    )
    name: Annotated[tuple[str, ...], Form(parse_names, NAMES)] = Field(
        (), description="Card names as people write them (`A100`, `RTX4090`), without case; any of the list will do."
    )
    count: Annotated[Range, Form(parse_gpu_count, COUNT_RANGE)] = Field(
        Range(1, 1),
        description="How many each node gets, not what its host has; 0 means only hosts without GPUs.",
    )
    memory: Annotated[Range | None, Form(_parse_memory, SIZE_RANGE)] = Field(
        None, description="Memory of one card, by its marketing size: an H100 has 80GB. A bare size is exact."
    )
    total_memory: Annotated[Range | None, Form(_parse_memory, SIZE_RANGE)] = Field(
        None, description="Memory of all the node's cards together."
    )
    compute_capability: Annotated[tuple[int, int] | None, Form(parse_capability, CAPABILITY)] = Field(
        None, description="At least this CUDA compute capability, such as `8.0`."
    )

    def to_request(self) -> GpuRequest:
        """What the scheduler is asked."""
        return GpuRequest(
            count=self.count,
            names=self.name,
            memory_mib=self.memory,
            total_memory_mib=self.total_memory,
            compute_capability=self.compute_capability,
            vendor=self.vendor,
        )


def gpu_fields(value: Any) -> Any:
    """The fields of a GPU in any of its forms: number, string, object."""
    if isinstance(value, (dict, Gpu)):
        return value
    found = plain(value)
    if isinstance(found, bool) or not isinstance(found, (int, str)):
        raise mistake(f"{show(value)} is not a GPU", f"write it as one of {FORMS}")
    if isinstance(found, int) and found < 0:
        raise mistake(f"{show(value)} is negative", f"write it as one of {FORMS}")
    if len(str(value)) > _TEXT_MAX:
        raise mistake(f"{show(value)} is not a GPU", f"write it as one of {FORMS}")
    return split_gpu(str(value))


#: Any written form of a GPU.
GpuForm = Annotated[Gpu, ShortForm(gpu_fields, GPU)]


def parse_gpu(value: Any) -> Gpu:
    """A GPU from any of its forms; raises pydantic's ValidationError or a mistake."""
    return Gpu.model_validate(gpu_fields(value))


def format_gpu(gpu: Gpu) -> str | dict[str, Any]:
    """The canonical spelling: a string where one can say it all, else an object."""
    memory = format_range(gpu.memory, format_size, bare_is_minimum=False) if gpu.memory else None
    count = format_range(gpu.count, format_count, bare_is_minimum=False)
    if gpu.total_memory is None and gpu.compute_capability is None:
        tokens = [gpu.vendor, ",".join(gpu.name) or None, memory]
        said = [t for t in tokens if t]
        if gpu.count != Range(1, 1) or not said:
            said.append(count)
        return ":".join(said)
    total = format_range(gpu.total_memory, format_size, bare_is_minimum=False) if gpu.total_memory else None
    capability = "{}.{}".format(*gpu.compute_capability) if gpu.compute_capability else None
    parts = {
        "vendor": gpu.vendor,
        "name": list(gpu.name) or None,
        "count": count,
        "memory": memory,
        "total_memory": total,
        "compute_capability": capability,
    }
    return {key: part for key, part in parts.items() if part is not None}
