"""The server's own keys: with one its links log in, as the account that the role `runner` makes on a host; the other is
its host key towards those who `ssh` into a job.

On a host the first runs the bridge to the runner and nothing else, so what a person's key may do is needed only to
provision.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import tempfile
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_ssh_private_key,
)

#: The account's name; `runner_account` of the role.
ACCOUNT: Final = "pool"
_FILE: Final = "id_ed25519"
_HOST_FILE: Final = "ssh_host_ed25519_key"


def own_key(folder: str) -> str:
    """Path of the private key of the server with the state folder `folder`; made when it is missing."""
    return _made(folder, _FILE)


def host_key(folder: str) -> str:
    """Path of the private key by which clients know the server of this state folder; made when it is missing."""
    return _made(folder, _HOST_FILE)


def _made(folder: str, name: str) -> str:
    path = os.path.join(folder, name)
    if not os.path.exists(path):
        made = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
        with tempfile.NamedTemporaryFile(dir=folder, prefix=name) as file:  # of mode 0600
            file.write(made)
            file.flush()
            os.fsync(file.fileno())
            with contextlib.suppress(FileExistsError):  # hosts added side by side: the first one's key is everyone's
                os.link(file.name, path)
    return path


def public_key(folder: str) -> str:
    """The first one's public half as a line of an authorized_keys, with the name of this machine."""
    return f"{_public(own_key(folder))} pool@{re.sub('[^A-Za-z0-9.-]', '-', socket.gethostname())}"


def public_host_key(folder: str) -> str:
    """The other one's public half, its type and its base64."""
    return _public(host_key(folder))


def _public(path: str) -> str:
    with open(path, "rb") as file:
        key = load_ssh_private_key(file.read(), None)
    return key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
