"""`pool images`: list the container images that the hosts have, and which are in use."""

from __future__ import annotations

import argparse
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_EXAMPLES = """\
examples:
  pool images                every host that has Docker
  pool images gpu1 --json    of gpu1, with whole ids and the jobs that use each
"""


def register(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "images",
        description="List the container images on the hosts: size, last use, jobs that use each.\nThose that pool"
        " pulled (BY pool) may be removed under the limit of the host's operator, the others never.",
        epilog=_EXAMPLES,
    )
    parser.add_argument(
        "names", nargs="*", metavar="HOST", help="names of hosts, as in pool ps (default: all with Docker)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    from pool.cli import render
    from pool.cli.provision import raise_last
    from pool.client import Client

    client = Client()
    found = client.post("/images", {"hosts": chosen(client, args.names)})
    if args.json:
        render.write_json(found)
    else:
        rows = [_row(host["host"], image) for host in found for image in sorted(host["images"], key=_newest)]
        if rows:
            sys.stdout.write(render.table(("HOST", "IMAGE", "DIGEST", "SIZE", "USED", "JOBS", "BY"), rows))
        elif not any(host["error"] for host in found):
            render.note("there are no images\ntry: pool pull IMAGE")
    raise_last([host["error"] for host in found if host["error"]])
    return 0


def chosen(client: Any, names: list[str], pool: str | None = None) -> list[str]:
    """These hosts, each once; without names all that have Docker, of one pool where it is named. NotFoundError."""
    from pool.cli import provision
    from pool.errors import NotFoundError

    if names:
        return provision.chosen(client, names)
    hosts = [host for host in client.get("/hosts") if pool in (None, host["pool"])]
    if pool and not hosts:
        raise NotFoundError(f"no host is in a pool {pool}", hint="pool ps")
    found = [host["name"] for host in hosts if host["docker"]]
    if not found:
        where = f"of pool {pool} " if pool else ""
        hint = "pool doctor" if hosts else "pool add-ssh user@host -i key"
        raise NotFoundError(f"no host {where}has Docker", hint=hint)
    return found


def _row(host: str, image: dict[str, Any]) -> list[Any]:
    from pool.cli.render import ago, gigabytes

    name = ", ".join(image["names"]) or "-"
    exact = (image["digest"] or image["id"]).removeprefix("sha256:")[:12]
    used = ago(image["last_used"]) or "-"
    by = "pool" if image["pulled"] else "-"
    return [host, name, exact, gigabytes(image["size"] / (1 << 20)), used, len(image["jobs"]), by]


def _newest(image: dict[str, Any]) -> tuple[float, list[str]]:
    return -(image["last_used"] or 0.0), image["names"]
