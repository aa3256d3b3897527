"""Prints everything on a host that a role might change, one line a thing. Sent to the host's Python through stdin.

Packages with their state and whether they were asked for; files with mode, owner and bytes; units; users and groups;
what runs; network links. Left out is what changes by itself: caches, logs, lists of packages, backups of the user
database, what is inside an engine's own folders, and the folders of Ansible's own modules.
"""

import grp
import hashlib
import os
import pwd
import re
import stat
import subprocess

TREES = ("/etc", "/usr/local", "/usr/lib/systemd", "/var/lib", "/var/spool", "/opt", "/srv", "/home", "/root", "/boot")
#: Their own names only: what is inside comes and goes.
PLACES = ("/run", "/run/systemd/system", "/tmp", "/var/tmp", "/")
LEFT_OUT = re.compile(
    r"/etc/((passwd|shadow|group|gshadow|subuid|subgid)-|\.pwd\.lock|ld\.so\.cache|resolv\.conf)$"
    r"|/var/lib/(apt/|dpkg/|docker/|containerd/|systemd/(timers|random-seed|catalog)|private/)"
    r"|/\.ansible(_async)?(/|$)|/tmp/(systemd-private-|ansible)|/opt/pool-lab/|/run/(user|sudo|utmp|adduser|motd.dynamic)$"
)


def main():
    """Print the lines, sorted."""
    found = [*packages(), *units(), *people(), *programs(), *links()]
    for tree in TREES:
        for folder, folders, names in os.walk(tree):
            found += [told(os.path.join(folder, name), whole=True) for name in folders + names]
    for place in PLACES:
        found += [told(os.path.join(place, name), whole=False) for name in os.listdir(place)]
    print("\n".join(sorted({line for line in found if line})))


def told(path, whole):
    """The line of a file; `whole` with all that is known of it."""
    if LEFT_OUT.search(path):
        return ""
    try:
        seen = os.lstat(path)
        kind = stat.filemode(seen.st_mode)
        if not whole:
            return "name %s %s" % (path, kind[0])
        body = ""
        if stat.S_ISLNK(seen.st_mode):
            body = os.readlink(path)
        elif stat.S_ISREG(seen.st_mode):
            with open(path, "rb") as file:
                body = hashlib.sha256(file.read()).hexdigest()
        return "file %s %s %d:%d %s" % (path, kind, seen.st_uid, seen.st_gid, body)
    except FileNotFoundError:
        return ""


def packages():
    """Installed, or with settings left; and which of them were asked for."""
    format = "package ${Package} ${Version} ${db:Status-Status}\n"
    asked_for = ["asked for " + name for name in output("apt-mark", "showmanual")]
    return [line for line in output("dpkg-query", "-W", "-f", format) if "not-installed" not in line] + asked_for


def units():
    """The unit files that systemd knows, enabled or not; and what it has started, or failed to."""
    files = [" ".join(line.split()) for line in output("systemctl", "list-unit-files", "--no-legend", "--no-pager")]
    states = ("--state=active,failed", "--type=service,socket,slice,path,timer", "--no-legend", "--no-pager", "--plain")
    known = [line.split()[0:3:2] for line in output("systemctl", "list-units", "--all", *states)]
    brief = re.compile(r"^(user@|user-|session-|apt-|systemd-(tmpfiles|timedated|hostnamed|random)|run-)")
    return ["unit file " + line for line in files] + ["unit " + " ".join(u) for u in known if not brief.match(u[0])]


def people():
    """Users and groups, with their members."""
    users = ["user " + ":".join(map(str, user)) for user in pwd.getpwall()]
    return users + ["group %s %d %s" % (group.gr_name, group.gr_gid, sorted(group.gr_mem)) for group in grp.getgrall()]


def programs():
    """The names of what runs as a daemon: started by init, and alone."""
    lines = [line.split(None, 1) for line in output("ps", "-eo", "ppid=,comm=")]
    return ["program " + name for parent, name in lines if parent == "1" and name != "(sd-pam)"]


def links():
    """The network links."""
    return ["link " + name for name in os.listdir("/sys/class/net")]


def output(*argv):
    """The lines that a program prints; none when it is missing."""
    try:
        done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, encoding="utf-8", check=False)
    except FileNotFoundError:
        return []
    return done.stdout.splitlines()


if __name__ == "__main__":
    main()
