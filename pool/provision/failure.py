"""What an Ansible failure means: its cause as one of our errors, with the step and what to type next.

Texts are those of ansible-core 2.19 to 2.22, of OpenSSH and of sudo; what none of them explains is a ProvisionError
with the module's own first line.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from pool.errors import (
    AuthenticationError,
    DiskFullError,
    HostError,
    HostKeyError,
    ProvisionError,
    PythonMissingError,
    SudoError,
    UnreachableError,
)

_MESSAGE_MAX: Final = 300
_ERRORS: Final = ("msg", "stderr", "module_stderr")
_ALL: Final = (*_ERRORS, "stdout", "module_stdout")
_PREFIXES: Final = re.compile(
    r"^((Task failed|Module failed|Action failed|Failed to connect to the host via ssh)\S*:\s*"
    r"|Data could not be sent to remote host .*? can be reached over ssh: "
    r"|'/usr/bin/(apt-get|dpkg|dnf|yum) .*' failed: )+"
)
#: (error, what its text contains, what happened, what to type); the first that fits is it.
_Cause = tuple[type[HostError], str, str, str]
_UNREACHABLE: Final[tuple[_Cause, ...]] = (
    (HostKeyError, r"host key verification failed|host identification has changed",
     "the host key is not the pinned one",
     "ask its owner whether the key changed; then: pool rm {host}, and add it again with --fingerprint"),
    (AuthenticationError, r"permission denied \(|too many authentication failures|no such identity",
     "the host refused the key", "is the key in ~/.ssh/authorized_keys there?"),
    (DiskFullError, r"no space left on device|disk quota exceeded", "no room on the host", "on the host: df -h ~"),
    (UnreachableError, r"connection refused|timed out|no route|closed by|reset by|broken pipe|could not resolve|lost",
     "{said}", "ssh -p {port} {user}@{address}"),
)  # fmt: skip
_FAILED: Final[tuple[_Cause, ...]] = (
    (SudoError, r"sudo: a password is required|missing sudo password|incorrect sudo password|not in the sudoers|"
     r"may not run sudo|must have a tty to run sudo|missing become password|sudo: command not found|sudo: not found",
     "root is needed, and sudo does not give it without a password",
     "on the host, as root: echo '{user} ALL=(ALL) NOPASSWD: ALL' > /etc/sudoers.d/pool"),
    (DiskFullError, r"no space left on device|errno 28|disk quota exceeded|errno 122|not enough (free )?(room|space)|"
     r"enough free space", "no room on the host: {said}", "on the host: df -h"),
    (PythonMissingError, r"module interpreter .* was not found|no python interpreters? found|python3?: not found|"
     r"python3?: no such file|requires (a minimum of )?python|syntaxerror.*future feature annotations",
     "no Python 3.8 or newer that works", "on the host: sudo apt-get install python3"),
    (ProvisionError, r"could not get lock|unable to (acquire|lock)|failed to lock apt|is another process using it|"
     r"dpkg frontend lock|cache lock", "another package manager is at work on the host: {said}",
     "on the host: ps -ef | grep -E 'apt|dpkg|unattended'; when it has ended, the same command again"),
    (ProvisionError, r"secure boot is on", "{said}", "on the host: mokutil --import /var/lib/dkms/mok.pub"),
    (ProvisionError, r"no module was built for kernel|has no headers|unable to locate package linux-headers|"
     r"no package matching 'linux-headers|kernel headers", "no module could be built for the running kernel: {said}",
     "on the host: apt-get install linux-headers-$(uname -r); where there are none, reboot into the newest kernel"),
    (ProvisionError, r"held packages|someone holds|pkgheld|held broken", "a package is on hold: {said}",
     "on the host: apt-mark showhold, and apt-mark unhold what may change"),
    (ProvisionError, r"dpkg was interrupted|half installed|dpkg --configure -a|unmet dependencies",
     "its packages are in disorder: {said}", "on the host: dpkg --configure -a && apt-get --fix-broken install"),
    (ProvisionError, r"proxy authentication|\b407\b.*proxy|proxyerror|tunnel connection failed|could not resolve proxy",
     "the proxy refuses: {said}", "set https_proxy in docker_environment and its like; see roles/docker/README.md"),
    (ProvisionError, r"failed to fetch|could not resolve '|failed to update apt cache|unable to fetch|"
     r"temporary failure resolving|cannot download|failed to download|request failed: <urlopen|"
     r"cannot initiate the connection",
     "a package source cannot be reached from the host: {said}",
     "on the host: apt-get update; a mirror or proxy is set by the roles' variables"),
    (ProvisionError, r"no package matching|unable to locate package|has no installation candidate|"
     r"no .* driver for .* that can be installed|nothing provides|no match for argument",
     "its package sources do not have what is needed: {said}", "on the host: apt-get update && apt-cache policy"),
    (ProvisionError, r"async task did not complete within|timed out after|timeout exceeded|exceeded the timeout|"
     r"action failed to execute in the expected time frame",
     "it took too long: {said}", "less {log}; then the same command again"),
)  # fmt: skip


def classify(
    host: str,
    step: str,
    result: Mapping[str, Any],
    *,
    unreachable: bool,
    log: str,
    address: str = "HOST",
    port: int = 22,
    user: str = "USER",
) -> HostError:
    """The error that a failed step is: its class by the cause, its message with host, step and cause on one line."""
    errors, everything = _text(result, _ERRORS), _text(result, _ALL)
    said = first_line(everything)
    # What a tool said while it worked may tell of a trouble that passed: it counts where its errors tell of none.
    for text in (errors, everything):
        for cls, pattern, cause, hint in (*_UNREACHABLE, *_FAILED) if unreachable else _FAILED:
            if re.search(pattern, text, re.IGNORECASE):
                typed = hint.format(host=host, port=port, user=user, address=address, log=log)
                message = f"{host}: {step}: {cause.replace('{said}', said)}"
                return cls(message, hint=typed, host=host, step=step, log=log, said=said)
    other: type[HostError] = UnreachableError if unreachable else ProvisionError
    return other(f"{host}: {step}: {said}", hint=f"less {log}", host=host, step=step, log=log)


def first_line(text: str) -> str:
    """The first line that says something, without Ansible's prefixes, printable and bounded."""
    for line in text.splitlines():
        line = _PREFIXES.sub("", line.strip())
        line = "".join(c if c.isprintable() else "?" for c in line)
        if line and not line.startswith(("MODULE FAILURE", ">>>", "Traceback", "One or more items failed")):
            return line if len(line) <= _MESSAGE_MAX else line[: _MESSAGE_MAX - 1] + "…"
    return "it failed without a word"


def _text(result: Mapping[str, Any], keys: Sequence[str]) -> str:
    """What these parts of a result say of its failure, the plainest first; of a loop, its first failed item."""
    for item in result.get("results") or ():
        if isinstance(item, Mapping) and (item.get("failed") or item.get("unreachable")):
            return _text(item, keys)
    if "censored" in result:
        return str(result["censored"])
    parts = [str(result.get(key) or "") for key in keys]
    if re.match(r"(Task failed: )?(Module failed: )?(MODULE FAILURE|non-zero return code|Module result)", parts[0]):
        parts = [*parts[1:3], parts[0], *parts[3:]]
        parts = [_last_of_traceback(parts[0]), _last_of_traceback(parts[1]), *parts]
    return "\n".join(part for part in parts if part)[: 1 << 16]


def _last_of_traceback(text: str) -> str:
    """Of a traceback the line that names the exception; of anything else nothing."""
    lines = text.strip().splitlines()
    return lines[-1] if any(line.startswith("Traceback") for line in lines) else ""
