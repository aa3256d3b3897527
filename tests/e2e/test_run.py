"""`pool run` as a person types it, on two real hosts: exit code, output, environment, waiting, gangs, what is sent."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pexpect
import pytest

from pool.lab.loopback import LabHost
from tests.conftest import Cli, Result

Write = Callable[..., str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """`write(commands, **fields)` is a new folder with that task in `t.dstack.yml`; its path."""
    made = iter(range(100))

    def write(*commands: str, **fields: Any) -> str:
        folder = tmp_path / f"code{next(made)}"
        folder.mkdir()
        task = {"type": "task", "commands": list(commands), **fields}
        (folder / "t.dstack.yml").write_text(json.dumps(task), encoding="utf-8")
        return str(folder)

    return write


def run(cli: Cli, folder: str, *words: str, **env: str) -> Result:
    """`pool run . -f t.dstack.yml -y …` in the folder."""
    return cli("run", ".", "-f", "t.dstack.yml", "-y", *words, cwd=folder, **env)


def until(cli: Cli, name: str, *statuses: str) -> dict[str, Any]:
    """The run once it is there and has one of these statuses."""
    deadline = time.monotonic() + 30
    while True:
        asked = cli("runs", name, "--json")
        found: dict[str, Any] = json.loads(asked.stdout) if asked.rc == 0 else {"status": None}
        if found["status"] in statuses:
            return found
        assert time.monotonic() < deadline, asked
        time.sleep(0.05)


def count(cli: Cli) -> int:
    """How many runs there are."""
    return len(json.loads(cli("runs", "--json").stdout))


@pytest.mark.parametrize(("command", "code"), [("true", 0), ("exit 3", 3), ("kill -9 $$", 137), ("no-such-word", 127)])
def test_the_exit_code_is_the_task_s(ready: Cli, write: Write, command: str, code: int) -> None:
    """Whatever the task ends with, `pool run` ends with."""
    done = run(ready, write("echo first", command))
    assert done.rc == code, done
    assert done.stdout.startswith("first\n"), done
    if code:
        assert f"failed on gpu1, exit code {code}" in done.stderr


def test_output_of_one_node_is_raw(ready: Cli, write: Write) -> None:
    """Byte for byte on stdout, stderr merged in order, what pool says on stderr only; nothing of it with -q."""
    words = write(r"printf 'a\033[2J\000\377\r\n'; echo b >&2; printf 'no end'")
    for quiet in (["-q"], []):
        argv = ready.argv("run", ".", "-f", "t.dstack.yml", "-y", *quiet)
        done = subprocess.run(argv, cwd=words, env=ready.env, capture_output=True, timeout=60, check=True)
        assert done.stdout == b"a\x1b[2J\0\xff\r\nb\nno end"
        assert (b"RANK  HOST" in done.stderr) is not bool(quiet)
        assert not (quiet and done.stderr)


def test_a_wait_is_shown_in_place(ready: Cli, write: Write) -> None:
    """On a terminal: for what, and how long; it goes away when the run goes on, and with -q there is nothing."""
    held = write("sleep 1000", resources={"gpu": 2}, nodes=2)
    assert run(ready, held, "-d", "-n", "holds").rc == 0
    until(ready, "holds", "running")
    folder = write("echo at last", resources={"gpu": 1})
    person = ready.person("run", ".", "-f", "t.dstack.yml", "-y", "-n", "waits", cwd=folder)
    quiet = ready.person("run", ".", "-f", "t.dstack.yml", "-yq", "-n", "quiet", cwd=folder)
    person.expect_exact("pool: waits submitted\r\n")
    person.expect(r"waits submitted: waits for free hosts .*0:00:01")
    assert ready("stop", "holds", "--abort", "-y").rc == 0
    person.expect(r"\x1b\[2K.*?pool: waits placed on gpu\d\r\n")
    person.expect_exact("at last")
    assert person.wait() == 0
    quiet.expect(pexpect.EOF)
    assert quiet.before == "at last\r\n"


def test_output_of_two_nodes_is_prefixed(ready: Cli, write: Write) -> None:
    """Every line carries its rank; a last line without an end too."""
    done = run(ready, write("echo one; printf $DSTACK_NODE_RANK"), "--nodes", "2")
    assert done.rc == 0
    assert sorted(done.stdout.splitlines()) == ["[0] 0", "[0] one", "[1] 1", "[1] one"]


def test_the_environment_of_two_ranks(ready: Cli, write: Write, lab: list[LabHost]) -> None:
    """Every variable of semantics §4 on both ranks; the user's own win; the GPUs are the pool's."""
    show = "import json, os, pathlib; print(json.dumps({**os.environ, 'hosts': pathlib.Path(os.environ"
    folder = write(
        f"python3 -c \"{show}['DSTACK_MPI_HOSTFILE']).read_text()}}))\"",
        nodes=2,
        resources={"gpu": 2},
        env={"FIXED": "a\nb %$'\"", "EMPTY": "", "TAKEN": None, "MASTER_PORT": "12345", "CUDA_VISIBLE_DEVICES": "all"},
    )
    done = run(ready, folder, "-n", "env-1", "-e", "GIVEN=x=y", "-e", "TAKEN", TAKEN="from me", SECRET="not asked for")
    assert done.rc == 0, done
    ranks = {int(line[1]): json.loads(line[4:]) for line in done.stdout.splitlines()}
    ips = [host.address for host in lab]
    for rank, env in ranks.items():
        expected = {
            "DSTACK_RUN_NAME": "env-1",
            "RUN_NAME": "env-1",
            "DSTACK_GPUS_NUM": "4",
            "DSTACK_GPUS_PER_NODE": "2",
            "DSTACK_NODES_NUM": "2",
            "DSTACK_NODE_RANK": str(rank),
            "DSTACK_MASTER_NODE_IP": ips[0],
            "DSTACK_NODES_IPS": "\n".join(ips),
            "MASTER_ADDR": ips[0],
            "PET_NNODES": "2",
            "PET_NODE_RANK": str(rank),
            "PET_NPROC_PER_NODE": "2",
            "PET_MASTER_ADDR": ips[0],
            "NCCL_SOCKET_IFNAME": "lo",
            "GLOO_SOCKET_IFNAME": "lo",
            "FIXED": "a\nb %$'\"",
            "EMPTY": "",
            "TAKEN": "from me",
            "GIVEN": "x=y",
            "MASTER_PORT": "12345",
            "hosts": "".join(f"{ip} slots=2\n" for ip in ips),
            "HOME": lab[rank].home,
        }
        assert {name: env.get(name) for name in expected} == expected
        assert len(env["CUDA_VISIBLE_DEVICES"].split(",")) == 2
        assert env["CUDA_VISIBLE_DEVICES"] == env["NVIDIA_VISIBLE_DEVICES"]
        assert "SECRET" not in env
    assert ranks[0]["DSTACK_REPO_ID"] == ranks[1]["REPO_ID"] != ""
    assert ranks[0]["PET_MASTER_PORT"] == ranks[1]["PET_MASTER_PORT"]
    assert not set(ranks[0]["CUDA_VISIBLE_DEVICES"].split(",")) & set(ranks[1]["CUDA_VISIBLE_DEVICES"].split(","))


def test_a_variable_without_a_value(ready: Cli, write: Write) -> None:
    """It is asked of the caller before anything is sent; without a GPU in the request no GPU is visible."""
    folder = write("echo $WANTED-$CUDA_VISIBLE_DEVICES-$NVIDIA_VISIBLE_DEVICES", env=["WANTED"])
    before = count(ready)
    done = run(ready, folder)
    assert (done.rc, count(ready)) == (2, before), done
    assert done.stderr.endswith("\ntry: export WANTED=…, or add -e WANTED=…\n"), done
    assert run(ready, folder, "-q", WANTED="").stdout == "--void\n"
    assert run(ready, folder, "-q", "-e", "WANTED=x").stdout == "x--void\n"


@pytest.mark.parametrize(
    ("typed", "seen"),
    [
        (["--name", "a b", "$x", "-f", "*"], None),
        (["--", "--name", "a b", "$x", "", "'", '"', "\\", "`id`", "\n"], 1),
        (["-e", "A=1", "first", "-y", "-d"], 2),
        (["--lr=0.1", "--", "x"], 0),
    ],
)
def test_arguments_arrive_as_typed(ready: Cli, write: Write, typed: list[str], seen: int | None) -> None:
    """What follows the options is the task's, word for word, whatever a shell would make of it."""
    folder = write("python3 -c 'import json, sys; print(json.dumps(sys.argv[1:]))' ${{ run.args }}")
    if seen is None:  # --name is an option of pool's own: a name, and what follows is the task's
        typed, seen = ["--name", "a-b", *typed[2:3], *typed[3:]], 2
    done = run(ready, folder, "-q", *typed)
    assert done.rc == 0, done
    assert json.loads(done.stdout) == typed[seen:]


