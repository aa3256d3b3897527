"""What the kernel does when memory runs out: whom it spares, and whether it has killed one of a job's processes."""

from __future__ import annotations

#: For a supervisor, so that a job never loses it to its own hunger.
SPARED = -1000


def be_like_others() -> None:
    """Undo in this process, and what it starts, what spares its parent."""
    with open("/proc/self/oom_score_adj", "w") as file:
        file.write("0")


def kills() -> int:
    """How many processes of this one's control group the kernel has killed for want of memory; 0 where none counts."""
    with open("/proc/self/cgroup") as file:
        groups = [line.rstrip("\n").split(":", 2) for line in file]
    found = 0
    for _, controllers, path in groups:
        if "memory" in controllers.split(","):
            found += _count("/sys/fs/cgroup/memory{}/memory.oom_control".format(path))
        elif not controllers:
            found += _count("/sys/fs/cgroup{}/memory.events".format(path))
    return found


def _count(path: str) -> int:
    """The line `oom_kill` of one of the kernel's files."""
    try:
        with open(path) as file:
            counts = dict(line.split() for line in file)
    except OSError:
        return 0
    return int(counts.get("oom_kill", 0))
