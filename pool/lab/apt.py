"""How this machine's apt reaches its packages: as files that make apt on a lab host reach them in the same way.

No address is written here. What is carried: the sources of the host's own release where this machine has it, with
their keys; proxies and other settings of the transport; logins; certificates.
"""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from glob import glob
from typing import Final

_SETTINGS: Final = re.compile(r"Acquire::(https?|Check-|Max-|ForceIPv|Retries|Allow(Insecure|Weak))", re.IGNORECASE)
_CERTIFICATES: Final = "/etc/ssl/certs/ca-certificates.crt"


@dataclass(frozen=True, slots=True)
class File:
    """One file of a host: its absolute path, its bytes, its mode and owner; or a link."""

    path: str
    content: bytes
    mode: int = 0o644
    uid: int = 0
    link: str = ""  #: where it leads, when it is a link


def carried(suite: str) -> list[File]:
    """The files that a Debian host of the release `suite` needs; no sources when this machine is of another release."""
    found = [File("/etc/apt/apt.conf.d/99machine", settings().encode())]
    text = sources(suite)
    if text:
        found += [File("/etc/apt/sources.list", b""), File("/etc/apt/sources.list.d/machine.sources", text.encode())]
        found += [file for path in _keys(text) if (file := _read(path))]
    for path in [*glob("/etc/apt/auth.conf"), *glob("/etc/apt/auth.conf.d/*.conf")]:
        login = _read(path)
        if login:
            found.append(File(login.path, login.content, 0o600))
    certificates = _read(_CERTIFICATES)
    return [*found, certificates] if certificates else found


def settings() -> str:
    """The settings of this machine's apt that decide how it reaches a server, as a configuration file."""
    command = ["apt-config", "dump", "--format", '%F "%v";%n', "Acquire"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False).stdout
    except FileNotFoundError:
        said = ""
    lines = [line for line in said.splitlines() if _SETTINGS.match(line) and not line.endswith(' "";')]
    for scheme in ("http", "https"):
        proxy = os.environ.get(f"{scheme}_proxy")
        if proxy and not any(line.lower().startswith(f"acquire::{scheme}::proxy ") for line in lines):
            lines.append(f'Acquire::{scheme}::Proxy "{proxy}";')
    return "".join(line + "\n" for line in lines)


def sources(suite: str, folder: str = "/etc/apt") -> str:
    """This machine's sources of the release `suite`, as deb822 stanzas; empty when it has none."""
    stanzas = []
    for path in sorted(glob(f"{folder}/sources.list.d/*.sources")):
        stanzas += re.split(r"\n\s*\n", _text(path))
    for path in [f"{folder}/sources.list", *sorted(glob(f"{folder}/sources.list.d/*.list"))]:
        stanzas += [_as_stanza(line) for line in _text(path).splitlines()]
    return "\n".join(stanza for stanza in map(_without_comments, stanzas) if _is_of(stanza, suite))


def _is_of(stanza: str, suite: str) -> bool:
    """True for a stanza of Debian's own archive: packages of this release alone, and the part `main` among them."""
    fields = dict(re.findall(r"^([A-Za-z-]+):[ \t]*(.*)$", stanza, re.MULTILINE))
    suites = fields.get("Suites", "").split()
    wanted = {suite, f"{suite}-updates", f"{suite}-security"}
    return (
        "deb" in fields.get("Types", "").split()
        and bool(suites)
        and set(suites) <= wanted
        and "main" in fields.get("Components", "").split()
        and fields.get("Enabled", "yes") != "no"
    )


def _as_stanza(line: str) -> str:
    """A line of the older format, `deb [options] address suite component…`."""
    match = re.fullmatch(r"deb\s+(?:\[(.*?)\]\s+)?(\S+)\s+(\S+)\s+(\S.*)", line.partition("#")[0].strip())
    if not match:
        return ""
    options, address, suite, components = match.groups()
    signed = re.search(r"signed-by=(\S+)", options or "")
    signature = f"Signed-By: {signed[1]}\n" if signed else ""
    return f"Types: deb\nURIs: {address}\nSuites: {suite}\nComponents: {components}\n{signature}"


def _without_comments(stanza: str) -> str:
    return "".join(line + "\n" for line in stanza.splitlines() if line.strip() and not line.startswith("#"))


def _keys(text: str) -> set[str]:
    """The keyrings that stanzas name by path."""
    return set(re.findall(r"^Signed-By:[ \t]*(/\S+)[ \t]*$", text, re.MULTILINE))


def _read(path: str) -> File | None:
    try:
        with open(path, "rb") as file:
            return File(path, file.read())
    except OSError:
        return None


def _text(path: str) -> str:
    found = _read(path)
    return found.content.decode(errors="replace") if found else ""
