"""What a command came to on each of many hosts, and how that is shown: hosts that say the same as one, or by line.

The hosts' stdout goes to stdout, their stderr to stderr behind their names. A terminal gets nothing that steers it.
"""

from __future__ import annotations

import sys

from pool.cli import render
from pool.cli.alike import by_number, folded, grouped
from pool.cli.terminal import Sanitiser
from pool.errors import UnreachableError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TextIO

    from pool.cli.side_by_side import Ended

#: What ssh says of an sshd, or of a jump host's, that hangs up before it has asked who comes: too many came at once.
_TURNED_AWAY = ("kex_exchange_identification: ", "Connection closed by ", "Connection reset by ")
#: ssh's own exit code when it fails; a command may have it too.
_SSH_FAILED = 255
#: The exit code of what was ended from here, as timeout(1) has it.
_CUT = 124
_WORDS_MAX = 2


class Outcome:
    """What a command came to on one host."""

    def __init__(self, ended: Ended, ssh_said: str) -> None:
        """`ssh_said` is what ssh itself had to complain of."""
        self.stdout, self.stderr = ended.stdout, ended.stderr
        self.exit_code: int | None = ended.code
        self.error = ended.cut
        self.counts = _CUT if ended.cut else ended.code  #: as an exit code
        self.turned_away = False  #: nothing has begun there, and another try may do
        if ended.code == _SSH_FAILED and ssh_said and not ended.cut:
            self.error = "; ".join(ssh_said.splitlines()[-_WORDS_MAX:])
            self.counts = UnreachableError.exit_code
            self.turned_away = ssh_said.splitlines()[-1].startswith(_TURNED_AWAY)
        if self.error:
            self.exit_code = None

    def to_json(self) -> dict[str, Any]:
        """`exit_code` is null where `error` says why there is none."""
        return {
            "exit_code": self.exit_code,
            "stdout": self.stdout.decode(errors="replace"),
            "stderr": self.stderr.decode(errors="replace"),
            "error": self.error,
        }


def show_grouped(outcomes: dict[str, Outcome]) -> None:
    """Under one header each: the hosts with the same output, to the byte, and the same exit code."""
    said = {name: (one.stdout, one.stderr, one.exit_code, one.error) for name, one in outcomes.items()}
    for names in grouped(said.items()):
        one, name = outcomes[names[0]], folded(names)
        if one.stdout or not one.error:
            code = f", exit code {one.exit_code}" if one.exit_code else ""
            _write(sys.stdout, f"{name} ({len(names)}){code}\n".encode() + _whole(one.stdout))
        _complain(name, one.stderr, one.error)


def show_labelled(outcomes: dict[str, Outcome]) -> None:
    """Each line behind its host's name, the hosts in order."""
    for name in sorted(outcomes, key=by_number):
        one = outcomes[name]
        _write(sys.stdout, _labelled(name, one.stdout))
        _complain(name, one.stderr, one.error or (f"exit code {one.exit_code}" if one.exit_code else None))


def _complain(name: str, stderr: bytes, error: str | None) -> None:
    _write(sys.stderr, _labelled(name, stderr))
    if error:
        render.note(f"pool: {name}: {error}")


def _labelled(name: str, data: bytes) -> bytes:
    label = f"{name}: ".encode()
    return b"".join(label + line for line in _whole(data).splitlines(keepends=True))


def _whole(data: bytes) -> bytes:
    """With an end to its last line, for what is shown below it."""
    return data if data.endswith(b"\n") or not data else data + b"\n"


def _write(stream: TextIO, data: bytes) -> None:
    if stream.isatty():
        sanitiser = Sanitiser()
        data = sanitiser.feed(data) + sanitiser.finish()
    sys.stdout.flush()
    stream.flush()
    stream.buffer.write(data)
    stream.buffer.flush()