def test_arguments_that_nothing_uses(ready: Cli, write: Write) -> None:
    """They are warned about, and the run goes on."""
    done = run(ready, write("echo ok"), "--lr", "0.1")
    assert (done.rc, done.stdout) == (0, "ok\n")
    assert "the arguments --lr 0.1 are not used" in done.stderr


def test_detached(ready: Cli, write: Write) -> None:
    """-d prints the name, alone on stdout, and the run goes on without us."""
    done = run(ready, write("sleep 0.3; echo later"), "-d")
    assert done.rc == 0
    name = done.stdout.strip()
    assert until(ready, name, "done")["exit_code"] == 0
    assert ready("logs", name).stdout == "later\n"


def test_without_a_terminal_a_yes_is_needed(ready: Cli, write: Write) -> None:
    """2, the plan is shown all the same, and nothing was submitted; --dry-run needs none."""
    folder = write("true", resources={"gpu": "H100:2"}, nodes=2)
    before = count(ready)
    done = ready("run", ".", "-f", "t.dstack.yml", cwd=folder)
    assert done.rc == 2, done
    assert done.stderr.endswith("pool: there is no terminal to ask at\ntry: add -y to go on without a question\n")
    assert "asks      2 nodes, each: 2 x H100" in done.stderr
    assert "0     gpu1  127.0.0.11  2x H100 80GB HBM3" in done.stderr
    dry = ready("run", ".", "-f", "t.dstack.yml", "--dry-run", cwd=folder)
    assert (dry.rc, dry.stdout) == (0, "")
    assert count(ready) == before


