"""The stand-in for `nvidia-smi` on a lab host: the same options, text and exit codes, for cards that are not there.

tests/contract/test_nvidia_smi.py holds it against what a real one answered.

It runs on the lab host as a program of its own (standard library, Python >= 3.8) and reads the JSON file that it is
given: `{"driver": "550.127.08", "fault": null, "gpus": [{"uuid", "name", "memory.total", "compute_cap"}, ...]}`.
`fault` is what a sick card does: `hang` (no answer), `driver` (rc 9, driver not loaded), `none` (rc 6, no devices).
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

#: What `--query-gpu` may name: field -> (column heading with its unit, value when the file has none).
FIELDS = {
    "index": ("index", ""),
    "uuid": ("uuid", ""),
    "gpu_uuid": ("uuid", ""),
    "name": ("name", ""),
    "gpu_name": ("name", ""),
    "count": ("count", ""),
    "memory.total": ("memory.total [MiB]", "0"),
    "memory.used": ("memory.used [MiB]", "4"),
    "memory.free": ("memory.free [MiB]", "0"),
    "driver_version": ("driver_version", ""),
    "compute_cap": ("compute_cap", "[N/A]"),
    "utilization.gpu": ("utilization.gpu [%]", "0"),
    "temperature.gpu": ("temperature.gpu", "31"),
    "power.draw": ("power.draw [W]", "68.20"),
    "pci.bus_id": ("pci.bus_id", ""),
    "persistence_mode": ("persistence_mode", "Enabled"),
    "mig.mode.current": ("mig.mode.current", "Disabled"),
    "ecc.errors.uncorrected.volatile.total": ("ecc.errors.uncorrected.volatile.total", "0"),
}
NO_DRIVER = (
    "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. "
    "Make sure that the latest NVIDIA driver is installed and running.\n"
)


def main(path: str, arguments: list[str]) -> int:
    """Answer one call with the cards of `path`; returns the exit code."""
    with open(path, encoding="utf-8") as file:
        cards = json.load(file)
    if cards.get("fault") == "hang":
        time.sleep(3600)
    if cards.get("fault") == "driver":
        sys.stdout.write(NO_DRIVER)
        return 9
    if cards.get("fault") == "none" or not cards["gpus"]:
        sys.stdout.write("No devices were found\n")
        return 6
    options = _options(arguments)
    listed = "-L" in options or "--list-gpus" in options
    if listed and "-i" in options:
        sys.stdout.write("ERROR: Option -i is not valid for this command. Please run 'nvidia-smi -h' for help.\n\n")
        return 2
    rows = [_row(index, gpu, cards) for index, gpu in enumerate(cards["gpus"])]
    if options.get("-i") is not None:
        rows = [row for row in rows if options["-i"] in (row["index"], row["uuid"], row["pci.bus_id"])]
        if not rows:
            sys.stdout.write("No devices were found\n")
            return 6
    if listed:
        for row in rows:
            sys.stdout.write(f"GPU {row['index']}: {row['name']} (UUID: {row['uuid']})\n")
        return 0
    if "--query-gpu" in options:
        return _query(rows, str(options["--query-gpu"]).split(","), str(options.get("--format")).split(","))
    if "--query-compute-apps" in options:
        return 0
    for row in rows:
        sys.stdout.write(
            f"| {row['index']:>3}  {row['name']:<40} | {row['memory.used']}MiB / {row['memory.total']}MiB |\n"
        )
    return 0


def _options(arguments: list[str]) -> dict[str, str | None]:
    """`--a=b`, `--a b` of `-i`/`--id`, and bare flags, by name."""
    found: dict[str, str | None] = {}
    words = iter(arguments)
    for word in words:
        name, _, value = word.partition("=")
        name = {"--id": "-i"}.get(name, name)
        found[name] = value or (next(words, None) if name == "-i" else None)
    return found


def _row(index: int, gpu: dict[str, Any], cards: dict[str, Any]) -> dict[str, str]:
    row = {field: default for field, (_, default) in FIELDS.items()}
    row.update({key: str(value) for key, value in gpu.items()})
    row.update(
        {
            "index": str(index),
            "count": str(len(cards["gpus"])),
            "gpu_uuid": row["uuid"],
            "gpu_name": row["name"],
            "driver_version": str(cards["driver"]),
            "memory.free": str(int(row["memory.total"]) - int(row["memory.used"])),
            "pci.bus_id": f"00000000:{index + 1:02X}:00.0",
        }
    )
    return row


def _query(rows: list[dict[str, str]], fields: list[str], style: list[str]) -> int:
    fields = [field.strip() for field in fields]
    for field in fields:
        if field not in FIELDS:
            sys.stdout.write(f'Field "{field}" is not a valid field to query.\n\n')
            return 2
    if "noheader" not in style:
        sys.stdout.write(", ".join(FIELDS[field][0] for field in fields) + "\n")
    for row in rows:
        sys.stdout.write(
            ", ".join(row[field] + ("" if "nounits" in style else _unit(field)) for field in fields) + "\n"
        )
    return 0


def _unit(field: str) -> str:
    _, bracket, rest = FIELDS[field][0].partition(" [")
    return " " + rest.rstrip("]") if bracket else ""


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1], sys.argv[2:]))
