"""`pool schema`: the JSON Schema of task files, for an editor."""

from __future__ import annotations

import argparse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_EXAMPLES = """\
examples:
  pool schema > dstack.schema.json

In VS Code with the YAML extension, in settings.json:
  "yaml.schemas": {"./dstack.schema.json": ["*.dstack.yml", ".dstack.yml"]}
"""


def register(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "schema",
        description="Print the JSON Schema (draft 2020-12) of task files: completion and checks in your editor.",
        epilog=_EXAMPLES,
    )
    parser.set_defaults(run=_run)


def _run(_: argparse.Namespace) -> int:
    from pool.cli import render
    from pool.task.json_schema import json_schema

    render.write_json(json_schema())
    return 0
