"""An SSH server that leads into one job: what a person's own `ssh RUN` and their editor speak to.

It needs nothing in the job but a shell: each channel becomes a stream of the runner's. The connection is the stdio of
`pool proxy`, whose user the server knows already, so nobody has to log in; the client checks our key, as of any host.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
from typing import TYPE_CHECKING, Any, Final

import paramiko
from paramiko.common import (
    AUTH_SUCCESSFUL,
    OPEN_FAILED_ADMINISTRATIVELY_PROHIBITED,
    OPEN_FAILED_CONNECT_FAILED,
    OPEN_FAILED_UNKNOWN_CHANNEL_TYPE,
    OPEN_SUCCEEDED,
)

from pool.errors import PoolError
from pool.runner.streams import StreamError

if TYPE_CHECKING:
    from collections.abc import Callable

    from pool.runner.streams import Stream

    #: `open_shell(argv, tty)`: argv None is a shell; `tty` has rows, cols and term, or is None for none.
    OpenShell = Callable[[list[str] | None, dict[str, Any] | None], Stream]
    #: `open_port(port)`: a connection to a TCP port of the job.
    OpenPort = Callable[[int], Stream]

_log = logging.getLogger(__name__)

_CHUNK: Final = 1 << 17
_START_S: Final = 30.0
#: What a client calls the job itself by, as the far end of a forward.
_ITSELF: Final = ("localhost", "127.0.0.1", "::1", "0.0.0.0", "")  # noqa: S104 - compared, not bound
#: Where images and hosts have OpenSSH's part for files; the exit code of a shell that does not find a program.
_SFTP: Final = (
    "for each in /usr/lib/openssh/sftp-server /usr/libexec/openssh/sftp-server /usr/lib/ssh/sftp-server"
    ' /usr/libexec/sftp-server "$(command -v sftp-server)"; do [ -x "$each" ] && exec "$each"; done;'
    " echo 'pool: there is no sftp-server in this job; try: pool cp' >&2; exit 127"
)


def serve(link: socket.socket, key: paramiko.PKey, open_shell: OpenShell, open_port: OpenPort) -> None:
    """Serve one client on the connected `link`, until it goes."""
    transport = paramiko.Transport(link)
    transport.add_server_key(key)
    door = _Door(open_shell, open_port)
    try:
        negotiated = threading.Event()
        transport.start_server(event=negotiated, server=door)
        if not negotiated.wait(_START_S):
            return
        while transport.is_active():
            channel = transport.accept(5.0)
            if channel is not None:
                door.opened(channel)
    except (paramiko.SSHException, EOFError, OSError) as error:
        _log.info("a client of a job: %s", error)
    finally:
        transport.close()


class _Door(paramiko.ServerInterface):
    """What a client may ask for: sessions, and TCP connections to the job itself. Called from paramiko's thread."""

    def __init__(self, open_shell: OpenShell, open_port: OpenPort) -> None:
        self._open_shell, self._open_port = open_shell, open_port
        self._sessions: dict[int, paramiko.Channel] = {}
        self._asking = threading.Lock()
        self._terminals: dict[int, dict[str, Any]] = {}
        self._shells: dict[int, Stream] = {}
        self._ports: dict[int, Stream] = {}

    def opened(self, channel: paramiko.Channel) -> None:
        """A channel is there: one to a port begins at once, a session when it is asked for something."""
        stream = self._ports.pop(channel.get_id(), None)
        if stream is None:
            self._sessions[channel.get_id()] = channel  # paramiko closes what nobody holds
        else:
            threading.Thread(target=_carry, args=(channel, stream), kwargs={"both": True}, daemon=True).start()

    def get_allowed_auths(self, username: str) -> str:  # noqa: ARG002
        return "none"

    def check_auth_none(self, username: str) -> int:  # noqa: ARG002
        return AUTH_SUCCESSFUL

    def check_channel_request(self, kind: str, chanid: int) -> int:  # noqa: ARG002
        return OPEN_SUCCEEDED if kind == "session" else OPEN_FAILED_UNKNOWN_CHANNEL_TYPE

    def check_channel_direct_tcpip_request(
        self,
        chanid: int,
        origin: tuple[str, int],  # noqa: ARG002
        destination: tuple[str, int],
    ) -> int:
        if destination[0] not in _ITSELF:
            return OPEN_FAILED_ADMINISTRATIVELY_PROHIBITED
        try:
            self._ports[chanid] = self._open_port(destination[1])
        except PoolError:
            return OPEN_FAILED_CONNECT_FAILED
        return OPEN_SUCCEEDED

    def check_channel_env_request(self, channel: paramiko.Channel, name: bytes, value: bytes) -> bool:  # noqa: ARG002
        return False

    def check_channel_pty_request(
        self,
        channel: paramiko.Channel,
        term: bytes,
        width: int,
        height: int,
        pixelwidth: int,  # noqa: ARG002
        pixelheight: int,  # noqa: ARG002
        modes: bytes,  # noqa: ARG002
    ) -> bool:
        name = term.decode("ascii", "replace") or "xterm"
        self._terminals[channel.get_id()] = {"rows": height, "cols": width, "term": name}
        return True

    def check_channel_window_change_request(
        self,
        channel: paramiko.Channel,
        width: int,
        height: int,
        pixelwidth: int,  # noqa: ARG002
        pixelheight: int,  # noqa: ARG002
    ) -> bool:
        stream = self._shells.get(channel.get_id())
        if stream is not None:
            with contextlib.suppress(StreamError):
                stream.write(head={"size": [height, width]})
        return stream is not None

    def check_channel_shell_request(self, channel: paramiko.Channel) -> bool:
        return self._begin(channel, None)

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        return self._begin(channel, [command.decode(errors="surrogateescape")])

    def check_channel_subsystem_request(self, channel: paramiko.Channel, name: str) -> bool:
        return name == "sftp" and self._begin(channel, [_SFTP])

    def _begin(self, channel: paramiko.Channel, argv: list[str] | None) -> bool:
        """Open the stream and carry it beside; a client that is told no shows the words of it."""
        number = channel.get_id()
        if number in self._shells:
            return False
        try:
            stream = self._shells[number] = self._open_shell(argv, self._terminals.get(number))
        except PoolError as error:
            threading.Thread(target=self._tell, args=(channel, error), daemon=True).start()
            return True
        threading.Thread(target=self._shell, args=(channel, stream), daemon=True).start()
        return True

    def _await_yes(self, channel: paramiko.Channel) -> None:
        """Until the client has its yes: paramiko sends it after us, and a channel that ends before is a broken one.

        Its thread does one thing after the other, so an answer to another question comes through once it was sent.
        """
        with self._asking:
            channel.get_transport().global_request("ready@pool", wait=True)

    def _tell(self, channel: paramiko.Channel, error: PoolError) -> None:
        """Why there is no shell, as the shell's own last words."""
        self._await_yes(channel)
        with contextlib.suppress(OSError, EOFError):
            channel.sendall_stderr(f"pool: {error.message}\r\n".encode())
            channel.send_exit_status(error.exit_code)
        channel.close()
        self._sessions.pop(channel.get_id(), None)

    def _shell(self, channel: paramiko.Channel, stream: Stream) -> None:
        self._await_yes(channel)
        _carry(channel, stream, both=False)
        for each in (self._sessions, self._terminals, self._shells):
            each.pop(channel.get_id(), None)


def _carry(channel: paramiko.Channel, stream: Stream, *, both: bool) -> None:
    """Between a channel and a stream: until `both` ways have ended, or the stream's alone; or one is broken."""
    inward = threading.Thread(target=_inward, args=(channel, stream), daemon=True)
    inward.start()
    with contextlib.suppress(StreamError, OSError, EOFError):
        while frame := stream.read():
            if "exit" in frame.head:
                channel.send_exit_status(int(frame.head["exit"]))
            elif frame.head.get("fd") == 2:
                channel.sendall_stderr(frame.body)
            elif frame.body:
                channel.sendall(frame.body)
        if both:
            channel.shutdown_write()
            inward.join()
    channel.close()
    inward.join()
    stream.close()


def _inward(channel: paramiko.Channel, stream: Stream) -> None:
    try:
        while chunk := channel.recv(_CHUNK):
            stream.write(chunk)
        if channel.closed:
            stream.close("the client has gone")
        else:
            stream.end()
    except (StreamError, OSError, EOFError):
        stream.close("the client has gone")
        channel.close()
