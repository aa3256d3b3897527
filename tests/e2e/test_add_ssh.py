"""`pool add-ssh` as a person types it: what works, and for what can go wrong its step, cause, next word."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pool.lab import loopback, sshd
from pool.lab.loopback import LabHost
from pool.lab.openssh import require
from tests.conftest import Cli, Result, add_ssh, know

Machine = Callable[[], LabHost]
OTHER_PRINT = "SHA256:" + "A" * 43


def url(host: LabHost) -> str:
    """A destination that has everything in it."""
    return f"ssh://{host.user}@{host.address}:{host.port}"


def hosts(cli: Cli) -> dict[str, dict[str, object]]:
    """What `pool ps` knows, by name."""
    return {host["name"]: host for host in json.loads(cli("ps", "--json").stdout)}


def refused(result: Result, code: int, *words: str) -> None:
    """One line of what and one of what to type, the exit code, no traceback, nothing on stdout."""
    assert result.rc == code, result
    what, hint = result.stderr.strip().splitlines()[-2:]
    assert what.startswith("pool: "), result
    assert hint.startswith("try: "), result
    assert result.stdout == ""
    for word in words:
        assert word in what + hint, result


def keygen(path: Path, passphrase: str = "") -> str:
    """A new key pair; the path of its private half."""
    argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", passphrase, "-f", str(path)]
    subprocess.run(argv, check=True, timeout=30)
    return str(path)


def log_of(host: LabHost) -> str:
    """What the host's sshd has logged."""
    return Path(os.path.dirname(host.home), "sshd.log").read_text(encoding="utf-8", errors="replace")


def before_a_session(host: LabHost, lines: str) -> None:
    """Shell lines that every session on the host runs first, in a mount namespace of its own."""
    rc = Path(host.home, ".bashrc")
    user = "" if os.geteuid() == 0 else "--map-root-user"
    if subprocess.run(["unshare", "--mount", *user.split(), "true"], check=False).returncode:
        pytest.skip("this machine lets nobody make a mount namespace")
    inside = f'{lines}\nexec bash --norc -c "$BASH_EXECUTION_STRING"'
    Path(os.path.dirname(host.home), "inside.sh").write_text(inside, encoding="utf-8")
    enter = f"exec unshare --mount {user} sh {os.path.dirname(host.home)}/inside.sh\n"
    rc.write_text(f'cd "$HOME"\nexport BASH_EXECUTION_STRING\n{enter}', encoding="utf-8")


def without_python(host: LabHost) -> None:
    """Make it a host that has no Python."""
    before_a_session(
        host,
        "for found in /usr/bin/python3* /usr/local/bin/python3* /usr/libexec/platform-python \"${PATH%%:*}\"/python3\n"
        'do [ -e "$found" ] && mount --bind /dev/null "$found"; done\n'
        'PATH="${PATH%%:*}:/usr/bin:/bin:/usr/sbin:/sbin"; export PATH',
    )  # fmt: skip


def test_a_service_where_sudo_asks_for_a_password(cli: Cli, machine: Machine) -> None:
    """Whoever insists on a service is told that root is needed; without insisting it becomes the user's own process."""
    host = machine()
    for name, lines in {
        "id": '[ "$1" = -u ] && echo 1000 && exit\nexec /usr/bin/id "$@"',
        "sudo": "echo 'sudo: a password is required' >&2\nexit 1",
    }.items():
        program = Path(host.home).parent / "bin" / name
        program.write_text(f"#!/bin/sh\n{lines}\n", encoding="utf-8")
        program.chmod(0o755)
    refused = cli(*add_ssh(host), "--scope", "system")
    assert refused.rc == 15, refused
    assert "root is needed, and sudo asks for a password" in refused.stderr
    assert "NOPASSWD" in refused.stderr.splitlines()[-1]
    assert hosts(cli) == {}
    wrong = cli(*add_ssh(host), "--scope", "both")
    assert wrong.rc == 2, wrong


