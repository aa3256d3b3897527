"""What this knows: GPU cards by the names people use, their memory as it is sold, their compute capability.

A card is known to its host by a longer name ("NVIDIA H100 80GB HBM3") and a little less memory (81559 MiB) than
people say ("H100", "80GB"). `match` and `marketing_gb` join the two. A card that is not in the table works by what it
reports. Memory and compute capability are from the vendors' data sheets and NVIDIA's CUDA GPU list; no AMD card has
a compute capability.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

VENDORS: Final = ("nvidia", "amd")


@dataclass(frozen=True, slots=True)
class Card:
    """One model of card."""

    name: str  #: as people write it, capitals, no spaces
    memory_gb: tuple[int, ...]  #: as sold, of one GPU as the driver counts them
    compute_capability: tuple[int, int] | None
    vendor: str = "nvidia"


#: compute capability: "name=memory[/memory…]" of the cards that have it. A GeForce also goes by its number.
_NVIDIA: Final[dict[tuple[int, int], str]] = {
    (12, 1): "GB10=128",
    (12, 0): "RTXPRO6000=96 RTXPRO5000=48/72 RTXPRO4500=32 RTXPRO4000=24 RTXPRO2000=16 RTX5090=32 RTX5090D=24/32 "
    "RTX5080=16 RTX5070TI=16 RTX5070=12 RTX5060TI=8/16 RTX5060=8 RTX5050=8",
    (10, 3): "B300=288 GB300=288",
    (10, 0): "B200=180 GB200=186",
    (9, 0): "H200=141 H100=64/80/94/96 H800=80/94 H20=96/141 GH200=96/144",
    (8, 9): "L40S=48 L40=48 L40G=24 L20=48 L4=24 L2=24 RTX6000ADA=48 RTX5880ADA=48 RTX5000ADA=32 RTX4500ADA=24 "
    "RTX4000ADA=20 RTX4000SFFADA=20 RTX2000ADA=16 RTX4090=24 RTX4090D=24/48 RTX4080SUPER=16 RTX4080=16 "
    "RTX4070TISUPER=16 RTX4070TI=12 RTX4070SUPER=12 RTX4070=12 RTX4060TI=8/16 RTX4060=8",
    (8, 6): "A40=48 A10=24 A10G=24 A10M=24 A16=16 A2=16 RTXA6000=48 RTXA5500=24 RTXA5000=24 RTXA4500=20 RTXA4000=16 "
    "RTXA2000=6/12 RTX3090TI=24 RTX3090=24 RTX3080TI=12 RTX3080=10/12 RTX3070TI=8 RTX3070=8 RTX3060TI=8 "
    "RTX3060=8/12 RTX3050=6/8",
    (8, 0): "A100=40/64/80 A800=40/80 A100X=80 A30=24 A30X=24",
    (7, 5): "T4=16 T4G=16 RTX8000=48 RTX6000=24 RTX5000=16 RTX4000=8 T1000=4/8 TITANRTX=24 RTX2080TI=11/22 "
    "RTX2080SUPER=8 RTX2080=8 RTX2070SUPER=8 RTX2070=8 RTX2060SUPER=8 RTX2060=6/12 GTX1660TI=6 GTX1660SUPER=6 "
    "GTX1660=6 GTX1650=4",
    (7, 0): "V100=16/32 V100S=32 GV100=32 TITANV=12",
    (6, 1): "P40=24 P4=8 P6000=24 P5000=16 TITANXP=12 GTX1080TI=11 GTX1080=8 GTX1070TI=8 GTX1070=8 GTX1060=3/6",
    (6, 0): "P100=12/16 GP100=16",
    (5, 2): "M60=8 M40=12/24 GTX980TI=6",
    (3, 7): "K80=12",
}
_AMD: Final = (
    "MI355X=288 MI350X=288 MI325X=256 MI308X=192 MI300X=192 MI300A=128 MI250X=64/128 MI250=64/128 MI210=64 MI100=32 "
    "MI60=32 MI50=16/32 PROW7900=48 PROW7800=32/48 PROW7700=16 PROW6800=32 AIPROR9700=32 RX9070XT=16 RX9070=16 "
    "RX9060XT=8/16 RX7900XTX=24 RX7900XT=20 RX7900GRE=16 RX7800XT=16 RX7700XT=12 RX7600XT=16 RX7600=8 RX6950XT=16 "
    "RX6900XT=16 RX6800XT=16 RX6800=16 RX6700XT=12 VII=16"
)

_BRANDS: Final = frozenset({"NVIDIA", "AMD", "ATI", "GEFORCE", "TESLA", "QUADRO", "RADEON", "INSTINCT", "GPU"})
#: Words that tell a variant or nothing, not another card.
_ASIDES = re.compile(
    r"\d+GI?B?|HBM\d*E?|SXM\d*|PCIE|NVL|OAM|GDDR\d*X?|GENERATION|GRAPHICS|SERVER|WORKSTATION|EDITION|BLACKWELL|VF|AC|MAXQ|TM"
)
#: Sizes that cards are sold with, for cards that are not in the table.
_USUAL_GB: Final = (
    *(1, 2, 3, 4, 5, 6, 8, 10, 11, 12, 16, 20, 22, 24, 32, 40, 48, 64, 72, 80, 94, 96, 128, 141, 144, 180, 192),
    *(256, 288, 384, 512),
)
#: A driver keeps up to 8 % of the memory for itself (ECC on a T4, an L4, an A10G); known cards may keep more.
_KEPT = 0.08
_KEPT_KNOWN = 0.10


def _table() -> dict[str, tuple[Card, ...]]:
    """Every name, without case and spaces, to the cards it may mean."""
    cards = [c for capability, row in _NVIDIA.items() for c in _row(row, capability, "nvidia")]
    cards += _row(_AMD, None, "amd")
    found: dict[str, tuple[Card, ...]] = {card.name: (card,) for card in cards}
    for card in cards:
        for alias in _aliases(card.name):
            if alias not in found:
                found[alias] = (card,)
    found["MI250XMI250"] = (found["MI250X"][0], found["MI250"][0])  # one driver name for both
    return found


def _row(row: str, capability: tuple[int, int] | None, vendor: str) -> list[Card]:
    pairs = (item.split("=") for item in row.split())
    return [Card(name, tuple(int(gb) for gb in sizes.split("/")), capability, vendor) for name, sizes in pairs]


def _aliases(name: str) -> Iterable[str]:
    short = re.sub(r"^(RTX|GTX|RX|AIPRO|PRO)", "", name)
    if short != name and not re.fullmatch(r"\d000|PRO\d+", short):  # RTX4000 alone is a Quadro, too unclear as 4000
        yield short
    if name.endswith("SUPER"):
        yield name[:-4]
        yield short[:-4]
    if name.startswith("RTXPRO"):
        yield name[3:]
    if name == "VII":
        yield "RADEONVII"


@lru_cache(maxsize=4096)
def _split(name: str) -> tuple[str, frozenset[str]]:
    """The name's core, letters and digits only, and the asides (`SXM`, `80GB`) that were taken out of it."""
    text = name.upper().replace("PCI-E", "PCIE").replace("MAX-Q", "MAXQ").replace("(TM)", "")
    words = [w for w in re.split(r"[^A-Z0-9]+", text) if w]
    joined = "".join(words)
    if joined in _CARDS:
        return joined, frozenset()
    core: list[str] = []
    asides: set[str] = set()
    for word in words:
        if word in _BRANDS:
            continue
        if core and _ASIDES.fullmatch(word):
            asides.add(re.sub(r"^(SXM|HBM).*", r"\1", word).replace("GIB", "GB"))
        else:
            core.append(word)
    return "".join(core), frozenset(asides)


