"""What is asked of `nvidia-smi`, here or anywhere, and what a real one answered: nvidia_smi.json.

On a machine with a card, `python tests/contract/nvidia_smi.py` asks its own and prints that file anew.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

RECORD = Path(__file__).with_suffix(".json")
_PROBE = "index,uuid,name,memory.total,driver_version,compute_cap"
_LIVE = "memory.used,memory.free,utilization.gpu,temperature.gpu,power.draw,pci.bus_id"
#: Name of a case -> arguments; {uuid} stands for that of the first card.
CASES = {
    "list": ["-L"],
    "probe": [f"--query-gpu={_PROBE}", "--format=csv,noheader,nounits"],
    "heading and units": [f"--query-gpu={_PROBE},gpu_uuid,gpu_name,count", "--format=csv"],
    "what changes": [f"--query-gpu={_LIVE}", "--format=csv"],
    "settings": ["--query-gpu=persistence_mode,mig.mode.current,ecc.errors.uncorrected.volatile.total", "--format=csv"],
    "one by index": ["-i", "0", "--query-gpu=uuid", "--format=csv,noheader"],
    "one by uuid": ["--id={uuid}", "--query-gpu=index", "--format=csv,noheader"],
    "list one": ["-L", "-i", "0"],
    "no such index": ["-i", "7", "--query-gpu=uuid", "--format=csv,noheader"],
    "no such uuid": ["-i", "GPU-00000000-0000-0000-0000-000000000000", "--query-gpu=uuid", "--format=csv,noheader"],
    "a typo": ["--query-gpu=index,memroy.total", "--format=csv"],
    "no format": ["--query-gpu=index"],
    "no process": ["--query-compute-apps=pid,used_memory", "--format=csv,noheader"],
}


def ask(program: str, uuid: str, arguments: list[str]) -> dict[str, Any]:
    """Exit code and output; the card's own UUID reads UUID."""
    argv = [program, *(word.replace("{uuid}", uuid) for word in arguments)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    return {"code": done.returncode, "out": (done.stdout + done.stderr).replace(uuid, "UUID")}


def answers(program: str) -> dict[str, Any]:
    """The answers of all cases, by name. CalledProcessError where there is no card."""
    first = [program, "--query-gpu=uuid", "--format=csv,noheader", "-i", "0"]
    uuid = subprocess.run(first, capture_output=True, text=True, timeout=60, check=True).stdout.strip()
    return {name: ask(program, uuid, arguments) for name, arguments in CASES.items()}


def shape(text: str) -> str:
    """The text with every number as N, for values that change."""
    return re.sub(r"\b[0-9A-F]*\d[0-9A-F]*(\.\d+)?\b", "N", text)


if __name__ == "__main__":
    json.dump(answers("nvidia-smi"), sys.stdout, indent=1)
    sys.stdout.write("\n")
