"""What this decides: which of two hosts that fit is better. Smaller keys are better; they end in the host's name.

Without GPUs asked: hosts without GPUs first, then the least loaded, then the one with most CPUs free.
With GPUs: the host that has the fewest left free afterwards, then the smallest cards, so that whole hosts and large
cards stay free for those who need them.
"""

from __future__ import annotations

from pool.host import HostView
from pool.offer import Offer
from pool.scheduler.feasible import Ask

Key = tuple[float, float, float, str, str]


def key(ask: Ask, offer: Offer, view: HostView) -> Key:
    """The place of an offer among others for the same request; `view` is the host before the offer is taken."""
    host = offer.host
    if offer.gpus and ask.cards:
        largest = max(map(ask.cards.size_mib, offer.gpus))
        return (len(view.free_gpus) - len(offer.gpus), largest, view.jobs, host.name, host.id)
    cpus = host.facts.cpus if host.facts else 0
    load = 1 - view.free_cpus / cpus if cpus else 1.0
    return (bool(host.gpus), load, -view.free_cpus, host.name, host.id)
