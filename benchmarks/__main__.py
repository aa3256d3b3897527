"""Measures pool beside what people would use instead, in turn, and prints one Markdown table.

    python -m benchmarks                     every row (some minutes)
    python -m benchmarks start_up gang       only these modules of benchmarks/rows
    python -m benchmarks --write-readme      put the table into README.md, between its markers

A row is a module in benchmarks/rows with a function `rows(worlds)` that returns `Row`s; ROWS below is their order:
the largest lab comes last, because every lab stays up until the end.
"""

from __future__ import annotations

import argparse
import os
import sys
from importlib import import_module

from benchmarks.report import markdown, write_readme
from benchmarks.row import Result, SkipError, measure
from benchmarks.world import REPOSITORY, Worlds

#: Module -> what its row is called when it cannot be measured.
ROWS = {
    "start_up": "starting up",
    "validate": "`pool validate`",
    "one_host": "`pool run`, one warm host",
    "container": "`pool run` in a container",
    "server_share": "the server's share",
    "log_stream": "log stream",
    "port_forward": "port forward",
    "throughput": "runs per second",
    "matching": "matching",
    "gang": "`pool run`, gangs",
    "folder": "a folder on its way",
    "provision": "provisioning again",
}


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"any of {', '.join(ROWS)}")
    parser.add_argument("--share", type=float, default=1.0, help="of the usual number of runs, e.g. 0.3 for a glance")
    parser.add_argument("--write-readme", action="store_true", help="put the table into README.md")
    args = parser.parse_args()
    unknown = set(args.rows) - set(ROWS)
    if unknown:
        parser.error(f"no such row: {', '.join(sorted(unknown))}")
    worlds = Worlds(_say)
    try:
        results = [result for name in args.rows or ROWS for result in _measure(name, worlds, args.share)]
    finally:
        worlds.close()
    table = markdown(results)
    sys.stdout.write(table)
    if args.write_readme:
        write_readme(os.path.join(REPOSITORY, "README.md"), table)
    return 0


def _measure(name: str, worlds: Worlds, share: float) -> list[Result]:
    results = []
    try:
        for row in import_module(f"benchmarks.rows.{name}").rows(worlds):
            _say(row.what)
            results.append(measure(row, share=share))
    except SkipError as why:
        results.append(Result(ROWS[name], skipped=str(why)))
    return results


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
