"""The journal of changes on a host: what is undone is what was changed, with real files and stand-in package tools."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PROGRAM = Path(__file__).resolve().parents[2] / "roles/journal/files/journal.py"


class Host:
    """A folder with an etc/, a journal, and package tools that keep their packages in a text file."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.etc, self.journal = root / "etc", root / "pool/journal"
        self.etc.mkdir()
        self.packages = root / "packages"
        self.packages.write_text("libc6 installed\nold config-files\n")
        tools = root / "bin"
        tools.mkdir()
        self.tool(tools / "dpkg-query", f"sed 's/ /\\t/' {self.packages}")
        self.tool(
            tools / "apt-mark", f'[ "$1" = showmanual ] || [ "$1" = showhold ] || echo "apt-mark $*" >> {root}/said'
        )
        # Refuses to take `needed` away, as dpkg does for a package that another depends on.
        self.tool(
            tools / "dpkg",
            f"""echo "dpkg $*" >> {root}/said; verb=$1; shift; rc=0
for name; do
    if [ "$name" = needed ]; then echo 'dpkg: dependency problems prevent removal of needed'; rc=1; continue; fi
    sed -i "/^$name /d" {self.packages}
    [ "$verb" = --remove ] && echo "$name config-files" >> {self.packages}
    rm -f {self.etc}/$name.conf
done
exit $rc""",
        )
        for name in ("systemctl", "userdel", "groupdel", "gpasswd"):
            self.tool(tools / name, f'echo "{name} $*" >> {root}/said')
        self.path = f"{tools}:/usr/bin:/bin"

    @staticmethod
    def tool(path: Path, script: str) -> None:
        """A stand-in program."""
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def __call__(
        self, verb: str, *changes: dict[str, Any], role: str = "docker", check: bool = False, rc: int = 0
    ) -> dict[str, Any]:
        """Run one verb of the journal; its answer."""
        asked = {"role": role, "dir": str(self.journal), "etc": str(self.etc), "changes": changes, "check": check}
        done = subprocess.run(
            [sys.executable, "-I", str(PROGRAM), verb, json.dumps(asked)],
            capture_output=True, text=True, env={"PATH": self.path}, check=False,
        )  # fmt: skip
        assert done.returncode == rc, done.stdout + done.stderr
        return dict(json.loads(done.stdout))

    def install(self, *names: str) -> None:
        """What a package manager does: packages, each with a file below /etc."""
        with self.packages.open("a") as file:
            file.writelines(f"{name} installed\n" for name in names)
        for name in names:
            (self.etc / f"{name}.conf").write_text(name)

    def state(self) -> dict[str, str]:
        """Packages and files, to compare before and after."""
        files = {str(path): path.read_text() for path in sorted(self.etc.rglob("*")) if path.is_file()}
        return {**files, "packages": "".join(sorted(self.packages.read_text().splitlines(keepends=True)))}


@pytest.fixture
def host(tmp_path: Path) -> Host:
    """A host with an empty journal."""
    return Host(tmp_path)


def test_packages_and_what_they_left_are_taken_away(host: Host) -> None:
    """Those that came, with what they put below /etc and did not take along; nothing that was there."""
    before = host.state()
    host("begin")
    host.install("docker.io", "containerd")
    (host.etc / "docker").mkdir()
    (host.etc / "docker/left.json").write_text("{}")
    assert "packages docker.io containerd" in " ".join(host("end")["said"])
    host("undo")
    assert host.state() == before
    assert not host.journal.parent.exists()


def test_a_package_that_another_needs_now_is_kept(host: Host) -> None:
    """What was installed since and depends on ours is not broken; that it stays is said."""
    host("begin")
    host.install("needed", "docker.io")
    host("end")
    assert host("undo")["kept"] == ["package needed: another needs it"]
    assert "needed installed" in host.packages.read_text() and "docker.io" not in host.packages.read_text()


def test_settings_of_a_removed_package_are_left_as_they_were(host: Host) -> None:
    """One that had been removed but not purged goes back to just that."""
    before = host.state()
    host("begin")
    host.packages.write_text("libc6 installed\nold installed\n")
    host("end")
    host("undo")
    assert host.state() == before


def test_a_transaction_that_was_cut_off_is_settled(host: Host) -> None:
    """Ended by nothing: the next begin, or the undo, notes what it had done."""
    before = host.state()
    host("begin")
    host.install("docker.io")
    host("begin")
    host.install("containerd")
    host("undo")
    assert host.state() == before


def test_what_a_transaction_that_goes_on_makes_meanwhile_is_not_lost(host: Host) -> None:
    """Its process may outlive whoever began it, and works on while the next begin looks."""
    host("begin")
    query = host.root / "bin/dpkg-query"
    quiet = query.read_text()
    host.tool(query, f"touch {host.etc}/late-$(ls {host.etc} | wc -l)\n" + quiet.split("\n", 1)[1])
    host("begin")
    query.write_text(quiet)
    assert list(host.etc.iterdir())
    host("end")
    host("undo")
    assert list(host.etc.iterdir()) == []


