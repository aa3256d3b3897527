"""Names of files that most often hold a secret. They are sent like any other; the person is told once."""

from __future__ import annotations

import fnmatch
import re

_NAMES = (
    ".env",
    ".env.*",
    "*.env",
    ".netrc",
    "_netrc",
    ".pgpass",
    ".pypirc",
    ".npmrc",
    ".git-credentials",
    ".htpasswd",
    "*.pem",
    "*.key",
    "*.p12",
    "*.pfx",
    "*.kdbx",
    "*.ppk",
    "id_rsa",
    "id_dsa",
    "id_ecdsa",
    "id_ed25519",
    "credentials.json",
    "service-account*.json",
)
_PATHS = (".aws/credentials", ".docker/config.json", ".kube/config", ".config/gcloud/*")
_EXAMPLES = ("*.example", "*.sample", "*.template", "*.dist")


def may_be_secret(path: str) -> bool:
    """True for a path whose name says so."""
    return bool(_SECRET.match("/" + path.lower())) and not _EXAMPLE.match(path)


def _any(patterns: tuple[str, ...]) -> re.Pattern[str]:
    """One expression for all of them: it is asked of every file."""
    return re.compile("|".join(map(fnmatch.translate, patterns)))


_SECRET = _any(tuple(f"*/{pattern}" for pattern in _NAMES + _PATHS))
_EXAMPLE = _any(_EXAMPLES)
