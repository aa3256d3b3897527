"""Names of hosts, folded and sorted as people read them."""

from __future__ import annotations

import pytest

from pool.cli.alike import by_number, folded, grouped


@pytest.mark.parametrize(
    ("names", "short"),
    [
        (["gpu1"], "gpu1"),
        (["gpu1", "gpu2", "gpu3", "gpu7"], "gpu[1-3,7]"),
        (["gpu8", "gpu9", "gpu10"], "gpu[8-10]"),
        (["n08", "n09", "n10"], "n[08-10]"),
        (["n9", "n010"], "n[9,010]"),
        (["r1-gpu1", "r1-gpu2", "r2-gpu1"], "r1-gpu[1-2],r2-gpu1"),
        (["gpu1.lab", "gpu2.lab", "head"], "gpu[1-2].lab,head"),
        ([], ""),
    ],
)
def test_folded(names: list[str], short: str) -> None:
    """Ranges of the last number, each with its own width."""
    assert folded(names) == short


def test_grouped() -> None:
    """By what was said; gpu2 comes before gpu10."""
    said = {"gpu10": b"a", "gpu2": b"a", "gpu1": b"b"}
    assert grouped(said.items()) == [["gpu1"], ["gpu2", "gpu10"]]
    assert sorted(["b", "a10", "a9", "9", "a"], key=by_number) == ["9", "a", "a9", "a10", "b"]