def test_files(host: Host) -> None:
    """What was there comes back with its mode, what was not goes; folders go when they are empty, or as trees."""
    there = host.etc / "there.conf"
    there.write_text("before")
    there.chmod(0o640)
    new, folder, tree, old = host.etc / "new.conf", host.etc / "new.d", host.root / "tree", host.etc / "old.d"
    old.mkdir(mode=0o750)
    changes = [{"kind": "file", "path": str(path)} for path in (there, new, folder, old)]
    assert host("note", *changes, {"kind": "file", "path": str(tree), "tree": True})["changed"]
    there.write_text("after")
    there.chmod(0o600)
    new.write_text("ours")
    old.chmod(0o711)
    folder.mkdir()
    (folder / "theirs").write_text("someone else's")
    (tree / "deep").mkdir(parents=True)
    assert not host("note", *changes)["changed"], "noted once"
    host("undo")
    assert there.read_text() == "before" and there.stat().st_mode & 0o777 == 0o640
    assert not new.exists() and not tree.exists()
    assert (folder / "theirs").exists()
    assert old.stat().st_mode & 0o777 == 0o750


def test_a_file_that_another_uses_is_kept(host: Host) -> None:
    """The key of DKMS goes with DKMS: while it builds someone's modules it signs with that."""
    key, user = host.etc / "mok.key", host.root / "dkms"
    change = {"kind": "file", "path": str(key), "unless": str(user)}
    for theirs in (True, False):
        host("note", change)
        key.write_text("made since")
        user.write_text("") if theirs else user.unlink()
        assert host("undo")["kept"] == ([f"{key}: {user} uses it"] if theirs else [])
        assert key.exists() == theirs
        key.unlink(missing_ok=True)


def test_a_unit_that_failed_is_forgotten_with_its_package(host: Host) -> None:
    """systemd lists it as failed until the machine boots anew; one whose unit is still there keeps its state."""
    systemctl = f'[ "$1 $3" = "list-unit-files kept.service" ] && echo $3; echo "systemctl $*" >> {host.root}/said'
    host.tool(host.root / "bin/systemctl", systemctl)
    host("begin")
    host.install("docker.io")
    host("end")
    host("note", {"kind": "unit", "name": "kept.service"}, {"kind": "unit", "name": "gone.service"})
    host("undo")
    said = (host.root / "said").read_text().splitlines()
    assert [line for line in said if "reset-failed" in line] == ["systemctl reset-failed gone.service"]
    assert said.index("systemctl daemon-reload") < said.index("systemctl reset-failed gone.service")


def test_json_goes_back_by_key(host: Host) -> None:
    """Keys that we set and that are still so; what others set since stays, whoever is undone first."""
    path = host.etc / "daemon.json"
    path.write_text('{"debug":true,"runtimes":{"kata":{"path":"k"}}}')
    ours = {"debug": True, "live-restore": True, "runtimes": {"kata": {"path": "k"}}}
    theirs = ours | {"runtimes": {"kata": {"path": "k"}, "nvidia": {"path": "n"}}}
    host("note", {"kind": "json", "path": str(path), "after": json.dumps(ours)})
    path.write_text(json.dumps(ours))
    host("note", {"kind": "json", "path": str(path), "after": json.dumps(theirs)}, role="toolkit")
    path.write_text(json.dumps(theirs | {"mtu": 1400}))
    host("undo")
    assert json.loads(path.read_text()) == {"debug": True, "mtu": 1400, "runtimes": theirs["runtimes"]}
    host("undo", role="toolkit")
    assert json.loads(path.read_text()) == {"debug": True, "mtu": 1400, "runtimes": {"kata": {"path": "k"}}}


def test_json_that_comes_to_the_same_is_the_same_bytes(host: Host) -> None:
    """The person's own layout comes back, and a file that was not there goes."""
    path, new = host.etc / "daemon.json", host.etc / "new.json"
    path.write_text('{ "debug" : true }')
    for file, after in ((path, {"debug": True, "x": {"y": 1}}), (new, {"x": 1})):
        host("note", {"kind": "json", "path": str(file), "after": json.dumps(after)})
        file.write_text(json.dumps(after))
    host("undo")
    assert path.read_text() == '{ "debug" : true }' and not new.exists()


def test_a_dry_run_changes_nothing(host: Host) -> None:
    """It says what it would note and what it would undo."""
    change = {"kind": "file", "path": str(host.etc / "x")}
    assert host("note", change, check=True)["said"] == [f"file {host.etc}/x"]
    assert not host.journal.exists()
    host("note", change)
    (host.etc / "x").write_text("")
    assert host("undo", check=True)["said"] == [f"file {host.etc}/x"]
    assert (host.etc / "x").exists() and (host.journal / "docker").exists()


def test_what_cannot_be_undone_is_said_and_kept_for_another_try(host: Host) -> None:
    """The rest is undone; the journal keeps the line that failed, and the exit code tells."""
    Host.tool(host.root / "bin/userdel", "echo 'userdel: user root is in use'; exit 8")
    host("note", {"kind": "file", "path": str(host.etc / "x")})
    (host.etc / "x").write_text("")
    with (host.journal / "docker").open("a") as file:
        file.write(json.dumps({"kind": "user", "name": "root"}) + "\n")
    answer = host("undo", rc=1)
    assert answer["kept"] == ["user root: userdel: user root is in use"]
    assert not (host.etc / "x").exists()
    Host.tool(host.root / "bin/userdel", "exit 0")
    host("undo")
    assert not host.journal.exists()


def test_a_line_that_was_cut_off_is_not_believed(host: Host) -> None:
    """It speaks of a change that was not made yet."""
    host("note", {"kind": "file", "path": str(host.etc / "x")})
    with (host.journal / "docker").open("a") as file:
        file.write('{"kind": "file", "path": "/et')
    assert host("undo")["said"] == [f"file {host.etc}/x"]


def test_nothing_to_undo(host: Host) -> None:
    """A host where the role never was."""
    assert host("undo") == {"changed": False, "said": [], "kept": []}
    assert not os.path.exists(host.journal)
