"""Notes what a role changes on a host, and undoes exactly that: nothing that was there before, nothing made since.

Standard library, Python >= 3.8: Ansible sends it to the host's Python through stdin.
`journal.py VERB JSON`; JSON is {"role", "dir", "etc", "changes", "check"}. Prints {"changed", "said", "kept"}.

note   before writing: append a line for each change of `changes` that is not noted yet, with what is there now
begin  before a package manager runs: keep the lists of packages, users, groups and of what is below /etc
end    after it: append what has been added since
undo   the lines, last first; then the journal is gone

DIR/ROLE has one change a line, as JSON: {"kind": …, …}

packages  tool names{name: purge}    newly installed, dependencies included; one that others need by now is kept
manual    names                      packages that were there as dependencies only, and then asked for by name
user, group  name                    made (by a package's own scripts, or noted)
member    user group                 put into a group
etc       paths                      new below /etc, and left there by the packages when they go
file      path before tree unless    before: null, or mode, owner and content of what is written over;
                                     a folder goes when it is empty, or with all that is in it when `tree`;
                                     it is kept where `unless`, a path, is there: what uses it
json      path before after          only the keys that were changed go back, where they still are as we set them
unit      name enabled active        as it was
hold      name                       a package put on hold
"""

import base64
import copy
import grp
import json
import os
import pwd
import shutil
import stat
import subprocess
import sys
import time

#: How long another package manager may hold the lock.
LOCK_WAIT_S = 600.0
QUIET = {"DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C", "PATH": os.environ.get("PATH", "") or os.defpath}


def main(argv):
    """Run one verb; 0, or 1 when something could not be undone."""
    asked = json.loads(argv[2])
    journal = Journal(asked["dir"], asked["role"], asked["etc"], asked.get("check", False))
    verbs = {
        "note": lambda: journal.note(asked["changes"]),
        "begin": journal.begin,
        "end": journal.end,
        "undo": journal.undo,
    }
    verbs[argv[1]]()
    print(json.dumps({"changed": bool(journal.said), "said": journal.said, "kept": journal.kept}))
    return 1 if journal.failed else 0


