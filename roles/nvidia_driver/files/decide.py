"""Decides what is done about a host's NVIDIA driver: a function from what was found and what is asked for to a plan.

Standard library, Python >= 3.8: Ansible sends it to the host's Python through stdin. `decide.py JSON` with
{"facts": what roles/look printed, "wish": the role's variables without their prefix, "known": the packages of the
system, from vars/, or null}; prints the plan. Reads and changes nothing else.

action  skip     no card that the host itself uses
        adopt    a driver works that this role did not install: leave it
        install  packages are to be installed or changed
        settle   they are there; the rest is seen to
"""

import json
import re
import sys

#: Of these families of packages, all move together with the driver.
DRIVER = re.compile(
    r"^(?!linux-headers|kernel-|nvidia-driver-pinning|.*container)(lib)?(nvidia|cuda|kmod-nvidia)|^linux-(modules|objects)-nvidia"
)
#: The last branch for cards before Turing, and for those before Maxwell.
LAST_CLOSED, LAST_KEPLER = 580, 470


def main(argv):
    """Print the plan."""
    asked = json.loads(argv[1])
    print(json.dumps(plan(asked["facts"], asked["wish"], asked["known"])))


def plan(facts, wish, known):
    """The plan; its keys are those of the last expression here."""
    found, system = facts["nvidia"], facts["system"]
    gpus = [gpu for gpu in found["gpus"] if gpu["driver"] != "vfio-pci"]
    source = _source(system, gpus, wish)
    flavor = _flavor(system, gpus, wish, source)
    fabric = bool(wish["fabric_manager"] and found["switches"])
    builds = source != "distribution" or system["id"] != "ubuntu" or wish["ubuntu_modules"] == "dkms"
    headers = _headers(found, system, wish, builds)
    wanted = _packages(system, wish, known, source, flavor, fabric) + headers
    ours = "nvidia_driver" in facts["installed"]
    works, mismatch = _works(found), _mismatch(found)
    installed = facts["packages"]["installed"]
    missing = [name for name in wanted if name not in installed]
    pinned = wish["version"]
    other = [name for name in wanted if pinned and DRIVER.match(name) and installed.get(name) not in (None, pinned)]
    action, why = "settle", "the packages are installed"
    if not gpus and not wish["force"]:
        action = "skip"
        why = (
            "every NVIDIA card is given to virtual machines (vfio-pci)"
            if found["gpus"]
            else "no NVIDIA card on the bus"
        )
    elif wish["adopt"] and works and not ours:
        action, why = "adopt", "driver %s works, and was not installed by this role" % found["loaded"]
    elif missing or not known:
        action, why = "install", "not installed: " + " ".join(missing or ["a driver"])
    elif other:
        action, why = "install", "not of version %s: %s" % (pinned, " ".join(other))
    elif wish["upgrade"]:
        action, why = "install", "the newest of the branch is asked for"
    busy = _busy(facts)
    refused = []
    if action == "install":
        refused = _refused(facts, wish, known, gpus, source, flavor, wanted, ours, busy, builds)
    needs_reboot = (
        not system["container"]
        and action in ("install", "settle")
        and (found["nouveau"] or mismatch or found["smi"]["hangs"])
    )
    separator = "=" if system["family"] == "debian" else "-"
    allowed = wish["reboot"] == "when_idle" and not busy
    hung = "nvidia-smi hangs" if found["smi"]["hangs"] else "another version is loaded than is installed"
    return {
        "action": action,
        "why": why,
        "cards": ["%s %s" % (gpu["address"], gpu["generation"]) for gpu in gpus],
        "flavor": flavor,
        "source": source,
        "packages": [name + separator + pinned if pinned and DRIVER.match(name) else name for name in wanted],
        "refused": refused,
        "busy": busy,
        "works": works,
        "mismatch": mismatch,
        "trouble": _trouble(found, gpus, works, mismatch, fabric),
        "reboot": "no" if not needs_reboot else "yes" if allowed else "needed, not allowed",
        "reboot_why": "nouveau has the cards" if found["nouveau"] else hung,
        "ours": ours,
        "builds": builds,
        "headers": "".join(headers),
        "machine": _machine(system),
        "fabric": fabric,
        "unheld": sorted(set(filter(DRIVER.match, installed)) - set(facts["packages"]["held"])),
        "versions": {key: found[key] for key in ("loaded", "on_disk", "library", "fabric_manager")},
        "repository": _repository(system),
    }  # fmt: skip


