"""`pool runs`: the runs and how they stand."""

from __future__ import annotations

import argparse
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_EXAMPLES = """\
examples:
  pool runs                   the last 20
  pool runs --live            those that have not ended
  pool runs brave-otter-1     one run, rank by rank
  pool runs --json            everything known about each
"""


def register(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "runs",
        description="List the runs, newest first; with a name, one run rank by rank.",
        epilog=_EXAMPLES,
    )
    parser.add_argument("name", nargs="?", metavar="RUN", help="name or id of one run")
    parser.add_argument("--live", action="store_true", help="only runs that have not ended")
    parser.add_argument("--all", action="store_true", help="all runs, not the last 20")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    from pool.cli import render
    from pool.client import Client

    if args.name:
        from urllib.parse import quote

        run = Client().get(f"/runs/{quote(args.name, safe='')}")
        return _show_one(run, as_json=args.json)
    runs = Client().get("/runs?live=1" if args.live else "/runs")
    shown = runs if args.all or args.json else runs[:20]
    if args.json:
        render.write_json(shown)
    elif shown:
        headers = ("NAME", "STATUS", "EXIT", "NODES", "HOSTS", "USER", "AGE")
        sys.stdout.write(render.table(headers, [_row(run) for run in shown]))
        if len(runs) > len(shown):
            render.note(f"{len(runs) - len(shown)} older ones: pool runs --all")
    else:
        render.note("there are no runs\ntry: pool run . -f train.dstack.yml")
    return 0


def _row(run: dict[str, Any]) -> list[Any]:
    from pool.cli.render import ago

    hosts = ",".join(dict.fromkeys(job["host"] for job in run["jobs"] if job["host"]))
    return [run["name"], _status(run), run["exit_code"], run["nodes"], hosts, run["user"], ago(run["submitted_at"])]


def _status(run: dict[str, Any]) -> str:
    unsure = any(job["shown"].endswith("?") for job in run["jobs"])
    return f"{run['status']}?" if unsure else str(run["status"])


def _show_one(run: dict[str, Any], *, as_json: bool) -> int:
    from pool.cli import render

    if as_json:
        render.write_json(run)
        return 0
    sys.stdout.write(render.table(("NAME", "STATUS", "EXIT", "NODES", "HOSTS", "USER", "AGE"), [_row(run)]) + "\n")
    image = run["image"]
    if image:
        said = f": {image['said']}" if image["said"] else ""
        sys.stdout.write(f"image  {image['pinned'] or image['name']}{said}\n\n")
    rows = [
        [job["rank"], job["shown"], job["exit_code"], job["host"], len(job["gpus"]), job["log_bytes"], job["reason"]]
        for job in run["jobs"]
    ]
    sys.stdout.write(render.table(("RANK", "STATUS", "EXIT", "HOST", "GPUS", "LOG BYTES", "REASON"), rows))
    return 0
