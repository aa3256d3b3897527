"""An SSH server that leads into one job: what a person's own `ssh RUN` and their editor speak to.

It needs nothing in the job but a shell: each channel becomes a stream of the runner's. The connection is the stdio of
`pool proxy`, whose user the server knows already, so nobody has to log in; the client checks our key, as of any host.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
from concurrent.futures import Future
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
#: How long the whole connection waits to hear that nobody listens on a port, which is told at once or not for long.
_REFUSED_S: Final = 0.3
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
        door.close()


class _Door(paramiko.ServerInterface):
    """What a client may ask for: sessions, and TCP connections to the job itself.

    Called from paramiko's one thread for all of the connection: what may take a while is done beside.
    """

    def __init__(self, open_shell: OpenShell, open_port: OpenPort) -> None:
        self._open_shell, self._open_port = open_shell, open_port
        self._asking = threading.Lock()
        self._sessions: dict[int, _Session] = {}
        self._ports: dict[int, Future[Stream]] = {}  # those whose channel is not there yet

    def opened(self, channel: paramiko.Channel) -> None:
        """A channel is there: one to a port begins at once, a session when it is asked for something."""
        number = channel.get_id()
        opening = self._ports.pop(number, None)
        if opening is not None:
            _beside(_carry_port, channel, opening)
        elif number in self._sessions:
            self._sessions[number].channel = channel  # paramiko closes what nobody holds

    def close(self) -> None:
        """The client has gone: let go of the connections that it did not take."""
        while self._ports:
            self._ports.popitem()[1].add_done_callback(_let_go)

    def get_allowed_auths(self, username: str) -> str:  # noqa: ARG002
        return "none"

    def check_auth_none(self, username: str) -> int:  # noqa: ARG002
        return AUTH_SUCCESSFUL

    def check_channel_request(self, kind: str, chanid: int) -> int:
        if kind != "session":
            return OPEN_FAILED_UNKNOWN_CHANNEL_TYPE
        self._sessions[chanid] = _Session()
        return OPEN_SUCCEEDED

    def check_channel_direct_tcpip_request(
        self,
        chanid: int,
        origin: tuple[str, int],  # noqa: ARG002
        destination: tuple[str, int],
    ) -> int:
        """No where it is known at once that nobody listens; else yes, and a channel that ends if it turns out so."""
        if destination[0] not in _ITSELF:
            return OPEN_FAILED_ADMINISTRATIVELY_PROHIBITED
        opening: Future[Stream] = Future()
        _beside(_open, opening, self._open_port, destination[1])
        with contextlib.suppress(TimeoutError):
            if opening.exception(_REFUSED_S):
                return OPEN_FAILED_CONNECT_FAILED
        self._ports[chanid] = opening
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
        session = self._sessions.get(channel.get_id())
        if session is not None:
            session.tty = {"rows": height, "cols": width, "term": name}
        return session is not None

    def check_channel_window_change_request(
        self,
        channel: paramiko.Channel,
        width: int,
        height: int,
        pixelwidth: int,  # noqa: ARG002
        pixelheight: int,  # noqa: ARG002
    ) -> bool:
        session = self._sessions.get(channel.get_id())
        if session is not None:
            session.resize([height, width])
        return session is not None

    def check_channel_shell_request(self, channel: paramiko.Channel) -> bool:
        return self._begin(channel, None)

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        return self._begin(channel, [command.decode(errors="surrogateescape")])

    def check_channel_subsystem_request(self, channel: paramiko.Channel, name: str) -> bool:
        return name == "sftp" and self._begin(channel, [_SFTP])

    def _begin(self, channel: paramiko.Channel, argv: list[str] | None) -> bool:
        """Open the stream and carry it, beside; a client that is told no shows the words of it."""
        session = self._sessions.get(channel.get_id())
        if session is None or session.begun:
            return False
        session.begun = True
        _beside(self._serve, channel, session, argv)
        return True

    def _serve(self, channel: paramiko.Channel, session: _Session, argv: list[str] | None) -> None:
        try:
            stream = self._open_shell(argv, session.tty)
        except Exception as error:  # whatever it was: who waits gets an answer
            if not isinstance(error, PoolError):
                _log.exception("opening a shell")
            self._await_yes(channel)
            _tell(channel, error if isinstance(error, PoolError) else PoolError(f"the server stumbled: {error!r}"))
        else:
            self._await_yes(channel)
            session.resize_on(stream)
            _carry(channel, stream, both=False)
        self._sessions.pop(channel.get_id(), None)

    def _await_yes(self, channel: paramiko.Channel) -> None:
        """Until the client has its yes: paramiko sends it after us, and a channel that ends before is a broken one.

        Its thread does one thing after the other, so an answer to another question comes through once it was sent.
        """
        with self._asking:
            channel.get_transport().global_request("ready@pool", wait=True)


class _Session:
    """A session channel: what its program is given, and the size that its terminal has by now."""

    def __init__(self) -> None:
        self.channel: paramiko.Channel | None = None
        self.begun = False
        self.tty: dict[str, Any] | None = None
        self._changing = threading.Lock()
        self._size: list[int] | None = None  # the newest, not told yet
        self._telling = False
        self._stream: Stream | None = None

    def resize(self, size: list[int]) -> None:
        """Tell the program, beside: it may have to wait until what was typed before was read."""
        with self._changing:
            self._size = size
            self._tell_on()

    def resize_on(self, stream: Stream) -> None:
        """The program's stream is there."""
        with self._changing:
            self._stream = stream
            self._tell_on()

    def _tell_on(self) -> None:
        if self._stream is not None and self._size is not None and not self._telling:
            self._telling = True
            _beside(self._tell, self._stream)

    def _tell(self, stream: Stream) -> None:
        while True:
            with self._changing:
                size, self._size = self._size, None
                if size is None:
                    self._telling = False
                    return
            with contextlib.suppress(StreamError):
                stream.write(head={"size": size})


