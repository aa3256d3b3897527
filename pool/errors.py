"""Every error a user can meet: one tree, each with an exit code and, where there is one, the next command to type.

    PoolError                     1   anything else
      InputError                  2   what was typed or written is wrong; nothing was changed
        TaskError                 2   a task file, with file:line:column
      NotFoundError               3   no such host, run or rank
      ConflictError               4   the name is taken, the host is busy
      ServerError                 5   the pool server cannot be started or reached
      BlockedError                6   no host fits the request
      RunError                    7   the run ended without an exit code of its own
      LabError                    8   this machine can have no such lab
      OwnerError                  9   it is somebody else's
      HostError                  10   a host could not be used; `host` and `step` say which and where
        UnreachableError         11   no TCP connection, no SSH banner, no name
        AuthenticationError      12   the host refused the key
        HostKeyError             13   the host key is unknown or is not the pinned one
        PythonMissingError       14   no Python >= 3.8 on the host
        SudoError                15   root is needed and sudo asks for a password
        DiskFullError            16   no room on the host
        ProvisionError           17   an Ansible step failed otherwise
        RunnerError              18   the runner on the host failed or refused
      InterruptError            130   Ctrl-C
      FencedError                75   a newer server has taken over this pool

The class docstring is the default message. Over the server's socket an error travels as `to_json` and comes back as
the same class by `from_json`. Only `cli/main.py` prints errors and exits.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:  # every command imports this module
    from typing import Any, ClassVar


#: Between a message and its hint, where both stand on one line.
_TRY = "; try: "


class PoolError(Exception):
    """Something went wrong."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str | None = None, *, hint: str | None = None, **details: Any) -> None:
        self.message = message or (type(self).__doc__ or "").strip()
        self.hint = hint
        self.details = details
        super().__init__(self.message)

    def reason(self, host: str) -> str:
        """The message without the name of the host that it begins with, for where that is shown anyway."""
        return self.message.removeprefix(f"{host}: ")

    def line(self) -> str:
        """The message and its hint as one line, for what keeps no more than a reason; `parted` takes it apart."""
        return f"{self.message}{_TRY}{self.hint}" if self.hint else self.message

    def to_json(self) -> dict[str, Any]:
        """The error as the server sends it: `{"error", "message", "hint", "details"}`."""
        return {
            "error": type(self).__name__,
            "message": self.message,
            "hint": self.hint,
            "details": self.details,
        }


class InputError(PoolError):
    """That input is not valid."""

    exit_code = 2


class TaskError(InputError):
    """The task file is not valid."""


class NotFoundError(PoolError):
    """There is no such thing."""

    exit_code = 3


class ConflictError(PoolError):
    """That is in use."""

    exit_code = 4


class ServerError(PoolError):
    """The pool server cannot be reached."""

    exit_code = 5


class BlockedError(PoolError):
    """No host fits the request."""

    exit_code = 6


class RunError(PoolError):
    """The run ended without an exit code of its own."""

    exit_code = 7


class LabError(PoolError):
    """This machine can have no such lab."""

    exit_code = 8


class OwnerError(PoolError):
    """That is somebody else's."""

    exit_code = 9


class HostError(PoolError):
    """The host cannot be used."""

    exit_code = 10


class UnreachableError(HostError):
    """The host cannot be reached."""

    exit_code = 11


class AuthenticationError(HostError):
    """The host refused the key."""

    exit_code = 12


class HostKeyError(HostError):
    """The host key is not the one that was pinned."""

    exit_code = 13


class PythonMissingError(HostError):
    """The host has no Python 3.8 or newer."""

    exit_code = 14


class SudoError(HostError):
    """Root is needed on the host and sudo asks for a password."""

    exit_code = 15


class DiskFullError(HostError):
    """The host has no room left."""

    exit_code = 16


class ProvisionError(HostError):
    """A provisioning step failed."""

    exit_code = 17


class RunnerError(HostError):
    """The runner on the host failed."""

    exit_code = 18


class FencedError(PoolError):
    """A newer server has taken over this pool."""

    exit_code = 75


class InterruptError(PoolError):
    """Interrupted."""

    exit_code = 130


def tree(root: type[PoolError] = PoolError) -> dict[str, type[PoolError]]:
    """Every error class by name, `root` included."""
    found = {root.__name__: root}
    for child in root.__subclasses__():
        found.update(tree(child))
    return found


def parted(line: str) -> tuple[str, str | None]:
    """The message and the hint, if there is one, of what `PoolError.line` made."""
    message, _, hint = line.partition(_TRY)
    return message, hint or None


def from_json(data: dict[str, Any]) -> PoolError:
    """The error that `to_json` described; an unknown class becomes a plain PoolError."""
    cls = tree().get(str(data.get("error")), PoolError)
    return cls(data.get("message"), hint=data.get("hint"), **(data.get("details") or {}))
