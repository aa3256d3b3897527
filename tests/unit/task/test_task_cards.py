"""Cards: the names people use against the names drivers report, sold memory against reported memory."""

from __future__ import annotations

import pytest

from pool.cards import card_of, cards, is_card_number, marketing_gb, match


@pytest.mark.parametrize(
    ("reported", "mib", "sold_gb", "asked"),
    [
        ("NVIDIA H100 80GB HBM3", 81559, 80, ["H100", "h100", "H100 SXM", "nvidia h100"]),
        ("NVIDIA H100 PCIe", 81559, 80, ["H100", "H100 PCIe", "H100-PCIE"]),
        ("NVIDIA H100 NVL", 95830, 94, ["H100", "H100 NVL"]),
        ("NVIDIA H200", 143771, 141, ["H200"]),
        ("NVIDIA GH200 480GB", 97871, 96, ["GH200"]),
        ("NVIDIA B200", 183359, 180, ["B200"]),
        ("NVIDIA A100-SXM4-80GB", 81920, 80, ["A100", "A100-SXM4-80GB"]),
        ("NVIDIA A100-PCIE-40GB", 40960, 40, ["A100"]),
        ("NVIDIA A100 80GB PCIe", 81920, 80, ["A100"]),
        ("NVIDIA A10", 23028, 24, ["A10"]),
        ("NVIDIA A10G", 23028, 24, ["A10G"]),
        ("NVIDIA A30", 24576, 24, ["A30"]),
        ("NVIDIA A40", 46068, 48, ["A40"]),
        ("NVIDIA L4", 23034, 24, ["L4"]),
        ("NVIDIA L40", 46068, 48, ["L40"]),
        ("NVIDIA L40S", 46068, 48, ["L40S"]),
        ("Tesla T4", 15360, 16, ["T4", "Tesla T4"]),
        ("Tesla T4", 15109, 16, ["T4"]),
        ("Tesla V100-SXM2-16GB", 16384, 16, ["V100"]),
        ("Tesla V100-SXM2-32GB", 32510, 32, ["V100"]),
        ("Tesla P100-PCIE-16GB", 16280, 16, ["P100"]),
        ("Tesla K80", 11441, 12, ["K80"]),
        ("NVIDIA GeForce RTX 5090", 32607, 32, ["RTX5090", "5090"]),
        ("NVIDIA GeForce RTX 4090", 24564, 24, ["RTX4090", "4090", "RTX 4090", "rtx-4090", "GeForce RTX 4090"]),
        ("NVIDIA GeForce RTX 4080 SUPER", 16376, 16, ["RTX4080Super", "4080 Super", "4080S"]),
        ("NVIDIA GeForce RTX 3080 Ti", 12288, 12, ["RTX3080Ti", "3080Ti"]),
        ("NVIDIA GeForce GTX 1080 Ti", 11264, 11, ["GTX1080Ti", "1080Ti"]),
        ("NVIDIA RTX A6000", 49140, 48, ["A6000", "RTXA6000", "RTX A6000"]),
        ("NVIDIA RTX 6000 Ada Generation", 49140, 48, ["RTX6000Ada", "RTX 6000 Ada", "6000Ada"]),
        ("Quadro RTX 6000", 24576, 24, ["RTX6000"]),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", 97887, 96, ["RTXPRO6000", "RTX PRO 6000", "PRO6000"]),
        ("AMD Instinct MI300X OAM", 196592, 192, ["MI300X", "amd mi300x"]),
        ("AMD Instinct MI250X / MI250", 65520, 64, ["MI250X", "MI250"]),
        ("AMD Radeon PRO W7900", 49136, 48, ["W7900"]),
        ("AMD Radeon RX 7900 XTX", 24560, 24, ["RX7900XTX", "7900XTX"]),
    ],
)
def test_reported_cards(reported: str, mib: int, sold_gb: float, asked: list[str]) -> None:
    """A card is found by what people call it, and has the memory it is sold with."""
    assert card_of(reported) is not None
    assert [name for name in asked if not match(name, reported)] == []
    assert marketing_gb(reported, mib) == sold_gb


@pytest.mark.parametrize(
    ("asked", "reported"),
    [
        ("L40", "NVIDIA L40S"),
        ("L40S", "NVIDIA L40"),
        ("L4", "NVIDIA L40"),
        ("A10", "NVIDIA A10G"),
        ("A10G", "NVIDIA A10"),
        ("A100", "NVIDIA A10"),
        ("A10", "NVIDIA A100-SXM4-40GB"),
        ("H100", "NVIDIA H200"),
        ("H100 NVL", "NVIDIA H100 80GB HBM3"),
        ("H100 SXM", "NVIDIA H100 PCIe"),
        ("A100-80GB", "NVIDIA A100-SXM4-40GB"),
        ("4080", "NVIDIA GeForce RTX 4080 SUPER"),
        ("RTX3080", "NVIDIA GeForce RTX 3080 Ti"),
        ("RTX6000", "NVIDIA RTX 6000 Ada Generation"),
        ("RTX4090", "NVIDIA GeForce RTX 4090 Laptop GPU"),
        ("V100", "Tesla V100S-PCIE-32GB"),
        ("MI300X", "AMD Instinct MI300A"),
        ("A6000", "Quadro RTX 6000"),
        ("", "NVIDIA L4"),
        ("NVIDIA", "NVIDIA L4"),
    ],
)
def test_other_cards(asked: str, reported: str) -> None:
    """A card is not another one whose name begins alike."""
    assert not match(asked, reported)


def test_unknown_card() -> None:
    """A card that is not in the table works by what it reports."""
    assert match("Foo9000", "NVIDIA Foo9000 PCIe")
    assert marketing_gb("NVIDIA Foo9000", 46_068) == 48
    assert marketing_gb("NVIDIA Foo9000", 30_000) == 29.3


def test_table() -> None:
    """At least 60 cards, each with memory, each NVIDIA one with a compute capability."""
    assert len(cards()) >= 60
    assert all(card.memory_gb for card in cards())
    assert all((card.compute_capability is None) == (card.vendor == "amd") for card in cards())


def test_card_numbers() -> None:
    """Numbers that people call cards by are names; counts and what a Quadro may be are not."""
    assert [n for n in ("4090", "3090", "1080", "3080Ti", "7900XTX") if not is_card_number(n)] == []
    assert [n for n in ("2", "8", "16", "4000", "6000", "1234", "100") if is_card_number(n)] == []