def _source(system, gpus, wish):
    """Debian's open modules cannot be installed beside its own firmware: what needs them takes NVIDIA's."""
    if wish["source"] != "auto":
        return wish["source"]
    if system["family"] == "redhat":
        return "cuda"
    needs_open = wish["flavor"] == "open" or any(gpu["open"] == "only" for gpu in gpus)
    return "cuda" if system["id"] == "debian" and needs_open else "distribution"


def _flavor(system, gpus, wish, source):
    if wish["flavor"] != "auto":
        return wish["flavor"]
    if any(gpu["open"] == "only" for gpu in gpus):
        return "open"
    if any(gpu["open"] == "never" for gpu in gpus) or (source == "distribution" and system["id"] == "debian"):
        return "proprietary"
    return "open"


def _headers(found, system, wish, builds):
    """The very headers of the running kernel, where they are missing: the metapackage has those of the newest one."""
    if not builds or wish["packages"] or found["headers"] or system["container"] or system["family"] != "debian":
        return []
    return ["linux-headers-" + system["kernel"]]


def _machine(system):
    """By Debian's name."""
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(system["machine"], system["machine"])


def _packages(system, wish, known, source, flavor, fabric):
    """The names, with the branch, the kernel's flavour and the machine filled in."""
    choice = (known or {}).get(source) or {}
    modules = "signed" if wish["ubuntu_modules"] == "signed" else "dkms"
    parts = ["all", flavor, modules] + (["fabric"] if fabric else [])
    names = wish["packages"] or [name for part in parts for name in choice.get(part, [])]
    words = {
        "branch": wish["branch"],
        "server": wish["branch"] + "-server" + ("-open" if flavor == "open" else ""),
        "kernel": re.sub(r"^[0-9.]+(-[0-9]+)?-?", "", system["kernel"]) or "generic",
        "machine": _machine(system),
    }
    return [name.format(**words) for name in names] + wish["extra_packages"]


def _works(found):
    """Loaded, answers, and is of one version."""
    return bool(
        found["smi"]["works"]
        and found["loaded"]
        and found["smi"]["version"] == found["loaded"]
        and found["library"] in (None, found["loaded"])
    )


def _mismatch(found):
    return bool(found["loaded"]) and any(found[key] not in (None, found["loaded"]) for key in ("on_disk", "library"))


def _busy(facts):
    """What a driver may not be taken away from under."""
    busy = ["job " + job for job in facts["jobs"]] + facts["nvidia"]["busy"]
    containers = facts["docker"]["containers"]
    return busy + (["%d containers" % containers] if containers else [])