def test_the_question_at_a_terminal(ready: Cli, write: Write) -> None:
    """Only a yes submits; no, Enter, Ctrl-D and Ctrl-C change nothing."""
    folder = write("echo ran")
    before = count(ready)
    for answer, code in (("n\n", 130), ("\n", 130), ("\x04", 130), ("\x03", 130)):
        person = ready.person("run", ".", "-f", "t.dstack.yml", cwd=folder)
        person.expect_exact("Run it? [y/N] ")
        person.send(answer)
        assert person.wait() == code
    assert count(ready) == before
    person = ready.person("run", ".", "-f", "t.dstack.yml", cwd=folder)
    person.expect_exact("Run it? [y/N] ")
    person.sendline("y")
    person.expect_exact("ran\r\n")
    assert person.wait() == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--gpu", "A100"], "not gpu1: gpu name: asks A100, has NVIDIA H100 80GB HBM3"),
        (["--gpu", "3"], "not gpu2: gpus: asks 3, has 2"),
        (["--instance", "gpu9"], "not gpu1: host: asks gpu9, has gpu1"),
        (["--pool", "other"], "not gpu1: pool: asks other, has default"),
        (["--region", "mars"], "not gpu1: region: asks mars, has remote"),
        (["--nodes", "2", "--memory", "9TB"], "not gpu1: memory: asks"),
    ],
)
def test_what_no_host_fits(ready: Cli, write: Write, words: list[str], said: str) -> None:
    """6, host by host why, and nothing was submitted."""
    before = count(ready)
    done = run(ready, write("true"), *words)
    assert done.rc == 6, done
    assert said in done.stderr, done
    assert "\npool: No host fits" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("try: ")
    assert count(ready) == before


def test_a_run_waits_for_gpus_and_a_gang_for_all_of_them(ready: Cli, write: Write) -> None:
    """One busy GPU keeps a gang of two whole hosts waiting; nothing of it is held meanwhile, and then it runs."""
    blocker = run(ready, write("while ! [ -e go ]; do sleep 0.05; done; echo went"), "--gpu", "1", "-d").stdout.strip()
    holder = until(ready, blocker, "running")["jobs"][0]["host"]
    gang = write("echo together", nodes=2, resources={"gpu": 2})
    plan = ready("run", ".", "-f", "t.dstack.yml", "--dry-run", cwd=gang)
    assert plan.rc == 0
    assert f"not {holder}: gpus free: asks 2, has 1 of 2 free" in plan.stderr
    assert "\nwaits     No host is free now" in plan.stderr or "\nwaits  " in plan.stderr, plan
    waiting = run(ready, gang, "-d", "-n", "gang-1")
    assert waiting.rc == 0, waiting
    single = run(ready, write("echo small"), "--gpu", "2", "-q")  # what fits now is not held up by what does not
    assert single.stdout == "small\n"
    found = until(ready, "gang-1", "submitted")
    assert [job["host"] for job in found["jobs"]] == [None, None]
    free = {host["name"]: host["gpus_free"] for host in json.loads(ready("ps", "--json").stdout)}
    assert sorted(free.values()) == [1, 2]
    assert ready("logs", "gang-1").stdout == ""
    assert ready("stop", blocker).rc == 0
    assert sorted(ready("logs", "gang-1", "-f").stdout.splitlines()) == ["[0] together", "[1] together"]
    assert until(ready, "gang-1", "done")["exit_code"] == 0