def test_two_at_once_and_again(cli: Cli, machine: Machine, tmp_path: Path) -> None:
    """Hosts that one's own ssh knows are added side by side, with every step shown; again changes nothing."""
    one, two = machine(), machine()
    home = str(tmp_path)
    know(home, one, two)
    first = cli("add-ssh", url(one), url(two), "-i", one.key, "--network", "127.0.0.0/8", HOME=home)
    assert first.rc == 0, first
    assert first.stdout == ""
    for host in (one, two):
        assert f"{host.fingerprint} (known to your ssh)" in first.stderr
        assert re.search(rf"{host.address}  Copy the program  changed  \d+\.\ds", first.stderr), first
        assert f"{host.address} is ready" in first.stderr
    began = [first.stderr.index(f"{host.address}  Make the folders") for host in (one, two)]
    ended = [first.stderr.index(f"{host.address}  Start the runner") for host in (one, two)]
    assert max(began) < min(ended), first
    known = hosts(cli)
    assert {name: host["status"] for name, host in known.items()} == {one.address: "ready", two.address: "ready"}
    assert [known[one.address][word] for word in ("gpus_free", "gpus_total", "ip")] == [2, 2, one.address]
    again = cli("add-ssh", url(one), url(two), "-i", one.key, "--region", "lab", "--json")
    assert [host["changed"] for host in json.loads(again.stdout)["hosts"]] == [0, 0], again
    assert "(pinned before)" in again.stderr
    assert {host["region"] for host in hosts(cli).values()} == {"lab"}


def test_one_that_fails_stops_no_other(cli: Cli, machine: Machine, tmp_path: Path) -> None:
    """A step that fails leaves its host broken with the reason; mended and added again it is ready."""
    good, blocked, bare = machine(), machine(), machine()
    os.mkdir(os.path.join(blocked.home, ".local"))
    Path(blocked.home, ".local", "bin").write_text("a plain file where a folder has to be")
    without_python(bare)
    know(str(tmp_path), good, blocked, bare)
    done = cli("add-ssh", url(bare), url(blocked), url(good), "-i", good.key, HOME=str(tmp_path))
    assert done.rc == 17, done
    assert f"{good.address} is ready" in done.stderr
    assert f"pool: {bare.address}: no whole Python 3.8 or newer\ntry: on the host: sudo apt-get install" in done.stderr
    assert re.search(
        rf"pool: {blocked.address}: Make the folders: .*/\.local/bin.*\ntry: less .*/ansible/provision-", done.stderr
    )
    log = done.stderr.split("try: less ")[1].split()[0]
    assert "Make the folders" in Path(log).read_text(encoding="utf-8")
    known = hosts(cli)
    assert {name: host["status"] for name, host in known.items()} == {good.address: "ready", blocked.address: "broken"}
    assert str(known[blocked.address]["reason"]).startswith("Make the folders: ")
    shown = cli("ps")
    assert f"{blocked.address}: Make the folders: " in shown.stderr
    plan = cli("run", ".", "-f", task(tmp_path), "--nodes", "2", "--gpu", "2", "--dry-run")
    assert f"not {blocked.address}: status: asks ready, has broken" in plan.stderr
    os.unlink(os.path.join(blocked.home, ".local", "bin"))
    mended = cli("add-ssh", url(blocked), "-i", good.key)
    assert mended.rc == 0, mended
    assert hosts(cli)[blocked.address]["status"] == "ready"
    assert hosts(cli)[blocked.address]["reason"] is None


def task(folder: Path) -> str:
    """The path of a task that needs a GPU."""
    path = folder / "gpu.dstack.yml"
    path.write_text("type: task\ncommands: [nvidia-smi -L]\nresources: {gpu: 1}\n", encoding="utf-8")
    return str(path)


def test_no_python(cli: Cli, machine: Machine) -> None:
    """14, and nothing was touched: not listed, not pinned."""
    host = machine()
    without_python(host)
    before = sorted(os.listdir(host.home))
    refused(cli(*add_ssh(host)), 14, f"{host.name}: no whole Python 3.8", "apt-get install python3")
    assert hosts(cli) == {}
    assert sorted(os.listdir(host.home)) == before
    assert host.address not in Path(cli.env["POOL_STATE_DIR"], "known_hosts").read_text(encoding="ascii")


def test_no_room(cli: Cli, machine: Machine) -> None:
    """16 for a home that is full, before anything is put there."""
    host = machine()
    before_a_session(host, 'mount -t tmpfs -o size=1m none "$HOME"; cd "$HOME"')
    refused(cli(*add_ssh(host)), 16, f"{host.name}: {host.home} has 1 MiB left, 200 are needed", f"df -h {host.home}")
    assert hosts(cli) == {}


