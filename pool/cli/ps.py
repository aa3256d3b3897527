"""`pool ps`: the hosts, their free GPUs and how they stand."""

from __future__ import annotations

import argparse
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_EXAMPLES = """\
examples:
  pool ps            one line a host
  pool ps --json     everything known about each host
"""


def register(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "ps",
        description="List the hosts of the pool: GPUs free of all, CPUs, memory, status.",
        epilog=_EXAMPLES,
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    from pool.cli import render
    from pool.client import Client

    hosts = Client().get("/hosts")
    if args.json:
        render.write_json(hosts)
        return 0
    if not hosts:
        render.note("there are no hosts\ntry: pool add-ssh user@host -i key")
        return 0
    headers = ("NAME", "POOL", "STATUS", "GPUS", "FREE", "CPUS", "MEMORY", "DISK FREE", "JOBS", "ADDRESS")
    sys.stdout.write(render.table(headers, [_row(host) for host in hosts]))
    for host in hosts:
        if host["reason"] or host["gpu_problem"]:
            render.note(f"{host['name']}: {host['reason'] or host['gpu_problem']}")
    return 0


def _row(host: dict[str, Any]) -> list[Any]:
    from pool.cli.render import gigabytes

    where = f"{host['user']}@{host['address']}" + (f":{host['port']}" if host["port"] != 22 else "")
    if host["jumps"]:
        where += " via " + ",".join(hop["address"] for hop in host["jumps"])
    return [
        host["name"],
        host["pool"],
        host["status"],
        _cards(host["gpus"]),
        f"{host['gpus_free']}/{host['gpus_total']}",
        host["cpus"],
        gigabytes(host["memory_mib"]),
        gigabytes(host["disk_free_mib"]),
        host["jobs"],
        where,
    ]


def _cards(gpus: list[dict[str, Any]]) -> str:
    """`2x NVIDIA H100 80GB HBM3`; several models joined with a comma."""
    names: dict[str, int] = {}
    for gpu in gpus:
        names[gpu["name"]] = names.get(gpu["name"], 0) + 1
    return ", ".join(f"{count}x {name.removeprefix('NVIDIA ')}" for name, count in names.items()) or "-"