def test_a_rank_that_fails_stops_the_other(ready: Cli, write: Write) -> None:
    """The failing rank is named, its code is the run's, and the other does not sleep on."""
    began = time.monotonic()
    done = run(ready, write('[ "$DSTACK_NODE_RANK" = 0 ] || { sleep 0.3; exit 7; }; sleep 60'), "--nodes", "2")
    assert time.monotonic() - began < 20
    assert done.rc == 7, done
    assert "rank 1 failed on gpu2, exit code 7" in done.stderr
    assert "rank 0 stopped on gpu1" in done.stderr
    assert "rank 1 failed\n" in done.stderr


def test_names(ready: Cli, write: Write) -> None:
    """A live run's name is taken (4); a finished one's is free, and the name then means the newer run."""
    folder = write("sleep 60", name="same")
    assert run(ready, folder, "-d").rc == 0
    taken = run(ready, folder)
    assert taken.rc == 4, taken
    assert taken.stderr.endswith("pool: a run named same is going on\ntry: pool stop same\n")
    assert ready("stop", "same").rc == 0
    assert run(ready, write("echo newer", name="same"), "-q").stdout == "newer\n"
    assert ready("logs", "same").stdout == "newer\n"
    for name in (
        "../../etc",
        "a/b",
        "x" * 300,
        "caf\N{LATIN SMALL LETTER E WITH ACUTE}",
        "a\N{RIGHT-TO-LEFT OVERRIDE}b",
    ):
        bad = run(ready, folder, "-n", name)
        assert bad.rc == 2, bad
        assert bad.stderr.startswith("pool: --name: "), bad
        assert "\N{RIGHT-TO-LEFT OVERRIDE}" not in bad.stderr


def test_the_folder_arrives_as_it_is(ready: Cli, write: Write, tmp_path: Path) -> None:
    """Modes, links, empty folders and odd names; .git stays; what cannot travel is named."""
    folder = Path(write("true"))
    os.makedirs(folder / "empty")
    os.makedirs(folder / "sub" / "deep")
    os.makedirs(folder / ".git")
    (folder / ".git" / "HEAD").write_text("x")
    for name, mode in (("script.sh", 0o755), ("secret", 0o600), ("plain", 0o644), ("once", 0o400)):
        (folder / name).write_text(name)
        (folder / name).chmod(mode)
    for odd in (b"-rf", b"a b", b"new\nline", b"\xff\xfe", "\N{SNOWMAN}".encode(), b"esc\x1b[2J", b".hidden"):
        Path(os.fsdecode(os.path.join(os.fsencode(folder), odd))).write_bytes(odd)
    os.symlink("plain", folder / "link")
    os.symlink("../plain", folder / "sub" / "up")
    os.symlink("nowhere", folder / "dangling")
    os.symlink("sub/deep", folder / "dlink")
    os.symlink("/etc/passwd", folder / "absolute")
    os.symlink("../../outside", folder / "outside")
    os.link(folder / "plain", folder / "plain2")
    os.mkfifo(folder / "fifo")
    with socket.socket(socket.AF_UNIX) as bound:
        here = os.getcwd()
        os.chdir(folder)  # a socket's path is short
        bound.bind("sock")
        os.chdir(here)
        code = (
            "import os, json, stat\n"
            "def one(p):\n"
            "    s = os.lstat(p); kind = stat.S_IFMT(s.st_mode)\n"
            "    what = os.readlink(p) if stat.S_ISLNK(s.st_mode) else b'' if stat.S_ISDIR(s.st_mode)"
            " else open(p, 'rb').read()\n"
            "    return [p.hex(), kind, 0 if stat.S_ISLNK(s.st_mode) else s.st_mode & 0o777, what.hex()]\n"
            "found = [os.path.join(d, n) for d, ds, fs in os.walk(b'.') for n in ds + fs]\n"
            "print(json.dumps(sorted(one(p) for p in found)))\n"
        )
        (folder / "look.py").write_text(code)
        (folder / "t.dstack.yml").write_text('{"type": "task", "commands": ["python3 look.py"]}')
        done = run(ready, str(folder), "-q")
    assert done.rc == 0, done
    expected = []
    for place, folders, files in os.walk(os.fsencode(folder)):
        for name in folders + files:
            path = os.path.join(place, name)
            info = os.lstat(path)
            if b"/.git" in path or name in (b"absolute", b"outside", b"fifo", b"sock"):
                continue
            link = stat.S_ISLNK(info.st_mode)
            what = (
                os.readlink(path)
                if link
                else b""
                if stat.S_ISDIR(info.st_mode)
                else Path(os.fsdecode(path)).read_bytes()
            )
            relative = b"./" + os.path.relpath(path, os.fsencode(folder))
            expected.append(
                [relative.hex(), stat.S_IFMT(info.st_mode), 0 if link else info.st_mode & 0o777, what.hex()]
            )
    assert json.loads(done.stdout) == sorted(expected)
    assert sorted(line for line in done.stderr.splitlines() if "left out" in line) == [
        "pool: left out absolute: the link to /etc/passwd leaves the folder",
        "pool: left out fifo: a special file cannot be sent",
        "pool: left out outside: the link to ../../outside leaves the folder",
        "pool: left out sock: a socket cannot be sent",
    ]


