"""What each node of a run needs: cpu, memory, gpu, disk, and the shared memory of its container.

What is written is a requirement; a default that nobody wrote is a preference and never makes a host unfit.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from pool.offer import Range
from pool.task.gpu import GpuForm
from pool.task.mistake import mistake
from pool.task.scalar import show, within
from pool.task.shapes import COUNT_RANGE, DISK, SIZE, SIZE_RANGE
from pool.task.size import parse_count, parse_range, parse_size
from pool.task.written import Form, Written


def parse_cpu(value: Any) -> Range:
    """Cores: a bare number is what each node gets."""
    found = parse_range(value, parse_count, bare_is_minimum=False)
    if found.max == 0:
        raise mistake("a job needs at least one core", "write cpu: 1")
    return found


def parse_memory(value: Any) -> Range:
    """Memory: a bare size is the least that will do."""
    return parse_range(value, parse_size, bare_is_minimum=True)


def parse_disk(value: Any) -> Range:
    """Free disk: a size, a range, {size} or {min, max}; a bare size is the least that will do."""
    if isinstance(value, dict) and "size" in value:
        for key in value:
            if key != "size":
                raise mistake(f"unknown key {show(key)}", "disk has one key: size", (key,), at_key=True)
        return within("size", parse_memory, value["size"])
    return parse_memory(value)


class Resources(Written):
    """Cores, memory, GPUs and disk of each node."""

    cpu: Annotated[Range, Form(parse_cpu, COUNT_RANGE)] = Field(
        Range(2, None), description="Cores of each node: `4` is what it gets, `4..` at least, `4..8` between."
    )
    memory: Annotated[Range, Form(parse_memory, SIZE_RANGE)] = Field(
        Range(8 * 1024, None), description="Memory of each node: `16GB` is at least that, `16GB..64GB` between."
    )
    gpu: GpuForm | None = Field(
        None,
        description="GPUs of each node: `2`, `A100`, `A100:80GB:2`, `24GB..:4`, an object. Without it none is visible.",
    )
    disk: Annotated[Range, Form(parse_disk, DISK)] = Field(
        Range(100 * 1024, None), description="Free disk where jobs live: `500GB` is at least that."
    )
    shm_size: Annotated[float | None, Form(parse_size, SIZE)] = Field(
        None, description="Size of the container's `/dev/shm`, exactly. A process on the host has the host's own."
    )
