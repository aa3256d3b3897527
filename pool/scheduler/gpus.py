"""What this decides: which GPUs of a host meet a GPU request, how many of them a rank gets, and which ones.

A rank gets the smallest number of the asked range that also meets `total_memory`: 2 is two, 1.. is one, 0.. is none,
and no lower end is one. Its cards are of one model where the host has enough such cards, the smallest model first,
then by index.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from operator import attrgetter

from pool.cards import card_of, marketing_gb, match
from pool.host import Gpu
from pool.offer import GpuRequest, Miss, Range
from pool.scheduler.words import bounds, capability, distinct, size

#: All that tells one card from another: its name, memory, vendor and compute capability.
Kind = tuple[str, int, str, tuple[int, int] | None]

_kind: Callable[[Gpu], Kind] = attrgetter("name", "memory_mib", "vendor", "compute_capability")
_position: Callable[[Gpu], tuple[int, str]] = attrgetter("index", "uuid")


def capability_of(gpu: Gpu) -> tuple[int, int] | None:
    """The compute capability the card reports, else the one its model is known for (old drivers report none)."""
    known = card_of(gpu.name)
    return gpu.compute_capability or (known.compute_capability if known else None)


def spoken(gpu: Gpu) -> str:
    """What people call the card."""
    known = card_of(gpu.name)
    return known.name if known else gpu.name


@dataclass(frozen=True, slots=True)
class Whole:
    """What hosts with the same cards could give with all of them free."""

    given: int  #: how many a rank would get
    fitting: int  #: how many meet what is asked of a single card
    misses: tuple[Miss, ...]  #: why they do not suffice


class Cards:
    """A GPU request, worked out once for many hosts: each kind of card is judged a single time."""

    def __init__(self, asked: GpuRequest) -> None:
        self.asked = asked
        low = asked.count.min
        self.least = 1 if low is None else math.ceil(low)
        self.most = math.inf if asked.count.max is None else asked.count.max
        #: `gpu: 0`: only hosts without GPUs.
        self.forbidden = self.most == 0
        self._whole: dict[tuple[Kind, ...], Whole] = {}
        self._sizes: dict[tuple[str, int], float] = {}
        self._fits: dict[Kind, bool] = {}

    def size_mib(self, gpu: Gpu) -> float:
        """The size the card is sold with, in MiB."""
        key = (gpu.name, gpu.memory_mib)
        if key not in self._sizes:
            self._sizes[key] = marketing_gb(gpu.name, gpu.memory_mib) * 1024
        return self._sizes[key]

    def is_vendor(self, gpu: Gpu) -> bool:
        """Whether the card is of the asked vendor."""
        return self.asked.vendor is None or gpu.vendor.lower() == self.asked.vendor.lower()

    def is_named(self, gpu: Gpu) -> bool:
        """Whether the card is one of those asked by name."""
        return not self.asked.names or any(match(name, gpu.name) for name in self.asked.names)

    def is_sized(self, gpu: Gpu) -> bool:
        """Whether the card's memory is in the asked range."""
        return self.asked.memory_mib is None or self.size_mib(gpu) in self.asked.memory_mib

    def is_capable(self, gpu: Gpu) -> bool:
        """Whether the card's compute capability is at least the asked one; an unknown one is not."""
        wanted, has = self.asked.compute_capability, capability_of(gpu)
        return wanted is None or (has is not None and has >= wanted)

    def fits(self, gpu: Gpu) -> bool:
        """Whether this one card meets everything asked of a single card."""
        key = (gpu.name, gpu.memory_mib, gpu.vendor, gpu.compute_capability)
        known = self._fits.get(key)
        if known is None:
            known = self.is_vendor(gpu) and self.is_named(gpu) and self.is_sized(gpu) and self.is_capable(gpu)
            self._fits[key] = known
        return known

    def fitting(self, gpus: Iterable[Gpu]) -> list[Gpu]:
        """Those of `gpus` that fit, by index."""
        fits = self._fits
        for gpu in gpus:
            if (gpu.name, gpu.memory_mib, gpu.vendor, gpu.compute_capability) not in fits:
                self.fits(gpu)
        found = [g for g in gpus if fits[g.name, g.memory_mib, g.vendor, g.compute_capability]]
        found.sort(key=_position)
        return found

    def choose(self, gpus: Sequence[Gpu]) -> tuple[Gpu, ...] | None:
        """The GPUs one rank gets out of `gpus`, by index; None when they do not suffice."""
        total = self.asked.total_memory_mib
        if self.least == 0 and (total is None or 0 in total):
            return ()
        if len(gpus) < self.least:
            return None
        found = self.fitting(gpus)
        if not found or len(found) < self.least or self.least > self.most:
            return None
        models = self._models(found)
        if total is not None:
            return self._choose_total(found, models)
        for cards in models:
            if len(cards) >= self.least:
                return tuple(cards[: self.least])
        smallest = [gpu for cards in models for gpu in cards][: self.least]
        return tuple(sorted(smallest, key=_position))

    def whole(self, gpus: Sequence[Gpu]) -> Whole:
        """What a host with these cards could give if all were free; worked out once for hosts with the same cards."""
        kinds = tuple(map(_kind, gpus))
        known = self._whole.get(kinds)
        if known is None:
            chosen = None if self.forbidden and gpus else self.choose(gpus)
            misses = _lacks(self, gpus) if chosen is None else ()
            known = self._whole[kinds] = Whole(len(chosen or ()), len(self.fitting(gpus)), tuple(misses))
        return known

    def _models(self, found: Sequence[Gpu]) -> Sequence[Sequence[Gpu]]:
        """The cards by model, the smallest model first."""
        first = found[0]
        if all(gpu.name == first.name and gpu.memory_mib == first.memory_mib for gpu in found):
            return [found]
        models: dict[tuple[float, str, int], list[Gpu]] = {}
        for gpu in found:
            models.setdefault((self.size_mib(gpu), gpu.name, gpu.memory_mib), []).append(gpu)
        return [models[key] for key in sorted(models)]

    def _choose_total(self, found: Sequence[Gpu], models: Sequence[Sequence[Gpu]]) -> tuple[Gpu, ...] | None:
        """The fewest cards whose sizes add up to the asked total: of one model, else of several."""
        total = self.asked.total_memory_mib
        assert total is not None
        mixed = _sums(found, self.size_mib) if len(models) > 1 else {}
        for number in range(max(self.least, 1), int(min(self.most, len(found))) + 1):
            for cards in models:
                if len(cards) >= number and number * self.size_mib(cards[0]) in total:
                    return tuple(cards[:number])
            sums = sorted(s for n, s in mixed if n == number and s in total)
            if sums:
                return mixed[number, sums[0]]
        return None

    def totals(self, gpus: Sequence[Gpu]) -> list[float]:
        """Every total size that an allowed number of the fitting cards reaches, in MiB, ascending."""
        found = self.fitting(gpus)
        return sorted({s for n, s in _sums(found, self.size_mib) if max(self.least, 1) <= n <= self.most})

    def asked_of_card(self) -> str:
        """What is asked of a single card, in words."""
        asked = self.asked
        words = [asked.vendor or "", " or ".join(asked.names)]
        words.append(bounds(asked.memory_mib, size) if asked.memory_mib else "")
        words.append(f"compute capability ≥ {capability(asked.compute_capability)}" if asked.compute_capability else "")
        return ", ".join(word for word in words if word)

    def described(self, gpus: Iterable[Gpu]) -> str:
        """The cards in words, each kind once."""
        return distinct(
            f"{gpu.name} ({size(self.size_mib(gpu))}, compute capability {capability(capability_of(gpu))})"
            for gpu in gpus
        )


