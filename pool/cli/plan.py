"""Shows a plan: what is asked, the host of each rank, and why the other hosts are not taken."""

from __future__ import annotations

import os
import sys

from pool.cli.render import gigabytes, span, table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TextIO


def show_plan(plan: dict[str, Any], source: str) -> None:
    """The plan of a run, to stderr: stdout is the task's."""
    kind = "" if plan["type"] == "task" else f" ({plan['type']})"
    sys.stderr.write(f"task      {os.path.relpath(source)}{kind}\n")
    write_plan(plan, sys.stderr)
    sys.stderr.write("\n")
    sys.stderr.flush()


def write_plan(plan: dict[str, Any], out: TextIO) -> None:
    """What is asked, each rank's offer, and for each other host every requirement it misses."""
    say = out.write
    nodes = f"{plan['nodes']} nodes, each" if plan["nodes"] > 1 else "one node"
    say(f"asks      {nodes}: {_request(plan['request'])}; {_runtime(plan)}")
    if plan["max_duration_s"]:
        say(f"; at most {span(plan['max_duration_s'])}")
    if plan["inactivity_s"]:
        say(f"; stopped when nobody was connected for {span(plan['inactivity_s'])}")
    say("\n")
    if plan["ports"]:
        ports = (f"{port['local'] or 'free'} -> {port['container']}" for port in plan["ports"])
        say(f"ports     127.0.0.1: {', '.join(ports)}\n")
    for note in plan["notes"]:
        say(f"note      {note}\n")
    if plan["offers"]:
        say("\n" + table(("RANK", "HOST", "IP", "GPUS", "CPUS", "MEMORY"), [_offer(o) for o in plan["offers"]]))
    for refusal in plan["refusals"]:
        misses = "; ".join(f"{m['requirement']}: asks {m['asks']}, has {m['has']}" for m in refusal["misses"])
        say(f"not {refusal['host']}: {misses}\n")
    if not plan["offers"] and plan["waits"]:
        say(f"waits     {plan['reason']}\n")


def _offer(offer: dict[str, Any]) -> list[Any]:
    gpus = ", ".join(sorted({gpu["name"].removeprefix("NVIDIA ") for gpu in offer["gpus"]}))
    cards = f"{len(offer['gpus'])}x {gpus}" if offer["gpus"] else "-"
    return [offer["rank"], offer["host"], offer["ip"], cards, f"{offer['cpus']:g}", gigabytes(offer["memory_mib"])]


def _runtime(plan: dict[str, Any]) -> str:
    return f"container of {plan['image']}" if plan["runtime"] == "docker" and plan.get("image") else plan["runtime"]


def _request(request: dict[str, Any]) -> str:
    words = []
    gpu = request["gpu"]
    if gpu:
        names = "/".join(gpu["name"]) or "any GPU"
        memory = f" of {_range(gpu['memory_mib'], gigabytes)}" if gpu["memory_mib"] else ""
        words.append(f"{_range(gpu['count'])} x {names}{memory}")
    if request["cpu"]:
        words.append(f"{_range(request['cpu'])} CPUs")
    if request["memory_mib"]:
        words.append(f"{_range(request['memory_mib'], gigabytes)} memory")
    if request["disk_mib"]:
        words.append(f"{_range(request['disk_mib'], gigabytes)} disk")
    return ", ".join(words) or "no GPU, anything else"


def _range(bounds: dict[str, Any], word: Any = lambda number: f"{number:g}") -> str:
    low, high = bounds["min"], bounds["max"]
    if low == high:
        return str(word(low))
    return f"{'' if low is None else word(low)}..{'' if high is None else word(high)}"