class Journal:
    """The journal of one role on this host."""

    def __init__(self, folder, role, etc, check):
        """`check`: say what would be done and do nothing."""
        self.folder, self.etc, self.check = folder, etc, check
        self.path = os.path.join(folder, role)
        self.open = os.path.join(folder, role + ".open")
        self.said, self.kept, self.failed = [], [], False

    def note(self, changes):
        """Append what is not noted yet."""
        known = self._lines()
        seen = {_identity(line) for line in known}
        for change in changes:
            line = _complete(change)
            if line is None or (line["kind"] != "json" and _identity(line) in seen):
                continue
            seen.add(_identity(line))
            self._append(line)

    def begin(self):
        """Keep the lists; a transaction that was cut off is settled first, by the same: it may still go on."""
        if self.check:
            return
        now = _lists(self.etc)
        if os.path.exists(self.open):
            self._settle(now)
        self._write(self.open, json.dumps(now))

    def end(self):
        """Append what was added since `begin`."""
        if not self.check and os.path.exists(self.open):
            self._settle(_lists(self.etc))
            os.unlink(self.open)

    def _settle(self, now):
        """Append what `now` has more than the lists of `begin`; packages last, so that they are undone first."""
        with open(self.open) as file:
            before = json.load(file)
        new = sorted(set(now["etc"]) - set(before["etc"]))
        if new:
            self._append({"kind": "etc", "paths": new})
        for kind in ("group", "user"):
            for name in sorted(set(now[kind]) - set(before[kind])):
                self._append({"kind": kind, "name": name})
        manual = sorted((set(now["manual"]) - set(before["manual"])) & set(before["packages"]))
        if manual:
            self._append({"kind": "manual", "names": manual})
        added = {
            name: before["packages"].get(name) is None
            for name, here in now["packages"].items()
            if here and not before["packages"].get(name)
        }
        if added:
            self._append({"kind": "packages", "tool": now["tool"], "names": added})

    def undo(self):
        """Undo line by line, last first; a line that fails is said, and the journal stays for another try."""
        self.end()
        lines = self._lines()
        left = []
        for line in reversed(lines):
            said = _told(line)
            if self.check:
                self.said.append(said)
                continue
            try:
                kept = UNDO[line["kind"]](line)
            except (OSError, subprocess.CalledProcessError, ValueError) as error:
                detail = getattr(error, "output", None) or str(error)
                self.kept.append("%s: %s" % (said, detail.strip()[-500:]))
                self.failed = True
                left.insert(0, line)
                continue
            self.kept += kept or []
            self.said.append(said)
        if self.check or not lines:
            return
        if any(line["kind"] == "packages" or "/systemd/" in line.get("path", "") for line in lines):
            _run(["systemctl", "daemon-reload"])
            _forget([line["name"] for line in lines if line["kind"] == "unit"])
        if left:
            self._write(self.path, "".join(json.dumps(line) + "\n" for line in left))
            return
        os.unlink(self.path)
        for folder in (self.folder, os.path.dirname(self.folder)):
            _remove(folder, tree=False)

    def _lines(self):
        """The lines; a last one that was cut off while it was written is left out, for its change was not made."""
        try:
            with open(self.path) as file:
                text = file.read()
        except FileNotFoundError:
            return []
        return [json.loads(line) for line in text.split("\n")[:-1] if line]

    def _append(self, line):
        self.said.append(_told(line))
        if self.check:
            return
        text = "".join(json.dumps(known) + "\n" for known in self._lines())
        self._write(self.path, text + json.dumps(line) + "\n")

    def _write(self, path, text):
        """Whole and on disk before the change it speaks of is made."""
        os.makedirs(self.folder, mode=0o755, exist_ok=True)
        fresh = path + ".new"
        with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(fresh, path)


def _identity(line):
    return (line["kind"], line.get("path") or line.get("name") or line.get("user"), line.get("group"))


def _told(line):
    what = line.get("path") or line.get("name") or " ".join(line.get("names") or line.get("paths") or ())
    if line["kind"] == "member":
        what = "%s in %s" % (line["user"], line["group"])
    return "%s %s" % (line["kind"], what)


def _complete(change):
    """The change with what is there now; None when it changes nothing."""
    line, kind = dict(change), change["kind"]
    if kind == "file":
        line["before"] = _kept_file(line["path"])
    elif kind == "json":
        line["before"] = _text(line["path"])
        if line["before"] is not None and json.loads(line["before"] or "{}") == json.loads(line["after"]):
            return None
    elif kind == "unit":
        line["enabled"] = _answers(["systemctl", "is-enabled", line["name"]], "enabled")
        line["active"] = _answers(["systemctl", "is-active", line["name"]], "active")
    elif kind in THERE and THERE[kind](line):
        return None
    return line


