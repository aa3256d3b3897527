"""Says what of the runner is not on this host as the role puts it there, a line each; nothing when all of it is.

Changes nothing. Python >= 3.8: Ansible sends it to the host's Python on stdin. `compare.py WANTED`, where WANTED is the
role's `__runner_wanted` as JSON: `parts` are what each host has, those of `account` count where its home is that one.
"""

import hashlib
import json
import os
import pwd
import subprocess
import sys

_ANSWER_S = 10


def main(argv):
    wanted = json.loads(argv[1])
    parts = list(wanted["parts"])
    account = wanted["account"]
    if account["name"]:
        try:
            found = pwd.getpwnam(account["name"])
        except KeyError:
            parts.append({"missing": "account " + account["name"]})
        else:
            # Somebody else's account of this name is left alone.
            parts += account["parts"] if found.pw_dir == account["home"] else []
    said = [why for why in map(differs, parts) if why]
    said = said or disabled(wanted["unit"]) or silent(wanted["program"], wanted["state"])
    said = said or stale(wanted["state"], [part["file"] for part in wanted["parts"] if "sha256" in part])
    sys.stdout.write("".join(why + "\n" for why in said))


def differs(part):
    """Why a part is not as it should be: a folder, a file of these bytes, or a file with these lines."""
    if "missing" in part:
        return part["missing"] + ": missing"
    path = part.get("folder") or part["file"]
    try:
        found = os.lstat(path)
        if "mode" in part and "{:04o}".format(found.st_mode & 0o7777) != part["mode"]:
            return path + ": mode"
        if "owner" in part and found.st_uid != pwd.getpwnam(part["owner"]).pw_uid:
            return path + ": owner"
        if "folder" in part:
            return "" if os.path.isdir(path) else path + ": not a folder"
        with open(path, "rb") as file:
            data = file.read()
    except (OSError, KeyError) as error:
        return "{}: {}".format(path, error)
    if "sha256" in part and hashlib.sha256(data).hexdigest() != part["sha256"]:
        return path + ": other bytes"
    if not {line.encode() for line in part.get("lines", ())} <= set(data.splitlines()):
        return path + ": a line is missing"
    return ""


def disabled(unit):
    """That the service would not come back after a reboot; nothing where none is wanted."""
    argv = ["systemctl", "is-enabled", "--quiet", unit]
    return [unit + ": not enabled"] if unit and subprocess.run(argv, check=False).returncode else []


def silent(program, state):
    """That the runner does not answer. It is asked by its own program, whose bytes have been compared."""
    sys.path.insert(0, program)
    from pool.runner.ask import ask

    try:
        ask(state, "standing", _ANSWER_S)
    except Exception as error:  # whatever it is, the role sees to it
        return ["the runner does not answer: {!r}".format(error)]
    return []


def stale(state, files):
    """The files that were written after the runner started."""
    then = os.stat(os.path.join(state, "daemon.json")).st_mtime_ns
    return [path + ": newer than what runs" for path in files if os.stat(path).st_mtime_ns > then]


if __name__ == "__main__":
    main(sys.argv)
