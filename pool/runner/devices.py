"""Which devices the unit of a job may open: all of this host's, but the NVIDIA cards that are not the job's.

systemd knows no rule that takes away, so it is given everything else: every class of devices that the kernel has but
the cards', the numbers that classes of modules loaded later will get (nvidia-uvm is, by the first CUDA program), and of
the cards' own class the job's and those that are no card. By number, because systemd drops a rule for a name or a file
that is not there when the job starts.

No rule is made, and everything stays open, where it is not known which device a card of the job is: better a job that
could reach for another card than one without its own. So it is for a part of a card (MIG): it is reached through the
card and through devices of its own.
"""

from __future__ import annotations

import glob
import os

#: The class of NVIDIA's cards, and the numbers in it that are no card: nvidia-modeset, nvidiactl.
_CARDS = 195
_NO_CARDS = [254, 255]
#: What the kernel gives to classes without a number of their own, in its order (fs/char_dev.c: find_dynamic_major).
_DYNAMIC = [*range(254, 233, -1), *range(511, 383, -1)]
#: Classes that may come while a job runs; each rule takes 0.1 ms of a job's start.
_TO_COME = 16


def properties(gpus: list[str], proc: str = "/proc") -> list[str]:
    """The properties of a unit that has these cards, by UUID; none where no rule can be made or is needed."""
    minors = _minors(proc)
    if not minors or not minors.keys() >= set(gpus):
        return []
    there = _classes(proc)
    to_come = [number for number in _DYNAMIC if number not in there][:_TO_COME]
    allowed = ["block-*", *("char-{}".format(number) for number in sorted(there - {_CARDS}) + to_come)]
    allowed += ["/dev/char/{}:{}".format(_CARDS, each) for each in [*(minors[uuid] for uuid in gpus), *_NO_CARDS]]
    return ["DevicePolicy=closed", *("DeviceAllow={} rwm".format(each) for each in allowed)]


def _minors(proc: str) -> dict[str, int]:
    """The number of each card that the driver has, by UUID; a card that nobody has used yet hides its UUID."""
    found = {}
    for path in glob.glob(os.path.join(proc, "driver/nvidia/gpus/*/information")):
        try:
            with open(path, errors="replace") as file:
                lines = [line.partition(":") for line in file]
        except OSError:
            continue
        told = {name.strip(): value.strip() for name, _, value in lines}
        if told.get("Device Minor", "").isdigit():
            found[told.get("GPU UUID", path)] = int(told["Device Minor"])
    return found


def _classes(proc: str) -> set[int]:
    """The numbers of the kernel's classes of character devices."""
    with open(os.path.join(proc, "devices")) as file:
        lines = file.read().partition("Block devices:")[0].splitlines()
    return {int(line.split()[0]) for line in lines if line[:3].strip().isdigit()}