def _sums(gpus: Sequence[Gpu], size_of: Callable[[Gpu], float]) -> dict[tuple[int, float], tuple[Gpu, ...]]:
    """For each number of cards and each total they can reach, the first cards that reach it."""
    reached: dict[tuple[int, float], tuple[Gpu, ...]] = {(0, 0.0): ()}
    for gpu in gpus:
        for (number, total), cards in list(reached.items()):
            reached.setdefault((number + 1, total + size_of(gpu)), (*cards, gpu))
    return reached


def _lacks(cards: Cards, gpus: Sequence[Gpu]) -> list[Miss]:
    """What a host misses whose GPUs do not suffice even when all are free: what no card has, then how many."""
    asked = cards.asked
    if cards.forbidden:
        return [Miss("gpus", "0", str(len(gpus)))]
    found: list[Miss] = []
    if not any(map(cards.is_vendor, gpus)):
        found.append(Miss("gpu vendor", asked.vendor or "any", distinct(gpu.vendor for gpu in gpus)))
    named = tuple(filter(cards.is_named, gpus))
    if not named:
        found.append(Miss("gpu name", distinct(asked.names), distinct(gpu.name for gpu in gpus)))
    shown = named or gpus
    if asked.memory_mib and not any(map(cards.is_sized, shown)):
        has = distinct(size(cards.size_mib(gpu)) for gpu in shown)
        found.append(Miss("gpu memory", bounds(asked.memory_mib, size), has))
    if not any(map(cards.is_capable, shown)):
        has = distinct(capability(capability_of(gpu)) for gpu in shown)
        found.append(Miss("compute capability", f"≥ {capability(asked.compute_capability)}", has))
    fitting = cards.fitting(gpus)
    if len(gpus) < cards.least:
        found.append(Miss("gpus", bounds(asked.count), str(len(gpus))))
    elif fitting and len(fitting) < cards.least:
        found.append(Miss("gpus", bounds(asked.count), f"{len(fitting)} of {len(gpus)} that fit"))
    elif fitting and asked.total_memory_mib:
        has = _nearest(asked.total_memory_mib, cards.totals(gpus))
        found.append(Miss("gpu total memory", bounds(asked.total_memory_mib, size), has))
    return found or [Miss("gpu", f"one card with {cards.asked_of_card()}", cards.described(gpus))]


def _nearest(asked: Range, totals: Sequence[float]) -> str:
    """The totals nearest to the asked range, in words."""
    below = [size(total) for total in totals if asked.min is not None and total < asked.min]
    above = [size(total) for total in totals if asked.max is not None and total > asked.max]
    return " or ".join(below[-1:] + above[:1]) or "none"
