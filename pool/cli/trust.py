"""Shows the host keys of machines that are to be added, and asks a person about those that nothing vouches for."""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_SAID = {"fingerprint": "as given", "known_hosts": "known to your ssh", "pinned": "pinned before", None: "unknown"}


def agree(client: Any, wishes: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The wishes whose keys are trusted, with the very keys agreed to; and the errors of the others.

    What is behind a jump host can be asked only when that is trusted, so each hop may be another round. A key is shown
    and asked about once, however many hosts are behind it.
    """
    from pool.cli import render

    trusted: list[dict[str, Any]] = []
    errors: list[dict[str, Any]] = []
    answers: dict[tuple[Any, ...], bool] = {}
    while wishes:
        further = []
        for wish, sight in zip(wishes, client.post("/hosts/look", {"hosts": wishes}), strict=True):
            for warning in sight["warnings"]:
                render.note(f"pool: {warning}")
            if sight["error"]:
                errors.append(sight["error"])
                continue
            if not all(_is_trusted(sight["name"], key, errors, answers, jump=True) for key in sight["jumps"]):
                continue
            wish |= {"jump_fingerprints": [key["fingerprint"] for key in sight["jumps"]]}
            if sight["key"] is None:
                further.append(wish)
            elif _is_trusted(sight["name"], sight["key"], errors, answers, jump=False):
                trusted.append(wish | {"fingerprint": sight["key"]["fingerprint"]})
        wishes = further
    return trusted, errors


def _is_trusted(
    name: str, key: dict[str, Any], errors: list[dict[str, Any]], answers: dict[tuple[Any, ...], bool], *, jump: bool
) -> bool:
    """Show the key; one that nothing vouches for needs a person's yes, and without one is an error."""
    from pool.cli import render
    from pool.errors import HostKeyError

    place = (key["address"], key["port"], key["fingerprint"])
    if place not in answers:
        where = key["address"] + (f" port {key['port']}" if key["port"] != 22 else "")
        whose = f"{name}  jump host {where}" if jump else f"{name}  {where}"
        render.note(f"{whose}  {key['type']} {key['fingerprint']} ({_SAID[key['trusted']]})")
        answers[place] = bool(key["trusted"]) or _asked(key, f"jump host {key['address']}" if jump else name)
    if not answers[place]:
        option = "--jump-fingerprint" if jump else "--fingerprint"
        what = f"{name}: jump host {key['address']}: its" if jump else f"{name}: its"
        refused = HostKeyError(
            f"{what} host key is not known: {key['fingerprint']}",
            hint=f"compare it on the host, then add {option} {key['fingerprint']}",
        )
        errors.append(refused.to_json())
    return answers[place]


def _asked(key: dict[str, Any], whose: str) -> bool:
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return False
    sys.stderr.write(f"Is that the key of {whose}? (yes/no/fingerprint) ")
    sys.stderr.flush()
    return sys.stdin.readline().strip() in ("yes", key["fingerprint"])