def test_no_root(cli: Cli, machine: Machine) -> None:
    """Where sudo asks for a password the runner becomes the user's own process, and that is said."""
    host = machine()
    folder = Path(os.path.dirname(host.home), "bin")
    for name, text in (
        ("sudo", "echo 'sudo: a password is required' >&2; exit 1"),
        ("id", 'case "$1" in -u) echo 1000 ;; -un) echo ubuntu ;; *) exec /usr/bin/id "$@" ;; esac'),
    ):
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)
    os.mkdir(os.path.join(host.home, ".local"))
    Path(host.home, ".local", "lib").write_text("so that it ends soon")
    done = cli(*add_ssh(host))
    assert done.rc == 17, done
    assert "sudo asks for a password, so the runner will be a process of ubuntu\n" in done.stderr


def test_a_machine_that_cannot_be_reached(cli: Cli) -> None:
    """11 for a port where nobody listens, one that never answers, a name that nobody has; none is listed."""
    with socket.socket() as free, socket.socket() as silent, contextlib.ExitStack() as kept:
        free.bind(("127.0.0.1", 0))
        refused(cli("add-ssh", f"ssh://me@127.0.0.1:{free.getsockname()[1]}"), 11, "the connection was refused")
        silent.bind(("127.0.0.2", 0))
        silent.listen(0)
        for _ in range(4):  # its queue is full: further connections are dropped, as a firewall does
            waiting = kept.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(silent.getsockname())
        mute = kept.enter_context(socket.create_server(("127.0.0.3", 0)))  # it takes connections and says nothing
        began = time.monotonic()
        words = [f"ssh://me@{other.getsockname()[0]}:{other.getsockname()[1]}" for other in (silent, mute)]
        done = cli("add-ssh", *words)
        assert time.monotonic() - began < 19, "they were asked one after the other"
    assert done.rc == 11, done
    assert re.search(r"pool: 127.0.0.2 \(127.0.0.2 port \d+\): no answer\ntry: is it up", done.stderr), done
    assert "pool: 127.0.0.3: it answers, but not as an SSH server" in done.stderr
    refused(cli("add-ssh", "me@no-such-host.invalid"), 11, "no-such-host.invalid", "no such host name", "IP address")
    assert hosts(cli) == {}


def test_a_key_that_is_refused(cli: Cli, machine: Machine, tmp_path: Path) -> None:
    """12, with the command that gives the host the key; a key that ssh would not use is refused before."""
    host = machine()
    before = sorted(os.listdir(host.home))
    other = keygen(tmp_path / "other")
    words = add_ssh(host)
    words[words.index("-i") + 1] = other
    done = cli(*words)
    refused(done, 12, f"{host.user}@{host.address} is refused with the key {other}", f"ssh-copy-id -i {other}.pub -p")
    assert f"{host.name}  log in and look around  failed" in done.stderr
    os.chmod(other, 0o644)
    refused(cli(*words), 2, f"others may read the key {other}", f"chmod 600 {other}")
    words[words.index("-i") + 1] = f"{other}.pub"
    refused(cli(*words), 2, "this is the public key", f"-i {other}")
    assert hosts(cli) == {}
    assert sorted(os.listdir(host.home)) == before


def test_a_host_key_that_is_not_the_expected(cli: Cli, machine: Machine) -> None:
    """13 for an unknown key with no terminal, for another fingerprint than the one given; nothing is authenticated."""
    host = machine()
    words = add_ssh(host)[:-2]
    refused(
        cli(*words),
        13,
        f"{host.name}: its host key is not known: {host.fingerprint}",
        f"--fingerprint {host.fingerprint}",
    )
    wrong = cli(*words, "--fingerprint", OTHER_PRINT)
    refused(wrong, 13, f"no host key has the fingerprint {OTHER_PRINT}; it offers ssh-ed25519 {host.fingerprint}")
    refused(cli(*words, "--fingerprint", "abc"), 2, "not a fingerprint")
    assert hosts(cli) == {}
    assert "Accepted" not in log_of(host)
    assert "authenticating" not in log_of(host)


