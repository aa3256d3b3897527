"""Options that `pool run` and `pool offer` share: what they override in a task, and their form on the wire.

And where the words of a command that runs elsewhere begin.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Any

#: Flags, name on the server, metavar (None: a switch), help, repeatable. What stands here wins over the task file.
REQUEST = (
    (("--gpu",), "gpu", "SPEC", "GPUs of each node, as in `resources.gpu`: A100:2, 24GB..", False),
    (("--cpu",), "cpu", "N", "CPUs of each node: 4, 4..8", False),
    (("--memory",), "memory", "SIZE", "memory of each node: 32GB..", False),
    (("--disk",), "disk", "SIZE", "free disk of each node: 100GB..", False),
    (("--nodes",), "nodes", "N", "how many nodes", False),
    (("--pool",), "pool", "NAME", "only hosts of this pool", False),
    (("--instance",), "instance", "HOST", "only this host", False),
    (("--instance-type",), "instance_types", "TYPE", "only hosts of this type, as 8xH100 (repeatable)", True),
    (("--region",), "regions", "REGION", "only hosts with this region label (repeatable)", True),
    (("--backend",), "backends", "NAME", "`ssh` and `remote` are this pool (repeatable)", True),
    (("--spot-policy",), "spot_policy", "WORD", "spot, on-demand or auto; pool hosts are on-demand", False),
    (("--max-price",), "max_price", "P", "only hosts that cost at most this an hour", False),
    (("--runtime",), "runtime", "WORD", "auto, docker or process (on the bare machine)", False),
)
RUN = (
    (("-n", "--name"), "name", "NAME", "name of the run (default: made up)", False),
    (("-e", "--env"), "env", "NAME[=V]", "set a variable of the task; without a value, take yours (repeatable)", True),
    (
        ("-p", "--port"),
        "ports",
        "[L:]PORT",
        "forward a port of the task to 127.0.0.1: 6006, 8000:80, *:80 (repeatable)",
        True,
    ),
    (("--max-duration",), "max_duration", "TIME", "stop it after this long: 2h, 1h30m, off", False),
    (("--retry",), "retry", None, "try again when it fails or its host is lost, for an hour", False),
    (("--priority",), "priority", "N", "0 to 100; higher goes first", False),
    (("--profile",), "profile", "NAME", "use this profile of .dstack/profiles.yml", False),
)


def add_options(parser: argparse.ArgumentParser, table: tuple[Any, ...]) -> None:
    """Add the options of a table."""
    for flags, name, metavar, text, repeatable in table:
        if metavar is None:
            parser.add_argument(*flags, dest=f"option_{name}", action="store_true", default=None, help=text)
        else:
            action = "append" if repeatable else "store"
            parser.add_argument(*flags, dest=f"option_{name}", metavar=metavar, action=action, help=text)


def given(args: argparse.Namespace) -> dict[str, Any]:
    """The options that were typed, by their name on the server."""
    found = {name.removeprefix("option_"): value for name, value in vars(args).items() if name.startswith("option_")}
    return {name: value for name, value in found.items() if value is not None}


def flags(table: tuple[Any, ...], *, with_value: bool) -> set[str]:
    """The flags of a table that take a value, or those that stand alone."""
    return {flag for names, _, metavar, _, _ in table for flag in names if (metavar is not None) == with_value}


def until_command(words: list[str], with_value: set[str], named: int = 0) -> tuple[list[str], list[str]]:
    """`pool`'s own words, and those of a command to run elsewhere: what is after `--`, or after `named` plain words.

    argparse cannot do it: it takes options of the command for its own, and a `--` in it away.
    """
    at = 0
    while at < len(words):
        word = words[at]
        if word == "--":
            return words[:at], words[at + 1 :]
        if not word.startswith("-"):
            if not named:
                return words[:at], words[at:]
            named -= 1
        at += 2 if word in with_value else 1
    return words, []
