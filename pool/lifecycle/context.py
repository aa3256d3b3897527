"""What every verb of the lifecycle works with: the store, the links, the bell, and threads for calls to hosts."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pool.lifecycle.bell import Bell
from pool.lifecycle.code import limit_bytes
from pool.runner.code import Code

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pool.lifecycle.keeper import Keeper
    from pool.store.store import Store

#: Calls to hosts under way at once; each waits on a network, not on a CPU.
_CALLS_AT_ONCE = 128


@dataclass(slots=True)
class Context:
    """One running server's parts."""

    folder: str  #: the state folder
    store: Store
    epoch: int
    bell: Bell = field(default_factory=Bell)
    #: By host id: GPUs that jobs hold there which are not ours, or no longer, as the host last said.
    foreign: dict[str, frozenset[str]] = field(default_factory=dict)
    #: By host id: the number of the host's last word on its drain, and why it takes no jobs; None when it takes some.
    drains: dict[str, tuple[int, str | None]] = field(default_factory=dict)
    settling: threading.Lock = field(default_factory=threading.Lock)  #: one at a time says ready or draining
    keeper: Keeper = field(init=False)
    code: Code = field(init=False)  #: the folders that were sent here
    calls: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(_CALLS_AT_ONCE, thread_name_prefix="call")
    )

    def __post_init__(self) -> None:
        self.code = Code(os.path.join(self.folder, "code"), limit_bytes, self._needed_code)

    def _needed_code(self) -> list[str]:
        """The folders that live runs may yet send to a host."""
        return [run.code for run in self.store.runs.live() if run.code]

    def every(self, call: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
        """`call` on each item at the same time; results in order, or the exceptions they ended with."""
        if len(items) == 1:
            return [_outcome(call, items[0])]
        return list(self.calls.map(lambda item: _outcome(call, item), items))


def _outcome(call: Callable[[Any], Any], item: Any) -> Any:
    try:
        return call(item)
    except Exception as error:
        return error
