"""Decides what is done about a host's Docker engine: a function from what was found and what is asked for to a plan.

Standard library, Python >= 3.8: Ansible sends it to the host's Python through stdin. `decide.py JSON` with
{"facts": what roles/look printed, "wish": the role's variables without their prefix, "known": the packages of the
system, from vars/, or null, "extra": settings that another role adds}; prints the plan. Reads and changes nothing else.

action    adopt    an engine is there, and stays as it is but for its settings
          install  packages are to be installed or changed
settings  the whole daemon.json: `defaults`, over them what is there, over that what is asked for
apply     none     nothing to do
          reload   the engine takes these settings while it runs
          restart  it must be started again, and nothing is lost by that now
          pending  it must be, and something would be: its settings are written, and wait
"""

import json
import re
import sys

#: What a running engine takes on SIGHUP (dockerd's reference, "configuration reload behavior").
RELOADABLE = frozenset(
    "debug labels live-restore max-concurrent-downloads max-concurrent-uploads max-download-attempts default-runtime"
    " runtimes authorization-plugins insecure-registries registry-mirrors shutdown-timeout".split()
)
#: Settings by the names of the flags that stand in their way; a key in both stops the engine.
FLAGS = {"host": "hosts", "label": "labels", "log-opt": "log-opts", "dns": "dns", "storage-opt": "storage-opts",
         "exec-opt": "exec-opts", "insecure-registry": "insecure-registries", "registry-mirror": "registry-mirrors",
         "default-ulimit": "default-ulimits", "add-runtime": "runtimes"}  # fmt: skip


def main(argv):
    """Print the plan."""
    asked = json.loads(argv[1])
    print(json.dumps(plan(asked["facts"], asked["wish"], asked["known"], asked.get("extra") or {})))


def plan(facts, wish, known, extra):
    """The plan."""
    engine, system = facts["docker"], facts["system"]
    installed = facts["packages"]["installed"]
    ours = "docker" in facts["installed"]
    there = bool(engine["daemon"]) and not engine["snap"] and not engine["podman"]
    source = wish["source"]
    if source == "auto":
        source = "docker-ce" if not (known or {}).get("docker.io") else "docker.io"
    wanted = _packages(wish, known, source, system, engine)
    missing = [name for name in wanted if name not in installed]
    adopted = there and wish["adopt"] and not (ours and missing)
    action = (
        "adopt" if adopted or source == "none" or (not missing and not _other(wish, wanted, installed)) else "install"
    )
    settings, flagged = _settings(engine, system, wish, extra)
    before = engine["settings"] or {}
    changed = sorted(key for key in {*before, *settings} if before.get(key) != settings.get(key))
    running = engine["running"]
    needs_restart = engine["restart_pending"] or any(key not in RELOADABLE for key in changed)
    busy = ["job " + job for job in facts["jobs"]]
    if engine["containers"] and not engine["live_restore"]:
        busy.append("%d containers" % engine["containers"])
    apply = "none"
    if running and needs_restart:
        apply = "pending" if busy else "restart"
    elif running and changed:
        apply = "reload"
    return {
        "action": action,
        "why": "an engine is there" if there else "not installed: " + " ".join(missing),
        "source": source,
        "packages": [_versioned(name, wish, system) for name in wanted] if action == "install" else [],
        "held": [name for name in wanted if name in installed and name not in facts["packages"]["held"]]
        if ours and wish["hold"] and source == "docker-ce" else [],
        "settings": settings,
        "changed": changed,
        "apply": apply,
        "busy": busy,
        "refused": _refused(facts, wish, source, action, wanted, settings, flagged),
        "ours": ours,
        "version": engine["version"],
    }  # fmt: skip


def _packages(wish, known, source, system, engine):
    if wish["packages"] or source == "none":
        return wish["packages"]
    names = list((known or {}).get(source) or [])
    version = system["version"].split(".")[0]
    names += (known or {}).get("%s %s" % (source, version)) or []
    # A kernel that confines programs, without the program that loads the profile, starts no container.
    return [*names, "apparmor"] if engine["apparmor"] and system["family"] == "debian" else names


