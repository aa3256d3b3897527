"""One lab host's OpenSSH daemon: its keys, its configuration, its start.

What this does to the world: makes the host's folder, starts one unprivileged sshd that listens on one loopback
address. As root, where sshd wants it, /run/sshd is made.
"""

from __future__ import annotations

import os
import pwd
import shlex
import shutil
import subprocess
import sys
import time

from pool.errors import PoolError
from pool.lab import processes
from pool.lab.openssh import OpenSSH

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_TIMEOUT_S = 10.0


def prepare(openssh: OpenSSH, folder: str, client_public_key: str) -> None:
    """Make what a host keeps over restarts: home/, bin/, its host key, who may log in. Nothing made is made again."""
    home = os.path.join(folder, "home")
    for path in (folder, home, os.path.join(folder, "bin")):
        os.makedirs(path, mode=0o700, exist_ok=True)
    keygen(openssh, os.path.join(folder, "host_key"), comment=os.path.basename(folder))
    shutil.copyfile(client_public_key, os.path.join(folder, "authorized_keys"))
    # sshd starts a session in the real user's home, whatever HOME says. bash and zsh read these before a command;
    # with another login shell, a session's working folder stays the real home.
    for name in (".bashrc", ".zshenv"):
        with open(os.path.join(home, name), "w", encoding="utf-8") as file:
            file.write('[ -n "$POOL_JOB_ID" ] || cd "$HOME"\n')  # a shell inside of a job has a folder
    _lend_python(os.path.join(folder, "bin"))


def keygen(openssh: OpenSSH, path: str, *, comment: str) -> None:
    """Make an ed25519 key pair without passphrase at `path`, unless there is one."""
    if os.path.exists(path) and os.path.exists(path + ".pub"):
        return
    command = [openssh.keygen, "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False, stdin=subprocess.DEVNULL)
    if done.returncode:
        raise PoolError(f"ssh-keygen failed: {done.stderr.strip() or done.stdout.strip()}")


def start(openssh: OpenSSH, root: str, folder: str, address: str, port: int) -> int | None:
    """Start the daemon and wait until it listens; its pid, or None when the port was taken meanwhile.

    Raises PoolError with the end of its log when it fails otherwise.
    """
    config, log, pid_file = (os.path.join(folder, name) for name in ("sshd_config", "sshd.log", "sshd.pid"))
    with open(config, "w", encoding="utf-8") as file:
        file.write(configuration(openssh, root, folder, address, port))
    for path in (log, pid_file):
        if os.path.exists(path):
            os.unlink(path)
    if os.geteuid() == 0:
        os.makedirs("/run/sshd", mode=0o755, exist_ok=True)
    done = subprocess.run(
        [openssh.sshd, "-f", config, "-E", log],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        timeout=_TIMEOUT_S,
        cwd="/",
        env={"PATH": _PATH, processes.MARKER: root},
        check=False,
    )
    deadline = time.monotonic() + _TIMEOUT_S
    while done.returncode == 0 and time.monotonic() < deadline:
        # sshd writes the file once it listens.
        pid = _read_pid(pid_file)
        if pid is not None:
            return pid
        if "Cannot bind any address" in _tail(log):
            return None
        time.sleep(0.005)
    if "Cannot bind any address" in _tail(log):
        return None
    raise PoolError(f"sshd for {address} did not start: {_tail(log).strip() or f'exit code {done.returncode}'}")


def configuration(openssh: OpenSSH, root: str, folder: str, address: str, port: int) -> str:
    """The sshd_config of a host: keys only, no forwarding, two sessions a connection, its own HOME."""
    environment = {
        "HOME": os.path.join(folder, "home"),
        "PATH": f"{os.path.join(folder, 'bin')}:{_PATH}",
        "LANG": "C.UTF-8",
        processes.MARKER: root,
        "POOL_RUNNER_SCOPE": "user",
    }
    options = [
        f"ListenAddress {address}:{port}",
        f"HostKey {_quote(os.path.join(folder, 'host_key'))}",
        f"AuthorizedKeysFile {_quote(os.path.join(folder, 'authorized_keys'))}",
        f"PidFile {_quote(os.path.join(folder, 'sshd.pid'))}",
        # One line: sshd takes the first SetEnv and drops the others.
        "SetEnv " + " ".join(_quote(f"{name}={value}") for name, value in environment.items()),
        f"UsePAM {'yes' if _locked() else 'no'}",
        "StrictModes no",
        "PermitRootLogin prohibit-password",
        "PubkeyAuthentication yes",
        "PasswordAuthentication no",
        "KbdInteractiveAuthentication no",
        "AllowTcpForwarding no",
        "AllowStreamLocalForwarding no",
        "X11Forwarding no",
        "PermitUserRC no",
        "PrintMotd no",
        "UseDNS no",
        "MaxSessions 2",
        "MaxStartups 100",
        f"Subsystem sftp internal-sftp -d {_quote(os.path.join(folder, 'home'))}",
    ]
    if openssh.version >= (9, 8):
        options.append("PerSourcePenalties no")  # all hosts of a lab see one client; a test may fail to log in
    return "\n".join(options) + "\n"


def fingerprint(openssh: OpenSSH, folder: str) -> str:
    """The host key's fingerprint, `SHA256:…`, as ssh shows it."""
    command = [openssh.keygen, "-l", "-E", "sha256", "-f", os.path.join(folder, "host_key.pub")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    if done.returncode:
        raise PoolError(f"ssh-keygen cannot read the host key in {folder}: {done.stderr.strip()}")
    return done.stdout.split()[1]


def _quote(text: str) -> str:
    return f'"{text}"' if " " in text else text


def _locked() -> bool:
    """Without PAM, a root sshd refuses an account whose password is locked, keys or not."""
    try:
        with open("/etc/shadow", encoding="utf-8") as file:
            mine = pwd.getpwuid(os.geteuid()).pw_name + ":!"
            return any(line.startswith(mine) for line in file)
    except OSError:
        return False


def _lend_python(folder: str) -> None:
    """Where the machine's own folders have no Python >= 3.8, the host gets the one that runs this."""
    found = shutil.which("python3", path=_PATH)
    ask = "import sys; sys.exit(sys.version_info < (3, 8))"
    if found and subprocess.run([found, "-I", "-S", "-c", ask], check=False).returncode == 0:
        return
    program = os.path.join(folder, "python3")
    real = os.path.realpath(sys.executable)
    with open(program, "w", encoding="utf-8") as file:
        file.write(f'#!/bin/sh\nexec {shlex.quote(real)} "$@"\n')
    os.chmod(program, 0o755)  # noqa: S103 -- a program that anyone may run


def _read_pid(path: str) -> int | None:
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
        return int(text) if text.endswith("\n") else None
    except (FileNotFoundError, ValueError):
        return None


def _tail(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()[-2000:]
    except FileNotFoundError:
        return ""
