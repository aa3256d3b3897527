"""`pool ssh HOST` and `pool exec`: the person's own ssh, told by the pool where to go and whom to believe there."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import paramiko

from pool.lab import loopback
from pool.lab.loopback import LabHost
from pool.ssh import host_keys
from tests.conftest import Cli, add_ssh
from tests.e2e.test_jump import configure


def exec_all(cli: Cli, *words: str, hosts: str = "all", **env: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of `pool exec`."""
    done = cli("exec", "--hosts", hosts, *words, **env)
    return done.rc, done.stdout, done.stderr


def test_hosts_that_say_the_same_are_one(ready: Cli, lab: list[LabHost]) -> None:
    """One header for equal output and exit code; what differs stands apart; the largest exit code is ours."""
    assert exec_all(ready, "--", "echo same") == (0, "gpu[1-2] (2)\nsame\n", "")
    homes = "".join(f"{host.name} (1)\n{host.home}\n" for host in lab)
    assert exec_all(ready, "--", "printf %s $HOME") == (0, homes, "")
    code = "case $HOME in */gpu1/home) exit 3 ;; esac"
    assert exec_all(ready, "--", code) == (3, "gpu1 (1), exit code 3\ngpu2 (1)\n", "")
    assert exec_all(ready, "--", "echo bad >&2; exit 255") == (255, "gpu[1-2] (2), exit code 255\n", "gpu[1-2]: bad\n")
    assert exec_all(ready, "-L", "--", "echo a; echo b; exit 2", hosts="gpu2,gpu1,gpu2") == (
        2,
        "gpu1: a\ngpu1: b\ngpu2: a\ngpu2: b\n",
        "pool: gpu1: exit code 2\npool: gpu2: exit code 2\n",
    )


def test_words_arrive_as_they_are(ready: Cli) -> None:
    """Several words are quoted for the shell there, one is its line; `--` may stand among them, or be left out."""
    words = ["a b", "$HOME", "", "'\"", "-x", "--"]
    rc, out, _ = exec_all(ready, "--json", "--", "printf", "<%s>", *words, hosts="gpu2")
    expected = {"host": "gpu2", "exit_code": 0, "stdout": "".join(f"<{word}>" for word in words), "stderr": ""}
    assert (rc, json.loads(out)) == (0, [expected | {"error": None}])
    assert exec_all(ready, "printf", "%s\n", "-n", hosts="gpu1") == (0, "gpu1 (1)\n-n\n", "")
    assert ready("exec", "--pool", "default", "--", "echo 1 | tr 1 2").stdout == "gpu[1-2] (2)\n2\n"


def test_what_cannot_be_meant(ready: Cli) -> None:
    """No command, no such host, no such pool, no length of time: one error each, and no host is asked."""
    for words, code, said in (
        (("--hosts", "all"), 2, "there is no command"),
        (("--hosts", ",", "--", "true"), 2, "--hosts names no host"),
        (("--hosts", "gpu1,gpu9", "--", "true"), 3, "there is no host or pool 'gpu9'"),
        (("--pool", "gpu1", "--", "true"), 3, "there is no pool 'gpu1'"),
        (("--hosts", "all", "--timeout", "soon", "--", "true"), 2, "not a length of time"),
        (("--", "true"), 2, "--hosts --pool is required"),
    ):
        done = ready("exec", *words)
        assert (done.rc, done.stdout, said in done.stderr) == (code, "", True), done
    done = ready("ssh", "gpu9", "--", "true")
    assert (done.rc, done.stderr) == (3, "pool: there is no run and no host 'gpu9'\ntry: pool runs --live; pool ps\n")


def test_one_that_takes_too_long_or_says_too_much(ready: Cli) -> None:
    """It is ended, what it has said is shown, and the others are not touched."""
    slow = "echo begun; case $HOME in */gpu1/home) while echo . >&2; do sleep 0.1; done ;; esac"
    rc, out, err = exec_all(ready, "--timeout", "1s", "--", slow)
    assert (rc, out) == (124, "gpu1 (1)\nbegun\ngpu2 (1)\nbegun\n")
    assert err.startswith("gpu1: .\n")
    assert err.endswith("pool: gpu1: its time was up\n")
    rc, _, err = exec_all(ready, "--json", "--", "cat /dev/zero", hosts="gpu2")
    assert (rc, err) == (124, "")


@contextmanager
def another_key(cli: Cli, host: LabHost, tmp_path: Path) -> Iterator[None]:
    """The pool remembers another key of the host than it shows."""
    known_hosts = os.path.join(cli.env["POOL_STATE_DIR"], "known_hosts")
    pinned = host_keys.lookup(known_hosts, host.address, host.port)
    assert pinned is not None
    subprocess.run(["ssh-keygen", "-q", "-N", "", "-t", "ed25519", "-f", str(tmp_path / "k")], check=True, timeout=60)
    host_keys.pin(known_hosts, host.address, host.port, paramiko.PKey.from_path(str(tmp_path / "k")))
    try:
        yield
    finally:
        host_keys.pin(known_hosts, host.address, host.port, pinned)


