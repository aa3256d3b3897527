"""`pool cp`: files and folders between this machine and a job's folder."""

from __future__ import annotations

import argparse
import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_EXAMPLES = """\
examples:
  pool cp brave-otter-1:results .               the folder, into the one that you are in
  pool cp brave-otter-1:model.pt best.pt        one file, under another name
  pool cp brave-otter-1:/tmp/trace . --rank 3   of another rank; any path that the job's user may read
  pool cp data.csv brave-otter-1:               into the job's folder
"""
#: A name of a run and a path; what has a slash before its colon is a file here.
_REMOTE = re.compile(r"([^/:]+):(.*)", re.DOTALL)


def register(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "cp",
        description="Copy a file or a folder out of a run's folder, or into it, as the job's user; also once it has\n"
        "ended. As with cp -r: into a folder that is there, else to the new name. Modes and links are kept.",
        epilog=_EXAMPLES,
    )
    parser.add_argument("source", metavar="SRC", help="RUN:PATH, relative to the job's folder, or a path here")
    parser.add_argument("target", metavar="DST", help="the other")
    parser.add_argument("--rank", type=int, default=0, metavar="K", help="of this rank (default: 0)")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    from pool.cli import render
    from pool.cli.progress import Progress, size
    from pool.errors import InputError
    from pool.inside.files import Place, download, upload

    sides = [_REMOTE.fullmatch(each) for each in (args.source, args.target)]
    if (sides[0] is None) == (sides[1] is None):
        raise InputError("one of the two has to be RUN:PATH, and the other a path here", hint="pool cp --help")
    progress = Progress(quiet=args.quiet)

    def tell(done: int, total: int) -> None:
        said = "" if total else size(done)
        progress.tell(f"copying {args.source}", min(done, total), total, said=said)

    try:
        if sides[0]:
            left = download(Place(sides[0][1], sides[0][2], args.rank), args.target, tell, render.waiting)
        else:
            assert sides[1]
            left = upload(args.source, Place(sides[1][1], sides[1][2], args.rank), tell, render.waiting)
    finally:
        progress.hide()
    for path in left.skipped:
        render.note(f"pool: skipped: {path!a} is neither file, folder nor link")
    for path in left.changed:
        render.note(f"pool: changed: {path!a} was deleted or became shorter while it was copied")
    if left.more:
        render.note(f"pool: and {left.more} more")
    return 0
