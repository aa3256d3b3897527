"""Where things are on the machine that runs the CLI and the server.

`POOL_STATE_DIR` (else `$XDG_STATE_HOME/pool`, else `~/.local/state/pool`) holds everything the server knows:

    server.sock  server.pid  server.log   the running server
    pool.db                               the store
    id_ed25519                            the server's own key, which its links log in with
    known_hosts                           pinned host keys, OpenSSH format
    code/                                 uploaded folders, by content hash; POOL_CODE_GB limits them
    index/                                what files of folders were when they were last read
    secrets/                              env of runs not yet ended, one 0600 file each
    ansible/                              the log of each provisioning
    places/                               how far the output of each run was shown here

`POOL_SERVER` is the socket of a server that somebody else runs, as a head node's (roles/pool_server); without it and
without `POOL_STATE_DIR`, the one of this machine's head node is used by whom it lets in.

`POOL_DEFAULT_IMAGE` in the server's environment is the container image of tasks that name none, with `{python}` in it.
"""

from __future__ import annotations

import os

from pool.errors import InputError

#: Longest path a Unix socket may have on Linux (sun_path is 108 bytes with its NUL).
SOCKET_PATH_MAX = 107
#: Where a head node's server is asked by the members of its group.
HEAD_SOCKET = "/run/pool-server.sock"
DEFAULT_IMAGE = "dstackai/base:py{python}-0.4rc4-cuda-12.1"


def state_dir() -> str:
    """The state folder, an absolute path; made with mode 0700 when missing."""
    path = os.environ.get("POOL_STATE_DIR")
    if not path:
        base = os.environ.get("XDG_STATE_HOME") or os.path.join(os.path.expanduser("~"), ".local", "state")
        path = os.path.join(base, "pool")
    path = os.path.abspath(path)
    try:
        os.makedirs(path, mode=0o700, exist_ok=True)
    except OSError as error:
        message = f"cannot make the state folder {path}: {error.strerror}"
        raise InputError(message, hint="export POOL_STATE_DIR=/some/other/path") from error
    return path


def path(name: str) -> str:
    """`name` inside the state folder."""
    return os.path.join(state_dir(), name)


def default_image() -> str:
    """The image of tasks that name none; `{python}` in it stands for the version."""
    return os.environ.get("POOL_DEFAULT_IMAGE") or DEFAULT_IMAGE


def shared_socket() -> str | None:
    """The socket of a server that is not this user's to start and stop; None where the user has one of their own."""
    named = os.environ.get("POOL_SERVER")
    if named or os.environ.get("POOL_STATE_DIR"):
        return named or None
    return HEAD_SOCKET if os.access(HEAD_SOCKET, os.W_OK) else None


def socket_path() -> str:
    """The server's Unix socket; InputError when the state folder is too deep for one."""
    found = path("server.sock")
    if len(os.fsencode(found)) > SOCKET_PATH_MAX:
        raise InputError(
            f"the state folder's path is too long for a Unix socket ({len(found)} > {SOCKET_PATH_MAX}): {found}",
            hint="export POOL_STATE_DIR=/some/shorter/path",
        )
    return found
