"""Images of a private registry, on two whole machines: had with a login, or not, each for its own named cause."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import secrets
import stat
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pexpect
import pytest

from pool.lab.loopback import LabHost
from pool.lab.system import SystemLab
from pool.runner import reference
from tests.conftest import Result
from tests.system.registry import INSTALL, Registry, base_layer, layer
from tests.system.site import Site, machines, until

_LAB = tuple[SystemLab, list[LabHost]]
#: Stands nowhere else, and is long enough to be found in base64 too.
_CANARY = f"canary-{secrets.token_hex(12)}"
_LOGIN = {"username": "ann", "password": "${{ env.REGISTRY_TOKEN }}"}
_ARGV = b'#!/bin/sh\nfor word in "$@"; do echo "<$word>"; done\n'
_STATE = "/var/lib/pool-runner"
_MB = 1 << 20
#: Where a machine keeps what is written on it.
_PLACES = ("etc", "home", "opt", "root", "run", "srv", "tmp", "usr/local", "var")


class Shop:
    """Two machines with Docker in one pool, a registry with a login, and the layer that every image begins with."""

    def __init__(self, site: Site, registry: Registry, base: bytes) -> None:
        self.site, self.registry, self.base = site, registry, base

    def push(self, name: str, *layers: bytes, **config: Any) -> str:
        """An image of the base and these layers; its digest."""
        return self.registry.push(name, self.base, *layers, Env=["PATH=/usr/bin:/bin"], **config)

    def run(self, name: str, image: str, script: str | None = None, **task: Any) -> Result:
        """`pool run` to its end, of an image in the registry, with the right login."""
        return self.site.cli("run", self._folder(name, image, script, task), "-y", timeout=120)

    def start(self, name: str, image: str, script: str | None = None, **task: Any) -> None:
        """The same, without waiting for anything."""
        done = self.site.cli("run", self._folder(name, image, script, task), "-y", "-d", timeout=120)
        assert done.rc == 0, done

    def pull(self, image: str, *words: str, password: str = _CANARY) -> Result:
        """`pool pull` of an image in the registry."""
        words = (self.full(image), "--username", "ann", "--password-stdin", *words)
        return self.site.cli("pull", *words, stdin=f"{password}\n")

    def full(self, image: str) -> str:
        """The name of an image with its registry."""
        return f"{self.registry.name}/{image}"

    def images(self, host: str) -> dict[str, dict[str, Any]]:
        """What `pool images` tells of a host, by digest or id."""
        done = self.site.cli("images", host, "--json")
        assert done.rc == 0, done
        return {image["digest"] or image["id"]: image for image in json.loads(done.stdout)[0]["images"]}

    def _folder(self, name: str, image: str, script: str | None, task: dict[str, Any]) -> str:
        folder = tempfile.mkdtemp(prefix=name, dir=self.site.folder)
        written = {"type": "task", "name": name, "image": image if "/" in image else self.full(image)}
        written |= {"registry_auth": _LOGIN, **({"commands": [script]} if script else {}), **task}
        Path(folder, ".dstack.yml").write_text(json.dumps(written), encoding="utf-8")
        return folder


@pytest.fixture(scope="module")
def shop(system_lab: _LAB, session_dir: str) -> Iterator[Shop]:
    """Made once for all of these tests."""
    with machines(session_dir, "registry", 2) as site, ThreadPoolExecutor() as workers:
        base = workers.submit(base_layer, tempfile.mkdtemp(dir=session_dir))
        list(workers.map(lambda name: site.on(name, INSTALL, timeout=300), site.hosts))
        registry = Registry(site, "node1", "ann", _CANARY)
        site.settle()
        site.cli.env["REGISTRY_TOKEN"] = _CANARY  # the server has been started without it
        made = Shop(site, registry, base.result())
        made.push("base:1")
        done = made.pull("base:1")
        assert done.rc == 0, done
        yield made
        site.clear()
        for name in site.hosts:
            assert site.on(name, "docker ps --all --quiet") == ""
        registry.gate.close()


def test_a_private_image_is_pulled_with_a_login_that_is_left_nowhere(shop: Shop) -> None:
    """The pull is shown as it goes; the password is in no argv, log, inspection or database, not even meanwhile."""
    assert _has(reference.header("x", ["ann", _CANARY])["X-Registry-Auth"].encode())
    shop.push("private:1", layer(bulk=os.urandom(6 * _MB)))
    shop.registry.gate.rate = _MB
    over = threading.Event()
    with ThreadPoolExecutor() as watcher:
        seen = watcher.submit(lambda: list(_watch(shop, over)))
        try:
            done = shop.run("private", "private:1", "python3 -c 'print(6 * 7)'; sleep 2")
        finally:
            over.set()
            shop.registry.gate.rate = None
    assert (done.rc, done.stdout) == (0, "42\n"), done
    assert re.search(r"pulling \S+/private@sha256:\w+: \d of 2 layers, \d+ of \d+ MB", done.stderr), done
    kept = os.path.join(shop.site.folder, "secrets")  # on the server, for as long as it may be needed
    assert seen.result()
    assert [where for where in seen.result() if not where.startswith(kept)] == []
    for name in shop.site.hosts:
        assert _in_files(*(f"/proc/{_init(shop.site, name)}/root/{place}" for place in _PLACES)) == []
        assert not _has(shop.site.on(name, "journalctl --no-pager").encode())
    assert _in_files(shop.site.folder) == []


def test_each_thing_that_goes_wrong_has_its_own_name_within_seconds(shop: Shop) -> None:
    """And the next command to type; what the pool shows of it afterwards is the same."""
    shop.push("there:1")
    arm = shop.push("foreign:arm", arch="arm64")
    shop.registry.push_list("foreign:list", arm, "arm64")
    nobody = shop.site.hosts["node1"].address.rpartition(".")[0] + ".250"
    login = {"username": "ann", "password": "wrong"}
    cases: list[tuple[str, str, dict[str, Any], str, str]] = [
        (
            "wrong",
            "there:1",
            {"registry_auth": login},
            "its registry refuses this login",
            "check username and password",
        ),
        ("none", "there:1", {"registry_auth": None}, "or its registry wants a login", "add registry_auth"),
        ("missing", "there:2", {}, "there is no such image", "docker manifest inspect"),
        ("list", "foreign:list", {}, "there is none for amd64 hosts", "docker manifest inspect"),
        ("arm", "foreign:arm", {}, "it is for arm64 hosts, and this one is amd64", "docker manifest inspect"),
        ("silent", f"{nobody}:5000/x:1", {}, "its registry cannot be reached", "pool pull"),
        ("closed", "127.0.0.1:9/x:1", {}, "its registry cannot be reached", "pool pull"),
        ("noname", f"{shop.registry.name}/UPPER:1", {}, "that is not the name of an image", "write it as"),
    ]
    for name, image, task, words, hint in cases:
        before = time.monotonic()
        done = shop.run(name, image, "true", **task)
        assert time.monotonic() - before < 20.0, name
        said, _, tried = done.stderr.rpartition("\ntry: ")
        assert done.rc == 7 and words in said.splitlines()[-1], done
        assert tried.startswith(hint), done
        assert words in shop.site.found(name)["jobs"][0]["reason"]
        assert _CANARY not in done.stderr


def test_a_full_disk_is_the_cause_and_afterwards_none(shop: Shop) -> None:
    """Where Docker keeps what it loads there is room for less than the image."""
    shop.push("large:1", layer(bulk=os.urandom(8 * _MB)))
    tmp = "/var/lib/docker/tmp"
    shop.site.on("node2", f"mkdir -p {tmp} && mount -t tmpfs -o size=2m tmpfs {tmp}")
    try:
        done = shop.run("full", "large:1", "true", instance_name="node2")
    finally:
        shop.site.on("node2", f"umount -l {tmp}")
    assert "there is no space left for it" in done.stderr, done
    assert done.stderr.endswith("\ntry: pool images node2\n"), done
    assert shop.run("roomy", "large:1", "true", instance_name="node2").rc == 0


def test_two_jobs_at_once_pull_once(shop: Shop) -> None:
    """Of one host, for one image."""
    bulk = layer(bulk=os.urandom(4 * _MB))
    shop.push("twice:1", bulk)
    shop.registry.gate.rate = _MB
    try:
        for name in ("twice-a", "twice-b"):
            shop.start(name, "twice:1", "true", instance_name="node2")
        for name in ("twice-a", "twice-b"):
            assert shop.site.end_of(name)["exit_code"] == 0
    finally:
        shop.registry.gate.rate = None
    assert shop.registry.gets(bulk) == 1


def test_all_ranks_have_one_image_although_its_tag_moves(shop: Shop) -> None:
    """The second host asks the registry for nothing before the tag means another image."""
    gate, other = shop.registry.gate, shop.site.hosts["node2"].address
    first, second = (shop.push(f"moves:{number}", layer(which=number.encode())) for number in ("1", "2"))
    gate.kept.add(other)
    try:
        shop.start("moves", "moves:1", "cat /opt/which", nodes=2)
        until(lambda: other in gate.waited, "the second host at the registry")
        shop.registry.tag("moves:1", second)
    finally:
        gate.kept.clear()
    assert shop.site.end_of("moves", 1)["exit_code"] == 0
    assert [shop.site.log("moves", rank) for rank in (0, 1)] == [b"1", b"1"]
    assert shop.site.found("moves")["image"]["pinned"] == f"{shop.full('moves')}@{first}"
    assert f"moves@{first}" in shop.site.cli("runs", "moves").stdout
    assert shop.run("moved", "moves:1", "cat /opt/which").stdout == "2"


def test_images_are_had_in_advance_and_listed(shop: Shop) -> None:
    """`pool pull` on all hosts, with the password on stdin; what is there is not pulled again, by whatever tag."""
    bulk = layer(bulk=os.urandom(_MB))
    digest = shop.push("early:1", bulk)
    done = shop.pull("early:1", "--json")
    assert done.rc == 0, done
    assert [(host["host"], host["pinned"]) for host in json.loads(done.stdout)] == [
        (name, f"{shop.full('early')}@{digest}") for name in ("node1", "node2")
    ]
    assert sorted(line for line in done.stderr.splitlines() if "ready" in line) == ["node1  ready", "node2  ready"]
    shop.registry.tag("early:2", digest)
    assert shop.run("early", "early:2", "true", nodes=2).rc == 0
    assert shop.registry.gets(bulk) == 2
    found = shop.images("node2")[digest]
    assert set(found["names"]) == {shop.full("early:1"), shop.full("early:2")}
    assert (found["pulled"], found["jobs"]) == (True, [])
    shown = shop.site.cli("images").stdout
    assert re.search(rf"(?m)^node1 .*early:1.* {digest[7:19]} .* \d+s +0 +pool$", shown), shown
    wrong = shop.pull("early:1", "--hosts", "node2", password="wrong")
    assert wrong.rc == 18 and "its registry refuses this login" in wrong.stderr, wrong
    assert wrong.stderr.endswith("\ntry: check --username and the password\n"), wrong


def test_at_a_terminal_a_pull_is_shown_in_place(shop: Shop) -> None:
    """One line a host, with layers and bytes; the password is asked for, and not shown."""
    shop.push("shown:1", layer(bulk=os.urandom(6 * _MB)))
    shop.registry.gate.rate = _MB
    words = ("--hosts", "node1,node2", "--username", "ann", "--password-stdin")
    try:
        person = shop.site.cli.person("pull", shop.full("shown:1"), *words)
        person.logfile_read = shown = io.StringIO()
        person.expect("password: ")
        person.sendline(_CANARY)
        person.expect(r"\x1b\[2A\r\x1b\[Knode1  pulling \S+: 1 of 2 layers, \d of 6 MB")
        person.expect("node[12]  ready")
        person.expect("node[12]  ready")
        person.expect(pexpect.EOF)
    finally:
        shop.registry.gate.rate = None
    person.close()
    assert person.exitstatus == 0
    assert _CANARY not in shown.getvalue()


def test_what_is_not_used_is_cleared_away_and_nothing_else(shop: Shop) -> None:
    """The least recently used of what pool pulled; not one of a running job, nor what somebody else brought."""
    site = shop.site
    for name in ("old:1", "used:1", "new:1"):
        shop.push(name, layer(bulk=os.urandom(2 * _MB)))
    site.on("node2", "cd / && tar -c bin/true | docker import - brought:1")
    assert shop.run("old", "old:1", "true", instance_name="node2").rc == 0
    shop.start("used", "used:1", "until [ -e go ]; do sleep 0.1; done", instance_name="node2")
    until(lambda: site.job("used")["shown"] == "running", "a running job")
    try:
        site.on("node2", f"""echo '{{"images_gb": 0.001}}' > {_STATE}/policy.json""")
        assert shop.run("new", "new:1", "true", instance_name="node2").rc == 0
        until(lambda: _names(shop) == {"used", "brought"}, "the removal of what is not in use")
        assert [len(image["jobs"]) for image in shop.images("node2").values() if image["pulled"]] == [1]
        site.on("node2", f"touch {_STATE}/jobs/{site.job('used')['id']}/work/go")
        assert site.end_of("used")["exit_code"] == 0
        until(lambda: _names(shop) == {"brought"}, "the removal of what was in use")
    finally:
        site.on("node2", f"rm {_STATE}/policy.json; docker image rm brought:1")


def test_an_image_cannot_give_itself_cards(shop: Shop) -> None:
    """One with NVIDIA_VISIBLE_DEVICES=all in it: a job without GPUs sees none."""
    shop.registry.push("greedy:1", shop.base, Env=["PATH=/usr/bin:/bin", "NVIDIA_VISIBLE_DEVICES=all"])
    script = "echo $NVIDIA_VISIBLE_DEVICES .$CUDA_VISIBLE_DEVICES.; ls /dev | grep -c nvidia; true"
    done = shop.run("greedy", "greedy:1", script)
    assert done.stdout.split() == ["void", "..", "0"], done


def test_an_entrypoint_gets_its_words_as_they_are(shop: Shop) -> None:
    """The image's own, and one that the task names instead."""
    shop.push("argv:1", layer(argv=_ARGV), Entrypoint=["/opt/argv", "own"], Cmd=["a b", "--help"])
    assert shop.run("argv-own", "argv:1").stdout.split("\n") == ["<own>", "<a b>", "<--help>", ""]
    done = shop.run("argv-given", "argv:1", entrypoint="/opt/argv 'a b' -v/:/x $HOME --")
    assert done.stdout.split("\n") == ["<a b>", "<-v/:/x>", "<$HOME>", "<-->", ""], done


