"""Resources: every form of cpu, memory, disk, shm_size and gpu, and that printing and parsing undo each other."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from pydantic_core import PydanticCustomError

from pool.cards import cards, match
from pool.offer import Range
from pool.task.document import Word
from pool.task.duration import DURATION_MAX_S, format_duration, parse_duration, parse_limit
from pool.task.gpu import Gpu, format_gpu, parse_gpu
from pool.task.port import format_port, parse_port
from pool.task.resources import parse_cpu, parse_disk, parse_memory
from pool.task.size import format_count, format_range, format_size, gigabytes, parse_size

GB = 1024
Refused = (PydanticCustomError, ValidationError)


@pytest.mark.parametrize(
    ("written", "found"),
    [
        (4, Range(4, 4)),
        ("4", Range(4, 4)),
        (Word("4"), Range(4, 4)),
        ("4..", Range(4, None)),
        ("..8", Range(None, 8)),
        (" 4 .. 8 ", Range(4, 8)),
        ({"min": 4}, Range(4, None)),
        ({"min": Word("4"), "max": 8}, Range(4, 8)),
        ({"max": 8, "min": None}, Range(None, 8)),
    ],
)
def test_cpu(written: Any, found: Range) -> None:
    """A bare number of cores is what each node gets; ranges are open where nothing stands."""
    assert parse_cpu(written) == found


@pytest.mark.parametrize(
    "written", [0, -1, "..", "", "4..2", 2.5, "two", True, [4], {}, {"low": 1}, "1_0", ".inf", "4...8"]
)
def test_cpu_refused(written: Any) -> None:
    """What is no whole number of cores, or no range, is refused."""
    with pytest.raises(Refused):
        parse_cpu(written)


@pytest.mark.parametrize(
    ("written", "mib"),
    [
        ("8GB", 8 * GB),
        ("8gb", 8 * GB),
        ("8 GB", 8 * GB),
        ("8G", 8 * GB),
        ("8GiB", 8 * GB),
        ("8g", 8 * GB),
        ("512MB", 512),
        ("512M", 512),
        ("1TB", 1024 * GB),
        ("1.5TiB", 1536 * GB),
        (8, 8 * GB),
        ("8", 8 * GB),
        (0.5, 512),
        (".5", 512),
    ],
)
def test_size(written: Any, mib: float) -> None:
    """1GB is 1024 MiB, whether written G, GB or GiB, in any case; a bare number is GB."""
    assert parse_size(written) == mib
    assert parse_memory(written) == Range(mib, None)


@pytest.mark.parametrize(
    "written", ["8KB", "GB", "-1GB", "8GBB", "8 G B", "1e3", ".inf", True, None, [8], "8GB GB", "1,5GB", "0.0001MB"]
)
def test_size_refused(written: Any) -> None:
    """What is no size is refused, never guessed."""
    with pytest.raises(Refused):
        parse_size(written)


@pytest.mark.parametrize("written", ["100GB", "100GB..", {"size": "100GB"}, {"size": "100GB.."}, {"min": 100}])
def test_disk(written: Any) -> None:
    """A disk is a size, a range, or {size}; a bare size is the least that will do."""
    assert parse_disk(written) == Range(100 * GB, None)


ONE = Range(1, 1)


@pytest.mark.parametrize(
    ("written", "found"),
    [
        (2, {"count": Range(2, 2)}),
        (0, {"count": Range(0, 0)}),
        ("2", {"count": Range(2, 2)}),
        ("2..4", {"count": Range(2, 4)}),
        ("..4", {"count": Range(1, 4)}),
        ("A100", {"name": ("A100",)}),
        ("A10G,A100", {"name": ("A10G", "A100")}),
        ("A10G , A100", {"name": ("A10G", "A100")}),
        ("A100:80GB", {"name": ("A100",), "memory": Range(80 * GB, 80 * GB)}),
        ("A100:2", {"name": ("A100",), "count": Range(2, 2)}),
        ("2:A100", {"name": ("A100",), "count": Range(2, 2)}),
        ("24GB..40GB:2", {"memory": Range(24 * GB, 40 * GB), "count": Range(2, 2)}),
        ("A100:40GB:2", {"name": ("A100",), "memory": Range(40 * GB, 40 * GB), "count": Range(2, 2)}),
        ("2:40GB:A100", {"name": ("A100",), "memory": Range(40 * GB, 40 * GB), "count": Range(2, 2)}),
        ("40GB..80GB:4", {"memory": Range(40 * GB, 80 * GB), "count": Range(4, 4)}),
        ("24GB", {"memory": Range(24 * GB, 24 * GB)}),
        ("..80GB", {"memory": Range(None, 80 * GB)}),
        ("nvidia:A100", {"vendor": "nvidia", "name": ("A100",)}),
        ("AMD", {"vendor": "amd"}),
        ("amd:MI300X:8", {"vendor": "amd", "name": ("MI300X",), "count": Range(8, 8)}),
        ("4090", {"name": ("4090",)}),
        ("4090:2", {"name": ("4090",), "count": Range(2, 2)}),
        ("3080Ti", {"name": ("3080Ti",)}),
        ("RTX 4090:2", {"name": ("RTX 4090",), "count": Range(2, 2)}),
        ("MI300X", {"name": ("MI300X",)}),
        ("A100X", {"name": ("A100X",)}),
        ("Foo9", {"name": ("Foo9",)}),
        ({"name": "A100"}, {"name": ("A100",)}),
        ({"name": "A100,H100"}, {"name": ("A100", "H100")}),
        ({"name": ["A100", Word("4090")], "count": 2}, {"name": ("A100", "4090"), "count": Range(2, 2)}),
        ({"memory": "24GB..", "count": "1.."}, {"memory": Range(24 * GB, None), "count": Range(1, None)}),
        ({"total_memory": 80}, {"total_memory": Range(80 * GB, 80 * GB)}),
        ({"compute_capability": "8.0"}, {"compute_capability": (8, 0)}),
        ({"compute_capability": 8.6}, {"compute_capability": (8, 6)}),
        ({"compute_capability": [8, 9]}, {"compute_capability": (8, 9)}),
        ({"compute_capability": Word("9")}, {"compute_capability": (9, 0)}),
        ({"vendor": "NVIDIA", "count": {"min": 1, "max": 2}}, {"vendor": "nvidia", "count": Range(1, 2)}),
    ],
)
def test_gpu(written: Any, found: dict[str, Any]) -> None:
    """Tokens stand in any order; a bare memory is exact, a bare count is what each node gets."""
    gpu = parse_gpu(written)
    assert {name: getattr(gpu, name) for name in Gpu.model_fields if gpu.wrote(name)} == found


@pytest.mark.parametrize(
    ("written", "hint"),
    [
        ("A100x2", "A100:2"),
        ("A100 x 2", "A100:2"),
        ("A100*2", "A100:2"),
        ("2xA100", "A100:2"),
        ("8 A100", "A100:8"),
        ("2 x A100", "A100:2"),
        ("MI300x8", "MI300X:8"),
        ("A100-80GB", "A100:80GB"),
        ("A100 80G", "A100:80GB"),
        ("A100:H100", "A100,H100"),
        ("2:4", "2..4"),
        ("24GB:40GB", "24GB..40GB"),
        ("nvidia:amd", "write one vendor: nvidia"),
        ("A100:", "A100:2"),
        (":", "A100:2"),
        ("", "A100:2"),
        ("A100:-2", "A100:2"),
        (-1, "A100:2"),
        (2.5, "A100:2"),
        (True, "A100:2"),
        ("no", None),
        ("22:22", "write one count"),
        ("A100:1025", None),
        ("A100,", "A100:2"),
        ("A100:80KB", "smallest unit"),
        ({"count": -1}, None),
        ({"vendor": "intel"}, "nvidia or amd"),
        ({"compute_capability": "sm_80"}, "8.0"),
        ({"nam": "A100"}, None),
        (["A100"], "A100:2"),
    ],
)
def test_gpu_refused(written: Any, hint: str | None) -> None:
    """A wrong GPU is refused, and the hint shows the right spelling."""
    if written == "no":  # a word like any other: an unknown card of that name
        assert parse_gpu(written).name == ("no",)
        return
    with pytest.raises(Refused) as caught:
        parse_gpu(written)
    context = (
        caught.value.errors()[0].get("ctx", {}) if isinstance(caught.value, ValidationError) else caught.value.context
    )
    if hint:
        assert hint in context["hint"]


sizes = st.one_of(
    st.integers(1, 2**20),
    st.integers(1, 2**30).map(lambda gb: gb * 1024),
    st.floats(1, 2**30, allow_nan=False).filter(lambda f: f != int(f)),
)
counts = st.integers(0, 1024)


def ranges(ends: Any) -> Any:
    """Ranges that have at least one end, the smaller one first."""
    both = st.tuples(ends, ends).map(lambda pair: Range(min(pair), max(pair)))
    return st.one_of(
        both, ends.map(lambda e: Range(e, e)), ends.map(lambda e: Range(e, None)), ends.map(lambda e: Range(None, e))
    )


names = st.one_of(
    st.sampled_from([card.name for card in cards()]),
    st.from_regex(r"[A-Z]{1,3}[0-9]{1,3}[A-WYZ]?", fullmatch=True).filter(lambda name: name not in ("X",)),
)


@given(sizes)
def test_size_round_trip(size: float) -> None:
    """parse(print(size)) = size."""
    assert parse_size(format_size(size)) == size
    assert parse_size(gigabytes(size)) == size


@given(ranges(sizes), st.booleans())
def test_size_range_round_trip(found: Range, bare_is_minimum: bool) -> None:
    """parse(print(range)) = range, for memory and for disk."""
    printed = format_range(found, format_size, bare_is_minimum=True)
    assert parse_memory(printed) == parse_disk({"size": printed}) == parse_disk(printed) == found


@given(ranges(st.integers(1, 1000)))
def test_cpu_round_trip(found: Range) -> None:
    """parse(print(cores)) = cores, as text and as a mapping."""
    assert parse_cpu(format_range(found, format_count, bare_is_minimum=False)) == found
    assert parse_cpu({"min": found.min, "max": found.max}) == found


@given(
    st.builds(
        dict,
        vendor=st.sampled_from([None, "nvidia", "amd"]),
        name=st.lists(names, max_size=3),
        count=st.one_of(st.none(), ranges(counts)),
        memory=st.one_of(st.none(), ranges(sizes)),
        total_memory=st.one_of(st.none(), ranges(sizes)),
        compute_capability=st.one_of(st.none(), st.tuples(st.integers(0, 20), st.integers(0, 9))),
    )
)
def test_gpu_round_trip(parts: dict[str, Any]) -> None:
    """parse(print(gpu)) = gpu, whether it prints as a string or as a mapping."""
    given_parts = {
        key: {"min": part.min, "max": part.max} if isinstance(part, Range) else part
        for key, part in parts.items()
        if part
    }
    for key in ("memory", "total_memory"):
        if key in given_parts:
            given_parts[key] = {end: gigabytes(mib) for end, mib in given_parts[key].items()}
    gpu = parse_gpu(given_parts)
    printed = format_gpu(gpu)
    assert parse_gpu(printed) == gpu
    assert format_gpu(parse_gpu(printed)) == printed


@given(st.integers(0, DURATION_MAX_S))
def test_duration_round_trip(seconds: int) -> None:
    """parse(print(duration)) = duration."""
    assert parse_duration(format_duration(seconds)) == seconds
    assert parse_limit(format_duration("off")) == "off"


@given(st.integers(1, 65535), st.one_of(st.none(), st.integers(1, 65535)))
def test_port_round_trip(container: int, local: int | None) -> None:
    """parse(print(port)) = port, and the mapping says the same."""
    port = parse_port({"container_port": container, "local_port": local})
    assert parse_port(format_port(port)) == port


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        (90, 90),
        ("90", 90),
        ("90s", 90),
        ("30m", 1800),
        ("2h", 7200),
        ("1d", 86400),
        ("1w", 604800),
        ("1h30m", 5400),
        ("1H 30M", 5400),
    ],
)
def test_duration(written: Any, seconds: int) -> None:
    """Seconds, one unit, or several from long to short."""
    assert parse_duration(written) == parse_limit(written) == seconds


@pytest.mark.parametrize(
    "written", ["", "30m1h", "1.5h", "-5m", "5 fortnights", True, None, [1], "1e3", "9" * 30, "999999w"]
)
def test_duration_refused(written: Any) -> None:
    """What is no duration is refused."""
    with pytest.raises(Refused):
        parse_duration(written)


@pytest.mark.parametrize("written", ["off", "OFF", False, -1, Word("-1")])
def test_no_limit(written: Any) -> None:
    """off, false and -1 are no limit."""
    assert parse_limit(written) == "off"


@given(names)
def test_a_name_means_its_own_card(name: str) -> None:
    """A card that is reported by a name fits whoever asks for that name."""
    assert match(name, name)
    assert match(name.lower(), f"NVIDIA {name}")
