"""What the kernel does when memory runs out: whom it spares, and whether it has killed one of a job's processes."""

from __future__ import annotations

import errno
import os

#: For a supervisor, so that a job does not lose it to its own hunger. Not -1000: where files in memory alone fill the
#: job's limit the kernel must find somebody to end, or whoever asks for memory next waits for ever.
SPARED = -999


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


def logged(group: str, log: str = "/dev/kmsg") -> bool:
    """True when the kernel's log tells of such a kill in the control group of that name, which may be gone.

    For containers: their groups go with them, and an engine does not always hear of it. False where there is no log.
    """
    try:
        fd = os.open(log, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        while True:
            try:
                record = os.read(fd, 8192)
            except OSError as error:
                if error.errno == errno.EPIPE:  # overwritten before it was read
                    continue
                return False  # EAGAIN: that was the last
            place = record.partition(b"oom-kill:")[2].partition(b"task_memcg=")[2].partition(b",")[0]
            if group.encode() in place:
                return True
            if not record:
                return False
    finally:
        os.close(fd)


def _count(path: str) -> int:
    """The line `oom_kill` of one of the kernel's files."""
    try:
        with open(path) as file:
            counts = dict(line.split() for line in file)
    except OSError:
        return 0
    return int(counts.get("oom_kill", 0))
