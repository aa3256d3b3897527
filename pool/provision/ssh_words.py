"""What the ssh options of an inventory say that pool can honour: the jump hosts, and who logs in where.

An option that changes how a connection is made safe or quick is left to pool and said to be; one that would do
something else, or start a program, is refused. Nothing here is ever run.
"""

from __future__ import annotations

import getopt
import os
import re
import shlex
from dataclasses import dataclass, field
from typing import Final

from pool.errors import InputError

#: The options of ssh(1), those that take a value with a colon.
_OPTIONS: Final = "46AaCfGgKkMNnqsTtVvXxYyB:b:c:D:E:e:F:I:i:J:L:l:m:O:o:P:p:Q:R:S:W:w:"
#: Pool has its own way for these.
_OURS: Final = frozenset("-4 -6 -A -a -C -k -K -q -T -v -x".split())
_OUR_WORDS: Final = frozenset(
    "addkeystoagent addressfamily batchmode checkhostip ciphers compression connectionattempts connecttimeout "
    "controlmaster controlpath controlpersist forwardagent forwardx11 globalknownhostsfile gssapiauthentication "
    "hashknownhosts hostkeyalgorithms identitiesonly ipqos kbdinteractiveauthentication kexalgorithms loglevel macs "
    "numberofpasswordprompts passwordauthentication preferredauthentications pubkeyacceptedalgorithms "
    "pubkeyauthentication serveralivecountmax serveraliveinterval stricthostkeychecking tcpkeepalive updatehostkeys "
    "userknownhostsfile verifyhostkeydns visualhostkey".split()
)
_TAKEN: Final = {"-J": "jump", "-l": "user", "-p": "port", "-i": "key"}
_HINT: Final = "-J [USER@]HOST[:PORT] is what pool takes, or the variable pool_jump"


@dataclass(slots=True)
class SshWords:
    """What was understood of some options of ssh."""

    jump: str | None = None  #: as for -J
    jump_key: str | None = None
    user: str | None = None
    port: str | None = None
    key: str | None = None
    left: list[str] = field(default_factory=list)  #: options that pool has its own way for


def ssh_words(text: str) -> SshWords:
    """What `text`, as in ansible_ssh_common_args, says. InputError for what cannot be honoured."""
    options, rest = _split(text)
    if rest:
        raise InputError(f"not an option of ssh: {rest[0]!a}", hint=_HINT)
    found = SshWords()
    for option, value in options:
        _take(found, option, value)
    return found


def _split(text: str) -> tuple[list[tuple[str, str]], list[str]]:
    try:
        return getopt.getopt(shlex.split(text), _OPTIONS)
    except (ValueError, getopt.GetoptError) as error:
        raise InputError(f"not options of ssh: {str(error)!a}", hint=_HINT) from error


def _take(found: SshWords, option: str, value: str) -> None:
    """Add one option; of one that was given before, ssh keeps the first."""
    word = ""
    if option == "-o":
        word, value = re.split(r"\s*=\s*|\s+|$", value.strip(), maxsplit=1)
        word, value = word.lower(), value.strip().strip('"')
        option = {"proxyjump": "-J", "user": "-l", "port": "-p", "identityfile": "-i"}.get(word, "-o")
    if option in _TAKEN:
        name = _TAKEN[option]
        setattr(found, name, getattr(found, name) or value)
    elif word == "proxycommand":
        jump, key, left = _through(value)
        if found.jump is None:
            found.jump, found.jump_key = jump, key
        found.left += left
    elif option in _OURS or word in _OUR_WORDS:
        found.left.append(word or option)
    else:
        raise InputError(f"an ssh option that cannot be honoured: {(word or option)!a}", hint=_HINT)


def _through(command: str) -> tuple[str, str | None, list[str]]:
    """Of a ProxyCommand that is `ssh -W %h:%p [options] [user@]host`: jump hosts as for -J, key, what is left aside."""
    if command.lower() == "none":
        return "none", None, []
    program, _, text = command.partition(" ")
    options, rest = _split(text) if os.path.basename(program) == "ssh" else ([], [])
    more, beyond = _split(shlex.join(rest[1:]))  # ssh takes options after the host as well
    options += more
    ends = [value for option, value in options if option == "-W"]
    if len(rest) == 0 or beyond or ends not in (["%h:%p"], ["[%h]:%p"]):
        raise InputError(f"a ProxyCommand that cannot be honoured: {_short(command)}", hint=_HINT)
    inner = SshWords()
    for option, value in options:
        if option != "-W":
            _take(inner, option, value)
    user, _, address = rest[0].rpartition("@")
    user = user or inner.user or ""
    if inner.port:
        address = f"[{address}]:{inner.port}" if ":" in address else f"{address}:{inner.port}"
    host = f"{user}@{address}" if user else address
    jump = f"{inner.jump},{host}" if inner.jump and inner.jump != "none" else host
    return jump, inner.key or inner.jump_key, inner.left


def _short(text: str) -> str:
    shown = ascii(text)
    return shown if len(shown) <= 80 else shown[:76] + "…'"
