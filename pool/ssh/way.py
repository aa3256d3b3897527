"""The way to a host through others: one SSH connection inside the other, and a socket at the end of the last.

What goes through a jump host is a connection of its own, encrypted to the host at its end: a jump host carries it and
can neither read nor answer it.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from paramiko.ssh_exception import ChannelException, SSHException

from pool.errors import UnreachableError
from pool.ssh import transport
from pool.ssh.transport import translate

if TYPE_CHECKING:
    import fabric
    import paramiko

    from pool.host import Jump

#: What a jump host says when its sshd is told not to carry anything (RFC 4254, 5.1).
_PROHIBITED = 1


class Way:
    """Open connections to jump hosts, the nearest first; none at first, and then `dial` goes directly."""

    def __init__(self) -> None:
        self._hops: list[tuple[Jump, fabric.Connection]] = []

    def extend(self, jump: Jump, connection: fabric.Connection) -> None:
        """Go through `jump` as well, to which `connection` is open: opened with `dial`, where it is not the first."""
        self._hops.append((jump, connection))

    def dial(self, address: str, port: int, timeout: float, name: str) -> Any:
        """`transport.dial`, from the last jump host on; what comes back is a socket to paramiko.

        UnreachableError names `name` and the jump host that did not connect.
        """
        if not self._hops:
            return transport.dial(address, port, timeout, name)
        jump, connection = self._hops[-1]
        at = f"{name}: jump host {jump.address}"
        try:
            link: paramiko.Transport | None = connection.transport
            if link is None or not link.is_active():
                raise EOFError
            channel = link.open_channel("direct-tcpip", (address, port), ("127.0.0.1", 0), timeout=timeout)
        except ChannelException as exc:
            raise _refused(exc, name, jump, address, port) from exc
        except (SSHException, OSError, EOFError) as exc:
            said = translate(exc, at).message
            raise UnreachableError(said, hint=f"ssh {jump}", host=name, hop=jump.address) from exc
        return _Passage(channel)

    def lost(self) -> Jump | None:
        """The nearest jump host that the connection to has ended."""
        return next((jump for jump, connection in self._hops if not connection.is_connected), None)

    def end_with(self, connection: fabric.Connection) -> None:
        """Close the way when `connection`, which was opened through it, is closed or lost."""
        if self._hops:
            connection.transport.sock.then = self.close

    def close(self) -> None:
        """End every connection, the farthest first."""
        while self._hops:
            with contextlib.suppress(SSHException, OSError, EOFError):
                self._hops.pop()[1].close()


class _Passage:
    """A channel that is a socket to the connection inside it, which closes what carries it when it ends."""

    def __init__(self, channel: paramiko.Channel) -> None:
        self._channel = channel
        self.then: Any = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._channel, name)

    def close(self) -> None:
        with contextlib.suppress(SSHException, OSError, EOFError):  # what carries it may be gone already
            self._channel.close()
        if self.then:
            self.then()


def _refused(exc: ChannelException, name: str, jump: Jump, address: str, port: int) -> UnreachableError:
    at, where = f"{name}: jump host {jump.address}", f"{address} port {port}"
    if exc.code == _PROHIBITED:
        message, hint = f"{at} carries no connections to {where}", "look at AllowTcpForwarding in its sshd_config"
    else:
        message, hint = f"{at} cannot reach {where} ({exc.text})", f"is the host up? on {jump.address}: ssh {address}"
    return UnreachableError(message, hint=hint, host=name, hop=jump.address)