def test_a_changed_key_is_refused(ready: Cli, lab: list[LabHost], tmp_path: Path) -> None:
    """By both commands, with ssh's own words, and the other hosts are asked all the same."""
    with another_key(ready, lab[1], tmp_path):
        rc, out, err = exec_all(ready, "--", "echo in")
        assert (rc, out) == (11, "gpu1 (1)\nin\n")
        assert err.startswith("pool: gpu2: ")
        assert err.endswith("Host key verification failed.\n")
        alone = ready("ssh", "gpu2", "--", "echo in")
        assert (alone.rc, alone.stdout) == (255, "")
        assert "HOST IDENTIFICATION HAS CHANGED" in alone.stderr
    assert exec_all(ready, "--", "echo in") == (0, "gpu[1-2] (2)\nin\n", "")


def test_a_host_that_turns_away_is_asked_again(ready: Cli, lab: list[LabHost]) -> None:
    """An sshd that hangs up before it asks who comes, since too many come at once, is not even noticed."""
    usual, narrow = "MaxStartups 100", "MaxStartups 1:100:1"
    configure(lab[0], usual, narrow)
    try:
        with socket.create_connection((lab[0].address, lab[0].port)) as first:
            away = exec_all(ready, "--", "echo in")
            timer = threading.Timer(0.3, first.close)
            timer.start()
            then = exec_all(ready, "--", "echo in")
            timer.join()
    finally:
        configure(lab[0], narrow, usual)
    assert away[:2] == (11, "gpu2 (1)\nin\n")
    assert away[2].startswith("pool: gpu1: kex_exchange_identification: ")
    assert then == (0, "gpu[1-2] (2)\nin\n", "")


def test_a_host_that_is_gone(cli: Cli, machine: Callable[[], LabHost]) -> None:
    """It is named with ssh's own words and counts 11."""
    host = machine()
    added = cli(*add_ssh(host))
    assert added.rc == 0, added
    assert exec_all(cli, "--", "echo in") == (0, f"{host.name} (1)\nin\n", "")
    loopback.stop(host)
    said = f"connect to host {host.address} port {host.port}: Connection refused"
    rc, out, err = exec_all(cli, "--", "echo in")
    assert (rc, out, err) == (11, "", f"pool: {host.name}: ssh: {said}\n")
    told = json.loads(cli("exec", "--hosts", host.name, "--json", "--", "true").stdout)
    assert (told[0]["exit_code"], told[0]["error"]) == (None, f"ssh: {said}")


def test_a_shared_server_lends_no_key(ready: Cli, lab: list[LabHost], tmp_path: Path) -> None:
    """On a head node sshd lets in who has a key of their own, and nobody else."""
    sock = str(tmp_path / "agent")
    shared = {"POOL_SERVER": os.path.join(ready.env["POOL_STATE_DIR"], "server.sock"), "POOL_STATE_DIR": str(tmp_path)}
    rc, out, err = exec_all(ready, "--", "echo in", hosts="gpu1", **shared)
    assert (rc, out, "Permission denied" in err) == (11, "", True), err
    agent = subprocess.Popen(["ssh-agent", "-D", "-a", sock], stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 10
        while not os.path.exists(sock) and time.monotonic() < deadline:
            time.sleep(0.01)
        with_agent = {"SSH_AUTH_SOCK": sock}
        subprocess.run(["ssh-add", "-q", lab[0].key], env=ready.env | with_agent, check=True, timeout=30)
        assert exec_all(ready, "--", "echo in", **shared, **with_agent) == (0, "gpu[1-2] (2)\nin\n", "")
        assert ready("ssh", "gpu2", "--", "echo in", **shared, **with_agent).stdout == "in\n"
    finally:
        agent.terminate()
        agent.wait(10)


def test_at_a_terminal(ready: Cli) -> None:
    """How many are through is said while it takes; Ctrl-C ends every connection; nothing steers the terminal."""
    person = ready.person("exec", "--hosts", "all", "--", "sleep 1.8; printf '\\033]0;title\\007'")
    person.expect_exact("0 of 2 hosts are through")
    person.expect_exact("gpu[1-2] (2)")
    person.expect_exact("^[]0;title^G")
    assert person.wait() == 0
    person = ready.person("exec", "--hosts", "all", "--", "while echo exec-marker; do sleep 0.1; done")
    person.expect_exact("of 2 hosts are through")
    assert len(_clients("exec-marker")) == 2
    person.sendintr()
    assert person.wait() == 130
    assert _clients("exec-marker") == []


def _clients(marker: str) -> list[str]:
    """The ssh clients of which a word holds the marker."""
    found = []
    for name in os.listdir("/proc"):
        try:
            words = Path("/proc", name, "cmdline").read_bytes().split(b"\0") if name.isdigit() else [b""]
        except OSError:
            continue
        if words[0] == b"ssh" and any(marker.encode() in word for word in words):
            found.append(name)
    return found


def test_a_shell_on_a_host(ready: Cli, lab: list[LabHost]) -> None:
    """A real terminal, which follows when the window is resized; the shell's exit code; nothing of the person's own."""
    person = ready.person("ssh", "gpu1")
    person.sendline("echo $HOME $((6 * 7)); stty size")
    person.expect_exact(f"{lab[0].home} 42\r\n50 200\r\n")
    person.setwinsize(30, 100)
    person.sendline("stty size; exit 7")
    person.expect_exact("30 100\r\n")
    assert person.wait() == 7
    assert ready("ssh", "gpu1", "--", "tty; exit 4").rc == 4
    assert ready("ssh", "gpu1", "--", "cat", stdin="through\n").stdout == "through\n"
    person = ready.person("ssh", "gpu1", "-t", "--", "tty && echo yes")
    person.expect("/dev/pts/[0-9]+\r\nyes\r\n")
    assert person.wait() == 0