def _beside(target: Callable[..., None], *args: Any) -> None:
    threading.Thread(target=target, args=args, daemon=True).start()


def _open(opening: Future[Stream], open_port: OpenPort, port: int) -> None:
    try:
        opening.set_result(open_port(port))
    except Exception as error:
        if not isinstance(error, PoolError):
            _log.exception("opening a port")
        opening.set_exception(error)


def _let_go(opening: Future[Stream]) -> None:
    if not opening.exception():
        opening.result().close()


def _carry_port(channel: paramiko.Channel, opening: Future[Stream]) -> None:
    if opening.exception():  # waits
        channel.close()
    else:
        _carry(channel, opening.result(), both=True)


def _tell(channel: paramiko.Channel, error: PoolError) -> None:
    """Why there is no shell, as the shell's own last words."""
    with contextlib.suppress(OSError, EOFError):
        channel.sendall_stderr(f"pool: {error.message}\r\n".encode())
        channel.send_exit_status(error.exit_code)
    channel.close()


def _carry(channel: paramiko.Channel, stream: Stream, *, both: bool) -> None:
    """Between a channel and a stream: until `both` ways have ended, or the stream's alone; or one is broken."""
    exited = threading.Event()
    inward = threading.Thread(target=_inward, args=(channel, stream, exited), daemon=True)
    inward.start()
    with contextlib.suppress(StreamError, OSError, EOFError):
        while frame := stream.read():
            if "exit" in frame.head:
                exited.set()
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


def _inward(channel: paramiko.Channel, stream: Stream, exited: threading.Event) -> None:
    """A client that goes before its program has ended takes it along; after that, what is left of it stays."""
    gone = "the client has gone"
    try:
        while chunk := channel.recv(_CHUNK):
            stream.write(chunk)
        if channel.closed and not exited.is_set():
            stream.close(gone)
        else:
            stream.end()
    except (StreamError, OSError, EOFError):
        stream.close("" if exited.is_set() else gone)
        channel.close()
