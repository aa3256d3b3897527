"""The runner's version and the wire protocol it speaks."""

from __future__ import annotations

#: Equal to `pool.__version__`; a test holds it, because the zipapp carries no other part of pool.
VERSION = "0.1.0"

#: Range of wire protocols understood; the link and the runner settle on the highest both know.
PROTOCOL_MIN = 2
PROTOCOL_MAX = 2
