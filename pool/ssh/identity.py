"""The server's own key: its links log in with it, as the account that the role `runner` makes on a host.

There the key runs the bridge to the runner and nothing else, so what a person's key may do is needed only to provision.
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


def own_key(folder: str) -> str:
    """Path of the private key of the server with the state folder `folder`; made when it is missing."""
    path = os.path.join(folder, _FILE)
    if not os.path.exists(path):
        made = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
        with tempfile.NamedTemporaryFile(dir=folder, prefix=_FILE) as file:  # of mode 0600
            file.write(made)
            file.flush()
            os.fsync(file.fileno())
            with contextlib.suppress(FileExistsError):  # hosts added side by side: the first one's key is everyone's
                os.link(file.name, path)
    return path


def public_key(folder: str) -> str:
    """Its public half as a line of an authorized_keys, with the name of this machine."""
    with open(own_key(folder), "rb") as file:
        key = load_ssh_private_key(file.read(), None)
    line = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    return f"{line} pool@{re.sub('[^A-Za-z0-9.-]', '-', socket.gethostname())}"