def test_destinations_that_are_none(cli: Cli) -> None:
    """Bad input is one line, exit code 2, and asks nobody anything."""
    for words, said in (
        (["a b"], "not a host name"),
        ([""], "not a host name"),
        (["host;rm -rf ~"], "not a host name"),
        (["$(reboot)@gpu1"], "not a user name"),
        (["{{ lookup('pipe', 'id') }}"], "not a host name"),
        (["gpu1:2222"], "a port is not written that way"),
        (["ssh://gpu1:0"], "not a port"),
        (["gpu1", "-p", "99999"], "not a port"),
        (["gpu1", "-p", "x"], "invalid int value"),
        (["\N{RIGHT-TO-LEFT OVERRIDE}gpu1"], "not a host name: '\\u202egpu1'"),
        (["gpu\x1b[2J"], "not a host name: 'gpu\\x1b[2J'"),
        (["gpu1", "--name", "a/../b"], "not a host name"),
        (["gpu1", "--network", "10.0.0.1/8"], "--network: "),
        (["gpu1", "--internal-ip", "x"], "--internal-ip: "),
        (["gpu1", "--label", "x"], "--label: not NAME=VALUE"),
        (["gpu1", "--price", "-1"], "--price: "),
        (["gpu1", "gpu2", "--name", "x"], "for one host at a time"),
        (["gpu1", "gpu1"], "are the same host"),
        (["gpu1", "-i", "/no/such/key"], "cannot read the key /no/such/key"),
        (["--", "-oProxyCommand=id"], "not a host name"),
        ([], "name the hosts, or an --inventory to take them from"),
    ):
        done = cli("add-ssh", *words)
        assert (done.rc, done.stdout) == (2, ""), done
        assert done.stderr.startswith("pool: "), done
        assert said in done.stderr, done
        assert len(done.stderr.splitlines()) <= 2, done
        assert "\x1b" not in done.stderr
    assert hosts(cli) == {}


def test_a_host_key_that_changed(cli: Cli, machine: Machine) -> None:
    """13 and both fingerprints, before anything is authenticated; taken out by force it can be added with the new."""
    host = machine()
    assert cli(*add_ssh(host)).rc == 0
    refused(cli(*add_ssh(host)[:-1], OTHER_PRINT), 13, f"its pinned key is {host.fingerprint}, not {OTHER_PRINT}")
    refused(
        cli(*add_ssh(host)[:-4], "--name", "other"), 4, f"in the pool already, as {host.name}", f"pool rm {host.name}"
    )
    assert cli("server", "stop").rc == 0
    loopback.stop(host)
    folder = os.path.dirname(host.home)
    for name in ("host_key", "host_key.pub", "sshd.log"):
        os.unlink(os.path.join(folder, name))
    sshd.keygen(require(), os.path.join(folder, "host_key"), comment="new")
    loopback.up(1, root=os.path.dirname(folder))
    new = sshd.fingerprint(require(), folder)
    for words in (add_ssh(host), [*add_ssh(host)[:-1], new]):
        refused(
            cli(*words), 13, f"{host.name}: the host key changed: pinned ssh-ed25519 {host.fingerprint}, offered", new
        )
    gone = cli("rm", host.name, "-y")
    assert gone.rc in (10, 11, 13), gone
    assert f"pool rm {host.name} --force" in gone.stderr
    assert hosts(cli)[host.name]["status"] == "unreachable"
    assert "the host key changed" in str(hosts(cli)[host.name]["reason"])
    assert "Accepted" not in log_of(host)
    assert "authenticating" not in log_of(host)
    assert cli("rm", host.name, "-y", "--force").rc == 0
    again = cli(*add_ssh(host)[:-1], new)
    assert again.rc == 0, again
    assert "(changed=0)" in again.stderr, again


def test_an_encrypted_key(cli: Cli, machine: Machine, tmp_path: Path) -> None:
    """12 and `ssh-add` without an agent; with one it works, though the server was started without."""
    host = machine()
    key = str(tmp_path / "key")
    shutil.copyfile(host.key, key)
    os.chmod(key, 0o600)
    subprocess.run(["ssh-keygen", "-q", "-p", "-P", "", "-N", "a secret", "-f", key], check=True, timeout=30)
    words = add_ssh(host)
    words[words.index("-i") + 1] = key
    refused(cli(*words), 12, f"{host.name}: the key {key} is encrypted and no agent holds it", f"ssh-add {key}")
    with agent(tmp_path, key, "a secret") as sock:
        done = cli(*words, SSH_AUTH_SOCK=sock)
        assert done.rc == 0, done
        assert hosts(cli)[host.name]["status"] == "ready"


