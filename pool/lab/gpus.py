"""What this holds: the cards a lab host pretends to have, in its `gpus.json`, and the `nvidia-smi` that tells of them.

Names and memory are as real cards report them. UUIDs are made once and kept: a card stays itself over restarts.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import uuid
from typing import Any, Final

from pool.errors import InputError
from pool.lab import nvidia_smi

#: Name by which people ask for it -> (name as reported, MiB as reported, compute capability).
MODELS: Final = {
    "H200": ("NVIDIA H200", 143771, "9.0"),
    "H100": ("NVIDIA H100 80GB HBM3", 81559, "9.0"),
    "A100": ("NVIDIA A100-SXM4-80GB", 81920, "8.0"),
    "A100-40GB": ("NVIDIA A100-SXM4-40GB", 40960, "8.0"),
    "L40S": ("NVIDIA L40S", 46068, "8.9"),
    "A10G": ("NVIDIA A10G", 23028, "8.6"),
    "RTX4090": ("NVIDIA GeForce RTX 4090", 24564, "8.9"),
    "T4": ("Tesla T4", 15360, "7.5"),
}
DRIVER: Final = "550.127.08"


def check(count: int, model: str) -> None:
    """Refuse, as an InputError, cards that `write` cannot give."""
    if model not in MODELS:
        raise InputError(f"no such GPU model: {model}; there are {', '.join(MODELS)}")
    if not 0 <= count <= 16:
        raise InputError(f"a lab host has 0 to 16 GPUs, not {count}")


def write(folder: str, count: int, model: str, *, fault: str | None = None, seen_as: str | None = None) -> None:
    """Give the host in `folder` that many cards of that model; cards it already had keep their UUIDs.

    `fault` makes them sick: see `pool.lab.nvidia_smi`. With no card, the host has no `nvidia-smi` either, unless this
    machine has a real one: then a stand-in that finds no device hides it. `seen_as` is where a host that is not this
    machine has the folder.
    """
    check(count, model)
    path = os.path.join(folder, "gpus.json")
    known = [str(gpu["uuid"]) for gpu in read(folder)["gpus"]]
    uuids = (known + [f"GPU-{uuid.uuid4()}" for _ in range(count)])[:count]
    name, memory, capability = MODELS[model]
    cards = {
        "driver": DRIVER,
        "fault": fault,
        "gpus": [{"uuid": u, "name": name, "memory.total": memory, "compute_cap": capability} for u in uuids],
    }
    with open(path + ".new", "w", encoding="utf-8") as file:
        json.dump(cards, file, indent=2)
        os.fchmod(file.fileno(), 0o644)  # whoever may log in there may look
    os.replace(path + ".new", path)
    program = os.path.join(folder, "bin", "nvidia-smi")
    if count or (seen_as is None and shutil.which("nvidia-smi")):
        _write_program(program, folder, seen_as or folder)
    elif os.path.exists(program):
        os.unlink(program)


def read(folder: str) -> dict[str, Any]:
    """What `gpus.json` of the host in `folder` says; no cards when there is none yet."""
    try:
        with open(os.path.join(folder, "gpus.json"), encoding="utf-8") as file:
            found: dict[str, Any] = json.load(file)
            return found
    except FileNotFoundError:
        return {"driver": DRIVER, "fault": None, "gpus": []}


def _write_program(program: str, folder: str, seen_as: str) -> None:
    os.makedirs(os.path.dirname(program), exist_ok=True)
    shutil.copyfile(nvidia_smi.__file__, os.path.join(folder, "nvidia_smi.py"))
    source, cards = (shlex.quote(os.path.join(seen_as, name)) for name in ("nvidia_smi.py", "gpus.json"))
    with open(program, "w", encoding="utf-8") as file:
        file.write(f'#!/bin/sh\nexec python3 -I -S {source} {cards} "$@"\n')
    os.chmod(program, 0o755)  # noqa: S103 -- a program that anyone may run
