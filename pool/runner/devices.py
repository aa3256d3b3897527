"""Which devices the unit of a job may open: all of this host's, but the NVIDIA cards that are not the job's.

systemd knows no rule that takes away, so it is given everything else: every class of devices of the kernel but the
cards', the numbers that classes of modules loaded later will get (nvidia-uvm is, by the first CUDA program), and of the
cards' own class the job's and those that are no card.

No rule is made, and everything stays open, where it is not known which device a card of the job is: better a job that
could reach for another card than one without its own. So it is for a part of a card (MIG): it is reached through the
card and through devices of its own.
"""

from __future__ import annotations

import glob
import os
import stat

#: The major number of NVIDIA's cards, and the minors of it that are no card.
_CARDS = 195
_NO_CARDS = {"nvidiactl": 255, "nvidia-modeset": 254}
#: What the kernel gives to classes without a number of their own, in its order (fs/char_dev.c: find_dynamic_major).
_DYNAMIC = [*range(254, 233, -1), *range(511, 383, -1)]
#: Classes that may come while a job runs; each rule takes 0.1 ms of a job's start.
_TO_COME = 16


def properties(gpus: list[str], root: str = "/") -> list[str]:
    """The properties of a unit that has these cards, by UUID; none where no rule can be made or is needed."""
    minors = _minors(root)
    if not minors or not minors.keys() >= set(gpus):
        return []
    own = {"nvidia{}".format(minors[uuid]): minors[uuid] for uuid in gpus}
    classes = _classes(root)
    allowed = ["block-*", *("char-" + name for name in classes)]
    free = [major for major in _DYNAMIC if major not in classes.values()]
    allowed += ["char-{}".format(major) for major in free[:_TO_COME]]
    allowed += [_node(root, name, minor) for name, minor in {**own, **_NO_CARDS}.items()]
    return ["DevicePolicy=closed", *("DeviceAllow={} rwm".format(each) for each in allowed)]


def _minors(root: str) -> dict[str, int]:
    """The minor number of each card whose driver is loaded, by UUID; a card that nobody has used yet hides its UUID."""
    found = {}
    for path in glob.glob(os.path.join(root, "proc/driver/nvidia/gpus/*/information")):
        try:
            with open(path, errors="replace") as file:
                lines = [line.partition(":") for line in file]
        except OSError:
            continue
        told = {name.strip(): value.strip() for name, _, value in lines}
        if told.get("Device Minor", "").isdigit():
            found[told.get("GPU UUID", path)] = int(told["Device Minor"])
    return found


def _classes(root: str) -> dict[str, int]:
    """The kernel's classes of character devices, name to major number, without the cards'."""
    with open(os.path.join(root, "proc/devices")) as file:
        lines = [line.split() for line in file.read().partition("\n\n")[0].splitlines()[1:]]
    return {name: int(major) for major, name in lines if int(major) != _CARDS}


def _node(root: str, name: str, minor: int) -> str:
    """What systemd knows the device by: its file, else its number, which systemd before 240 does not understand."""
    try:
        made = os.stat(os.path.join(root, "dev", name))
    except OSError:
        made = None
    if made and stat.S_ISCHR(made.st_mode) and made.st_rdev == os.makedev(_CARDS, minor):
        return "/dev/" + name
    return "/dev/char/{}:{}".format(_CARDS, minor)