_CARDS: Final = _table()


def cards() -> tuple[Card, ...]:
    """Every card of the table, once."""
    return tuple(dict.fromkeys(card for found in _CARDS.values() for card in found))


def card_of(name: str) -> Card | None:
    """The card that `name` (asked or reported) means; None when it is not in the table."""
    found = _CARDS.get(_split(name)[0])
    return found[0] if found else None


def is_card_number(text: str) -> bool:
    """True for a card that people call by its number alone: `4090`, `3080Ti`."""
    return bool(re.match(r"\d{4}", text)) and _split(text)[0] in _CARDS


@lru_cache(maxsize=8192)
def match(asked: str, reported: str) -> bool:
    """True when the card a host reports is one that people call `asked`."""
    name, wanted = _split(asked)
    core, present = _split(reported)
    if not name or not core:
        return False
    if name != core and not set(_CARDS.get(name, ())) & set(_CARDS.get(core, ())):
        return False
    sizes = {word for word in present if word[0].isdigit()}
    for word in wanted:
        if word == "SXM":
            if present & {"PCIE", "NVL"}:
                return False
        elif word[0].isdigit():
            if sizes and word not in sizes and word + "B" not in sizes:
                return False
        elif word in ("PCIE", "NVL", "OAM") and word not in present:
            return False
    return True


@lru_cache(maxsize=8192)
def marketing_gb(reported_name: str, memory_mib: int) -> float:
    """The memory a card is sold with, from what its driver reports; an unusual size stays as reported, in GB."""
    reported = memory_mib / 1024
    card = card_of(reported_name)
    for size in card.memory_gb if card else ():
        if _is_sold_as(reported, size, _KEPT_KNOWN):
            return float(size)
    for size in _USUAL_GB:
        if _is_sold_as(reported, size, _KEPT):
            return float(size)
    return round(reported, 1)


def _is_sold_as(reported: float, size: int, kept: float) -> bool:
    return size * (1 - kept) <= reported <= size * 1.01