def _kept_file(path):
    """Mode, owner and content (a link's target; of a folder nothing) of what is there; null for nothing."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return None
    kept = {"mode": stat.S_IMODE(found.st_mode), "uid": found.st_uid, "gid": found.st_gid}
    if stat.S_ISDIR(found.st_mode):
        return dict(kept, folder=True)
    if stat.S_ISLNK(found.st_mode):
        return dict(kept, link=os.readlink(path))
    with open(path, "rb") as file:
        return dict(kept, content=base64.b64encode(file.read()).decode())


def _text(path):
    try:
        with open(path) as file:
            return file.read()
    except FileNotFoundError:
        return None


def _lists(etc):
    """What a package manager may add to. A package maps to whether it is there, not just its settings."""
    paths = []
    for folder, folders, files in os.walk(etc):
        paths += [os.path.join(folder, name) for name in folders + files]
    tool, states = "dpkg", _dpkg_states()
    packages = {name: status != "config-files" for name, status in states.items() if status != "not-installed"}
    if not packages:
        tool = "rpm"
        packages = dict.fromkeys(_output(["rpm", "-qa", "--qf", "%{NAME}.%{ARCH}\n"]).split(), True)
    return {
        "tool": tool,
        "packages": packages,
        "manual": _output(["apt-mark", "showmanual"]).split() if tool == "dpkg" else [],
        "user": [user.pw_name for user in pwd.getpwall()],
        "group": [group.gr_name for group in grp.getgrall()],
        "etc": paths,
    }


def _dpkg_states():
    """`{package: status}` of all that dpkg knows."""
    text = _output(["dpkg-query", "-W", "-f", "${binary:Package}\t${db:Status-Status}\n"])
    return dict(line.split("\t") for line in text.splitlines())


def _undo_packages(line):
    """Remove what no other package needs; those that one does are kept, and said."""
    names = line["names"]
    if line["tool"] == "rpm":
        return _undo_rpm([name for name in names if _output(["rpm", "-q", name])])
    for verb, chosen in (("--purge", True), ("--remove", False)):
        gone, states = ("not-installed",) if chosen else ("not-installed", "config-files"), _dpkg_states()
        present = [n for n, purge in names.items() if purge is chosen and states.get(n, gone[0]) not in gone]
        if present:
            _dpkg([verb, *sorted(present)])
    states = _dpkg_states()
    return ["package %s: another needs it" % name for name in names if states.get(name) == "installed"]


def _dpkg(arguments):
    """dpkg removes what it is told and never more; what others need it refuses, one by one."""
    deadline = time.monotonic() + LOCK_WAIT_S
    while True:
        done = _run(["dpkg", *arguments])
        if "lock" not in done.stdout or "locked by another process" not in done.stdout:
            break
        if time.monotonic() > deadline:
            raise subprocess.CalledProcessError(done.returncode, "dpkg", output=done.stdout)
        time.sleep(5)
    if done.returncode and "dependency problems" not in done.stdout:
        raise subprocess.CalledProcessError(done.returncode, "dpkg", output=done.stdout)


def _undo_rpm(names):
    if not names or _run(["rpm", "-e", *names]).returncode == 0:
        return []
    shorter = True
    while shorter:  # one that others need fails alone, and may go when they are gone
        left = [name for name in names if _run(["rpm", "-e", name]).returncode != 0]
        shorter, names = len(left) < len(names) and bool(left), left
    return ["package %s: another needs it" % name for name in names]


def _undo_manual(line):
    states = _dpkg_states()
    there = [name for name in line["names"] if states.get(name) == "installed"]
    if there:
        _checked(["apt-mark", "auto", *there])


def _undo_user(line):
    if _known(pwd.getpwnam, line["name"]):
        _checked(["userdel", line["name"]])


def _undo_group(line):
    if _known(grp.getgrnam, line["name"]):
        _checked(["groupdel", line["name"]])


def _undo_member(line):
    if _is_member(line):
        _checked(["gpasswd", "-d", line["user"], line["group"]])


def _undo_etc(line):
    for path in sorted(line["paths"], reverse=True):
        _remove(path, tree=False)


def _undo_file(line):
    path, before = line["path"], line["before"]
    if os.path.exists(line.get("unless", "")):
        return ["%s: %s uses it" % (path, line["unless"])]
    now = _kept_file(path)
    if before is None:
        _remove(path, tree=line.get("tree", False))
    elif "folder" in before:
        if now and "folder" in now:
            os.chown(path, before["uid"], before["gid"])
            os.chmod(path, before["mode"])
    elif now != before:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        fresh = path + ".pool-undo"
        if "link" in before:
            os.symlink(before["link"], fresh)
        else:
            with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                file.write(base64.b64decode(before["content"]))
            os.chmod(fresh, before["mode"])
        os.lchown(fresh, before["uid"], before["gid"])
        os.replace(fresh, path)
    return []


def _undo_json(line):
    """Three-way, by key, so what others changed since stays; the very bytes of before when it comes to the same."""
    path, text = line["path"], _text(line["path"])
    if text is None:
        return
    before = json.loads(line["before"] or "{}")
    now = _back(json.loads(text or "{}"), before, json.loads(line["after"]))
    if line["before"] is None and not now:
        os.unlink(path)
        return
    text = (
        line["before"]
        if line["before"] is not None and now == before
        else json.dumps(now, indent=4, sort_keys=True) + "\n"
    )
    with open(path + ".pool-undo", "w") as file:
        file.write(text)
    shutil.copymode(path, path + ".pool-undo")
    os.replace(path + ".pool-undo", path)


def _back(now, before, after):
    result = copy.deepcopy(now)
    for key in after:
        if key not in now or before.get(key) == after[key]:
            continue
        if all(isinstance(each.get(key), dict) for each in (now, after)):
            inner = _back(now[key], before.get(key) or {}, after[key])
            if inner or key in before:
                result[key] = inner
            else:
                del result[key]
        elif now[key] == after[key]:
            if key in before:
                result[key] = before[key]
            else:
                del result[key]
    for key in before:  # what we took away, unless someone has put it back
        if key not in after and key not in now:
            result[key] = before[key]
    return result


def _undo_unit(line):
    name = line["name"]
    if not _output(["systemctl", "list-unit-files", "--no-legend", name]):
        return
    if not line["active"]:
        _checked(["systemctl", "stop", name])
    if not line["enabled"]:
        _checked(["systemctl", "disable", name])


def _forget(names):
    """A unit that failed is listed for as long as the machine runs, when its package is long gone."""
    for name in names:
        if not _output(["systemctl", "list-unit-files", "--no-legend", name]):
            _run(["systemctl", "reset-failed", name])


def _is_held(line):
    return line["name"] in _output(["apt-mark", "showhold"]).split()


def _undo_hold(line):
    if _is_held(line):
        _checked(["apt-mark", "unhold", line["name"]])


def _remove(path, tree):
    try:
        is_folder = stat.S_ISDIR(os.lstat(path).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return
    if not is_folder:
        os.unlink(path)
    elif tree:
        shutil.rmtree(path)
    else:
        try:
            os.rmdir(path)
        except OSError:
            return  # someone keeps something there


def _is_member(line):
    return _known(grp.getgrnam, line["group"]) and line["user"] in grp.getgrnam(line["group"]).gr_mem


def _known(look, name):
    try:
        look(name)
    except KeyError:
        return False
    return True


def _answers(argv, word):
    return _output(argv, any_code=True).strip() == word


def _output(argv, any_code=False):
    """What a program prints; nothing when it is missing or fails."""
    done = _run(argv, stderr=subprocess.DEVNULL)
    return done.stdout if done.returncode == 0 or any_code else ""


def _checked(argv):
    done = _run(argv)
    if done.returncode:
        raise subprocess.CalledProcessError(done.returncode, argv, output=done.stdout)


def _run(argv, stderr=subprocess.STDOUT):
    try:
        return subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            env=dict(os.environ, **QUIET),
            encoding="utf-8",
            errors="replace",
            check=False,
        )
    except FileNotFoundError:
        return subprocess.CompletedProcess(argv, 127, stdout="")


#: Whether what is about to be made is there already, so that it is not ours to undo.
THERE = {
    "user": lambda line: _known(pwd.getpwnam, line["name"]),
    "group": lambda line: _known(grp.getgrnam, line["name"]),
    "member": _is_member,
    "hold": _is_held,
}
UNDO = {
    "packages": _undo_packages,
    "manual": _undo_manual,
    "user": _undo_user,
    "group": _undo_group,
    "member": _undo_member,
    "etc": _undo_etc,
    "file": _undo_file,
    "json": _undo_json,
    "unit": _undo_unit,
    "hold": _undo_hold,
}


if __name__ == "__main__":
    sys.exit(main(sys.argv))