def test_working_dir(ready: Cli, write: Write) -> None:
    """Relative to the folder and inside it."""
    folder = write("basename $PWD; ls", working_dir="sub")
    os.mkdir(os.path.join(folder, "sub"))
    Path(folder, "sub", "inner").write_text("")
    assert run(ready, folder, "-q").stdout == "sub\ninner\n"
    missing = run(ready, write("pwd", working_dir="none"))
    assert missing.rc == 7, missing
    assert "none" in missing.stderr
    outside = run(ready, write("pwd", working_dir="../x"))
    assert outside.rc == 2, outside
    assert 'working_dir "../x" leaves the folder' in outside.stderr


def test_files_that_are_not_there(ready: Cli, write: Write, tmp_path: Path) -> None:
    """2, one line, and what to type."""
    folder = write("true")
    for words, said in (
        (["nowhere", "-y"], "there is no folder nowhere"),
        ([".", "-f", "none.yml"], "none.yml: No such file or directory"),
        (["."], "./.dstack.yml: No such file or directory"),
        ([".", "-f", "."], ".: Is a directory"),
        ([], "./.dstack.yml: No such file or directory"),
    ):
        done = ready("run", *words, cwd=folder)
        assert (done.rc, len(done.stderr.splitlines())) == (2, 2), done
        assert done.stderr.startswith(f"pool: {said}"), done
    Path(folder, "t.dstack.yml").write_text("type: task\ncomands: [x]\n")
    done = run(ready, folder)
    assert done.rc == 2, done
    assert done.stderr.startswith("pool: t.dstack.yml:2:1: "), done


def test_an_interrupt_without_a_terminal_stops_the_run(ready: Cli, write: Write) -> None:
    """As with any program in the foreground; a second one kills."""
    folder = write("trap 'echo got it; exit 5' INT; while :; do sleep 0.05; done", name="int-1")
    running = ready.start("run", ".", "-f", "t.dstack.yml", "-y", cwd=folder)
    until(ready, "int-1", "running")
    os.killpg(running.pid, signal.SIGINT)
    stdout, stderr = running.communicate(timeout=30)
    assert stdout == "got it\n", stderr
    assert "pool: stopping it; Ctrl-C again to kill it" in stderr
    assert running.returncode == 130, stderr
    assert until(ready, "int-1", "stopped")["stop_asked"] == "stop"


def test_ctrl_c_at_a_terminal(ready: Cli, write: Write) -> None:
    """It asks: Enter goes on watching, d leaves the run running, s stops it; a second Ctrl-C then kills."""
    folder = write("trap '' INT; echo up; while :; do sleep 0.05; done", name="ctrl-c")
    person = ready.person("run", ".", "-f", "t.dstack.yml", "-y", cwd=folder)
    question = "ctrl-c: [s]top it, [d]etach and let it run, or Enter to go on watching? "
    person.expect_exact("up\r\n")
    person.sendintr()
    person.expect_exact(question)
    person.sendline("")
    time.sleep(0.2)
    person.sendintr()
    person.expect_exact(question)
    person.sendline("d")
    person.expect_exact("the run goes on\r\ntry: pool attach ctrl-c")
    assert person.wait() == 0
    person = ready.person("attach", "ctrl-c", cwd=folder)
    person.expect_exact("ctrl-c running on gpu")
    person.sendintr()
    person.expect_exact(question)
    person.sendline("s")
    person.expect_exact("pool: stopping it; Ctrl-C again to kill it")
    person.sendintr()
    person.expect_exact(question)
    person.sendline("s")
    person.expect_exact("pool: killing it now")
    person.expect_exact("ctrl-c was stopped")
    assert person.wait() == 130
    assert until(ready, "ctrl-c", "stopped")["stop_asked"] == "abort"