@contextlib.contextmanager
def agent(folder: Path, key: str, passphrase: str) -> Iterator[str]:
    """An ssh-agent that holds the key; its socket."""
    sock = os.path.join(os.path.dirname(folder), "a.sock")
    process = subprocess.Popen(["ssh-agent", "-D", "-a", sock], stdout=subprocess.DEVNULL)
    try:
        asked = folder / "askpass"
        asked.write_text(f"#!/bin/sh\necho '{passphrase}'\n")
        asked.chmod(0o700)
        env = os.environ | {"SSH_AUTH_SOCK": sock, "SSH_ASKPASS": str(asked), "SSH_ASKPASS_REQUIRE": "force"}
        for _ in range(100):
            if os.path.exists(sock):
                break
            time.sleep(0.02)
        subprocess.run(["ssh-add", "-q", key], env=env, stdin=subprocess.DEVNULL, check=True, timeout=30)
        yield sock
    finally:
        process.terminate()
        process.wait(timeout=10)


def test_the_question_about_an_unknown_key(cli: Cli, machine: Machine) -> None:
    """At a terminal the key is shown and asked about: anything but yes or the fingerprint is a no."""
    host = machine()
    without_python(host)  # so that a yes ends soon
    words = add_ssh(host)[:-2]
    for answer in ("no", "y", "", OTHER_PRINT):
        person = cli.person(*words)
        person.expect_exact(f"{host.fingerprint} (unknown)")
        person.expect_exact(f"Is that the key of {host.name}? (yes/no/fingerprint) ")
        person.sendline(answer)
        person.expect_exact("its host key is not known")
        assert person.wait() == 13
    for answer in ("yes", host.fingerprint):
        person = cli.person(*words)
        person.expect_exact("(yes/no/fingerprint) ")
        person.sendline(answer)
        person.expect_exact("no whole Python")
        assert person.wait() == 14
    person = cli.person(*words)
    person.expect_exact("(yes/no/fingerprint) ")
    person.sendintr()
    assert person.wait() == 130
    assert hosts(cli) == {}


def test_the_server_is_killed_in_the_middle(cli: Cli, machine: Machine) -> None:
    """The host is listed as broken, interrupted; adding it again ends well."""
    host = machine()
    adding = cli.start(*add_ssh(host))
    assert adding.stderr is not None
    for line in adding.stderr:
        if "Make the folders" in line:
            break
    server = int(Path(cli.env["POOL_STATE_DIR"], "server.pid").read_text())
    os.kill(server, signal.SIGKILL)
    _, told = adding.communicate(timeout=60)
    assert adding.returncode == 5, told
    assert told.endswith("pool: the server ended in the middle of this\ntry: pool ps\n")
    known = hosts(cli)[host.name]
    assert (known["status"], known["reason"]) == ("broken", "adding it was interrupted; run pool add-ssh again")
    again = cli(*add_ssh(host))
    assert again.rc == 0, again
    assert hosts(cli)[host.name]["status"] == "ready"


def test_ctrl_c_in_the_middle(cli: Cli, machine: Machine) -> None:
    """Only the watching ends: the server goes on, which is said, and a second command for the host is told so."""
    host = machine()
    person = cli.person(*add_ssh(host))
    person.expect_exact("Make the folders")
    person.sendintr()
    person.expect_exact("the server goes on with it\r\ntry: pool ps")
    assert person.wait() == 130
    refused(cli(*add_ssh(host)), 4, f"{host.name} is being added right now")
    refused(cli("rm", host.name, "-y", "--force"), 4, f"{host.name} is being added right now")
    deadline = time.monotonic() + 60
    while hosts(cli)[host.name]["status"] != "ready" and time.monotonic() < deadline:
        time.sleep(0.1)
    assert hosts(cli)[host.name]["status"] == "ready"


def test_again_while_a_job_runs(ready: Cli, lab: list[LabHost], tmp_path: Path) -> None:
    """Adding a host that is in use changes nothing on it, and the job's output goes on without a gap."""
    text = {"type": "task", "name": "in-use", "commands": ["for i in $(seq 100); do echo $i; sleep 0.1; done"]}
    (tmp_path / "t.dstack.yml").write_text(json.dumps(text), encoding="utf-8")
    running = ready.start("run", ".", "-f", "t.dstack.yml", "-y", "--instance", "gpu1", cwd=tmp_path)
    assert running.stdout is not None
    assert running.stdout.readline() == "1\n"
    again = ready(*add_ssh(lab[0], "--label", "rack=b2"))
    assert again.rc == 0, again
    assert "gpu1 is ready (changed=0)" in again.stderr
    assert hosts(ready)["gpu1"]["labels"] == {"rack": "b2"}
    assert running.stdout.read().split() == [str(number) for number in range(2, 101)]
    assert running.wait(timeout=60) == 0
    assert ready(*add_ssh(lab[0])).rc == 0
    assert hosts(ready)["gpu1"]["labels"] == {}
