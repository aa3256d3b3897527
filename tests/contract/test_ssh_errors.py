"""paramiko's exceptions: each one that exists has a meaning of ours, so none can reach a person as a traceback."""

from __future__ import annotations

import inspect
import socket

import paramiko
import pytest
from paramiko import ssh_exception

from pool.errors import AuthenticationError, HostError, HostKeyError, UnreachableError
from pool.ssh.transport import dropped_early, translate

KEY = paramiko.RSAKey(data=paramiko.RSAKey.generate(1024).asbytes())

#: Each public exception class of paramiko: one instance, and the class of ours that it becomes.
MEANING: dict[str, tuple[BaseException, type[HostError]]] = {
    "SSHException": (ssh_exception.SSHException("x"), UnreachableError),
    "AuthenticationException": (ssh_exception.AuthenticationException("Authentication failed."), AuthenticationError),
    "PasswordRequiredException": (ssh_exception.PasswordRequiredException("x"), AuthenticationError),
    "BadAuthenticationType": (ssh_exception.BadAuthenticationType("x", ["password"]), AuthenticationError),
    "PartialAuthentication": (ssh_exception.PartialAuthentication(["password"]), AuthenticationError),
    "UnableToAuthenticate": (ssh_exception.UnableToAuthenticate("x"), AuthenticationError),
    "ChannelException": (ssh_exception.ChannelException(2, "Connect failed"), UnreachableError),
    "BadHostKeyException": (ssh_exception.BadHostKeyException("h", KEY, KEY), HostKeyError),
    "IncompatiblePeer": (ssh_exception.IncompatiblePeer("no acceptable kex algorithm"), UnreachableError),
    "ProxyCommandFailure": (ssh_exception.ProxyCommandFailure("x", "y"), UnreachableError),
    "NoValidConnectionsError": (
        ssh_exception.NoValidConnectionsError({("10.0.0.7", 22): OSError(111, "refused")}),
        UnreachableError,
    ),
    "CouldNotCanonicalize": (ssh_exception.CouldNotCanonicalize("x"), UnreachableError),
    "ConfigParseError": (ssh_exception.ConfigParseError("x"), UnreachableError),
    "MessageOrderError": (ssh_exception.MessageOrderError("x"), UnreachableError),
}


def test_no_exception_of_paramiko_is_missing() -> None:
    """A paramiko that grows an exception fails here until somebody decides what it means."""
    public = {
        name
        for name, found in inspect.getmembers(ssh_exception, inspect.isclass)
        if issubclass(found, Exception) and found.__module__ == ssh_exception.__name__ and not name.startswith("_")
    }
    assert public == set(MEANING)


@pytest.mark.parametrize("name", sorted(MEANING))
def test_each_means_something(name: str) -> None:
    """Each becomes a HostError that names the host, on one line."""
    exc, expected = MEANING[name]
    found = translate(exc, "gpu1", login="me@10.0.0.7", port=2222, key="/home/me/id")
    assert type(found) is expected
    assert found.message.startswith("gpu1")
    assert "\n" not in found.message
    assert found.details["host"] == "gpu1"
    if expected is not UnreachableError:
        assert found.hint


@pytest.mark.parametrize(
    ("exc", "expected"),
    [
        (socket.gaierror(-2, "Name or service not known"), "no such host name"),
        (ConnectionRefusedError(111, "Connection refused"), "refused"),
        (OSError(113, "No route to host"), "no route"),
        (TimeoutError("timed out"), "no answer"),
        (EOFError(), "closed"),
        (ConnectionResetError(104, "Connection reset by peer"), "reset"),
        (paramiko.AuthenticationException("Authentication timeout."), "hung up"),
    ],
)
def test_sockets_errors(exc: BaseException, expected: str) -> None:
    """What sockets raise is said in plain words."""
    found = translate(exc, "gpu1", "10.0.0.7 port 22")
    assert type(found) is UnreachableError
    assert expected in found.message


def test_our_own_errors_pass_through() -> None:
    """An error that is already ours stays what it is."""
    error = HostKeyError("x")
    assert translate(error, "gpu1") is error


def test_no_key_at_all() -> None:
    """Nothing to log in with is a matter of keys, not of reach."""
    found = translate(ssh_exception.SSHException("No authentication methods available"), "gpu1")
    assert type(found) is AuthenticationError


def test_only_a_hang_up_before_the_banner_is_tried_again() -> None:
    """MaxStartups closes before the banner; a silent host and a refused key are not tried again."""

    def raised(cause: Exception) -> BaseException:
        try:
            try:
                raise cause
            except Exception:
                raise ssh_exception.SSHException("Error reading SSH protocol banner")  # noqa: B904 - as paramiko does
        except ssh_exception.SSHException as exc:
            return exc

    assert dropped_early(raised(EOFError()))
    assert dropped_early(raised(ConnectionResetError()))
    assert dropped_early(ConnectionResetError())
    assert not dropped_early(raised(TimeoutError()))
    assert not dropped_early(ssh_exception.AuthenticationException("x"))