# -- inside -----------------------------------------------------------------------------------------------------


def _names(shop: Shop) -> set[str]:
    """The repositories of which node2 has an image."""
    found = shop.images("node2").values()
    return {name.rpartition("/")[2].partition(":")[0] for image in found for name in image["names"]}


def _forms() -> list[str]:
    """The password as it is, and as it stands in any base64 text, wherever it begins there."""
    found = [_CANARY]
    for shift in range(3):
        text = base64.urlsafe_b64encode(b"x" * shift + _CANARY.encode()).decode()
        found.append(text[4 if shift else 0 : -4])
    return found


def _has(data: bytes) -> bool:
    return any(form.encode() in data for form in _forms())


def _watch(shop: Shop, over: threading.Event) -> Iterator[str]:
    """Where the password is seen until `over`, on the server and of what runs on the hosts."""
    while not over.wait(0.3):
        for path in Path("/proc").glob("[0-9]*/cmdline"):  # of this machine and of those in it
            try:
                said = path.read_bytes()
            except OSError:
                continue
            if _has(said):
                yield f"{path}: {said!r}"
        yield from _in_files(shop.site.folder)
        for host in shop.site.hosts:
            if _has(shop.site.on(host, "docker ps -aq | xargs -r docker inspect", check=False).encode()):
                yield f"docker inspect on {host}"


def _in_files(*folders: str) -> list[str]:
    """The files below these folders that have the password in them."""
    found = []
    for path in [os.path.join(top, name) for folder in folders for top, _, names in os.walk(folder) for name in names]:
        try:
            if stat.S_ISREG(os.lstat(path).st_mode) and _has(Path(path).read_bytes()):
                found.append(path)
        except OSError:  # gone meanwhile
            continue
    return found


def _init(site: Site, host: str) -> int:
    """The pid, on this machine, of a machine's first process."""
    return next(each.pid for each in site.lab.hosts() if each.name == host)