def _other(wish, wanted, installed):
    return wish["version"] and any(
        _is_engine(name) and installed.get(name) not in (None, wish["version"]) for name in wanted
    )


def _is_engine(name):
    return name in ("docker.io", "docker-ce", "docker-ce-cli")


def _versioned(name, wish, system):
    separator = "=" if system["family"] == "debian" else "-"
    return name + separator + wish["version"] if wish["version"] and _is_engine(name) else name


def _settings(engine, system, wish, extra):
    """The daemon.json, and which of the keys that were asked for stand as flags in the unit."""
    flags = {FLAGS.get(flag, flag) for flag in re.findall(r"--([a-z][a-z-]*)", engine["flags"])}
    flags |= {"hosts"} if re.search(r"\s-H\s", engine["flags"]) else set()
    before = engine["settings"] or {}
    defaults = {key: value for key, value in wish["daemon_defaults"].items() if key not in flags}
    if engine["swarm"]:
        defaults.pop("live-restore", None)  # the engine refuses to start with both
    if before.get("log-driver", "json-file") != defaults.get("log-driver"):
        defaults.pop("log-opts", None)  # another driver does not know these, and would start no container
    if not system["raises_limits"]:  # the engine would start, and no container
        limits = dict(defaults.pop("default-ulimits", {}))
        limits.pop("memlock", None)
        defaults.update({"default-ulimits": limits} if limits else {})
    options = {}
    for layer in ("daemon_options", "daemon_options_group", "daemon_options_host"):
        options = merged(options, wish[layer])
    if wish["data_root"]:
        options["data-root"] = wish["data_root"]
    if extra:  # another role's settings, laid over what is there and nothing else
        return merged(before, extra), sorted(flags & set(extra))
    return merged(merged(defaults, before), options), sorted(flags & set(options))


def merged(under, over):
    """`over` laid over `under`, objects key by key, anything else whole."""
    result = dict(under)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(under.get(key), dict)
        result[key] = merged(under[key], value) if both else value
    return result


def _refused(facts, wish, source, action, wanted, settings, flagged):
    """Every reason against it: [{code, say}]."""
    engine, system = facts["docker"], facts["system"]
    installed = facts["packages"]["installed"]
    rivals = {"docker-ce": ("docker.io", "podman-docker"), "docker.io": ("docker-ce", "containerd.io", "podman-docker")}
    conflicts = sorted(set(rivals.get(source, ())) & set(installed)) if action == "install" else []
    moved = wish["data_root"] and engine["data_root"] not in (None, wish["data_root"])
    reasons = [
        (
            "snap",
            engine["snap"],
            "Docker is a snap here, which cannot use NVIDIA's runtime; snap remove docker, and run this again",
        ),
        ("podman", engine["podman"], "`docker` is Podman's stand-in here; remove the package podman-docker"),
        (
            "unsupported_system",
            action == "install" and not wanted,
            "no packages of %s are known for %s; install an engine by hand, and it is taken over"
            % (source, system["name"]),
        ),
        (
            "conflict",
            conflicts,
            "%s would have to go for %s, and its containers with it; remove it, or set docker_adopt"
            % (", ".join(conflicts), source),
        ),
        (
            "settings",
            engine["settings"] is None,
            "/etc/docker/daemon.json is not a JSON object; the engine will not start with it either",
        ),
        (
            "flags",
            flagged,
            "flags of docker.service have these settings, so daemon.json may not: %s; take them out of the unit"
            " (systemctl cat docker.service)" % ", ".join(flagged),
        ),
        (
            "swarm",
            engine["swarm"] and settings.get("live-restore") and not (engine["settings"] or {}).get("live-restore"),
            "live-restore is asked for, and a swarm does not start with it",
        ),
        (
            "data_root",
            moved,
            "its data is in %s and is not moved to %s by this role; move it by hand, or leave docker_data_root"
            % (engine["data_root"], wish["data_root"]),
        ),
        (
            "package_state",
            action == "install" and system["apt_problems"],
            "packages are half installed; on the host: dpkg --configure -a. " + system["apt_problems"][:300],
        ),
    ]
    return [{"code": code, "say": say.strip()} for code, holds, say in reasons if holds]


if __name__ == "__main__":
    main(sys.argv)