def _refused(facts, wish, known, gpus, source, flavor, wanted, ours, busy, builds):
    """Every reason against it: [{code, say}]."""
    found, system = facts["nvidia"], facts["system"]
    cards = ", ".join(sorted({gpu["generation"] for gpu in gpus}))
    only = [gpu for gpu in gpus if gpu["open"] == "only"]
    never = [gpu for gpu in gpus if gpu["open"] == "never"]
    branch = int(wish["branch"]) if wish["branch"].isdigit() else 0
    held = sorted(set(facts["packages"]["held"]) & set(wanted))
    tight = [
        "%s has %d MiB, %d are needed" % (place, system["free_mib"][place], mib)
        for place, mib in sorted(wish["room_mib"].items())
        if system["free_mib"].get(place) is not None and system["free_mib"][place] < int(mib)
    ]
    unsupported = (
        "WSL gets its driver from Windows" if system["wsl"]
        else "DGX OS brings and keeps its own driver" if system["dgx"]
        else "its cards are virtual (vGPU), and their driver comes from who runs the machine below" if found["grid"]
        else "no packages are known for it; install a driver by hand, and it is taken over" if not known
        else ""
    )  # fmt: skip
    key = "dkms generate_mok, mokutil --import /var/lib/dkms/mok.pub"
    older = "kernel %s is installed, %s runs, and has no headers" % (found["newer_kernel"], system["kernel"])
    reasons = [
        ("unsupported_system", unsupported, "%s: %s" % (system["name"], unsupported)),
        (
            "no_mirror",
            system["id"] == "debian"
            and source == "distribution"
            and not (wish["debian_url"] or system["mirror"]["url"]),
            "no mirror of this Debian is configured; set nvidia_driver_debian_url",
        ),
        (
            "mixed_cards",
            only and never,
            "no driver serves all of these cards: %s; take one kind out, or give it to vfio-pci" % cards,
        ),
        (
            "flavor",
            never if flavor == "open" else only,
            "the %s modules do not serve %s; set nvidia_driver_flavor to auto" % (flavor, cards),
        ),
        (
            "branch",
            never and branch > LAST_CLOSED,
            "branch %s has left %s behind; set nvidia_driver_branch to %d" % (branch, cards, LAST_CLOSED),
        ),
        (
            "too_old_card",
            "kepler" in cards and branch > LAST_KEPLER,
            "the last branch for a card as old as Kepler is %d; take it out" % LAST_KEPLER,
        ),
        (
            "secure_boot",
            system["secure_boot"] and builds and not found["key_enrolled"],
            "Secure Boot is on, and the firmware does not trust the key that modules built here are signed with. On the"
            " machine: install dkms and mokutil, %s, reboot, and confirm the enrolment at its console; or switch"
            " Secure Boot off" % key,
        ),
        (
            "newer_kernel",
            found["newer_kernel"] and not found["headers"] and builds,
            older + "; reboot into the newer one first",
        ),
        ("no_room", tight, "not enough room: " + "; ".join(tight)),
        (
            "package_state",
            system["apt_problems"],
            "packages are half installed; on the host: dpkg --configure -a. " + system["apt_problems"][:300],
        ),
        (
            "runfile",
            found["runfile"] and not wish["replace_runfile"],
            "a driver from NVIDIA's .run file is installed, and packages beside it end in a version mismatch; on the"
            " host: nvidia-uninstall, or set nvidia_driver_replace_runfile",
        ),
        ("held", held and not ours, "someone holds %s; on the host: apt-mark unhold" % ", ".join(held)),
        ("busy", busy and found["loaded"], "in use by %s; drain the host first" % ", ".join(busy[:8])),
    ]
    return [{"code": code, "say": say.strip()} for code, holds, say in reasons if holds]


def _trouble(found, gpus, works, mismatch, fabric):
    """What is wrong with the driver; nothing when it serves every card."""
    smi = found["smi"]
    if smi["hangs"]:
        return "nvidia-smi does not answer: the driver hangs, and only a reboot helps"
    if mismatch:
        return "versions differ: module %(loaded)s, on disk %(on_disk)s, library %(library)s" % found
    if not works:
        return "nvidia-smi fails: " + (smi["said"] or "it is not there") if not smi["works"] else "no module is loaded"
    if smi["count"] < len(gpus):
        return "%d GPUs answer of %d on the bus" % (smi["count"], len(gpus))
    if fabric and found["fabric_manager"] != found["loaded"]:
        return "fabric manager %s is not of the driver, %s" % (found["fabric_manager"], found["loaded"])
    return ""


def _repository(system):
    """NVIDIA's repository for the system, below its root, and the name of the key in there."""
    machine = {"aarch64": "sbsa"}.get(system["machine"], "x86_64")
    if system["family"] == "redhat":
        return {"path": "rhel%s/%s" % (system["version"].split(".")[0], machine), "key": "D42D0685.pub"}
    return {"path": "%s%s/%s" % (system["id"], system["version"].replace(".", ""), machine), "key": "3bf863cc.pub"}


if __name__ == "__main__":
    main(sys.argv)
