"""What a host has: system, GPUs and their driver, Docker, the container toolkit. Reads only; prints one JSON object.

Standard library, Python >= 3.8, no module of ours: Ansible sends it to the host's Python through stdin.
`look.py ROOT SMI_TIMEOUT_S PARTS`. ROOT is `/`; another folder is read in its place, and then no program outside of
its usr/bin and usr/sbin is run, so a test can be any machine. PARTS names, with commas, what is read: nvidia, docker,
toolkit; the system itself always is. No command holds it up for long.
"""

import glob
import json
import os
import platform
import re
import subprocess
import sys

ROOT = "/"
#: NVIDIA's PCI device ids, by their first of each generation of cards. From NVIDIA's list of supported products.
GENERATIONS = (
    (0x0000, "kepler or older"), (0x1340, "maxwell"), (0x15F0, "pascal"), (0x1600, "maxwell"), (0x1B00, "pascal"),
    (0x1D80, "volta"), (0x1E00, "turing"), (0x2080, "ampere"), (0x2180, "turing"), (0x2200, "ampere"),
    (0x2300, "hopper"), (0x2400, "ampere"), (0x2600, "ada"), (0x2900, "blackwell or newer"),
)  # fmt: skip
#: The one of Hopper's with a Grace processor, whose driver is the open one only.
GRACE_HOPPER = range(0x2340, 0x2350)
DAEMONS = (
    "nvidia-persiste",
    "nvidia-persistenced",
    "nv-fabricmanage",
    "nv-fabricmanager",
    "nv-hostengine",
    "dcgm-exporter",
)
PACKAGES = re.compile(
    r"(lib)?nvidia|cuda-drivers|libcuda1|linux-(headers|modules-nvidia|objects-nvidia)|kernel-(devel|headers)|kmod-nvidia"
    r"|dkms$|docker|containerd|moby|podman-docker|runc$|ca-certificates$|apparmor$"
)


def main(argv):
    """Print what is here."""
    print(json.dumps(look(argv[1], float(argv[2]), argv[3].split(","))))


def look(root, timeout, parts):
    """What is below `root`: the parts that are asked for, and always the system, its packages and pool's own marks."""
    global ROOT
    ROOT = root
    found = {"system": system(), "packages": packages(), "jobs": jobs(), **journals()}
    if "nvidia" in parts:
        found["nvidia"] = nvidia(timeout)
    if "docker" in parts or "toolkit" in parts:
        found["docker"] = docker()
    if "toolkit" in parts:
        found["toolkit"] = toolkit()
    return found


def system():
    """Distribution, kernel, free space, Secure Boot, and what makes this no ordinary machine."""
    names = dict(re.findall(r'^(\w+)="?([^"\n]*)"?$', read("etc/os-release"), re.M))
    like = [names.get("ID", ""), *names.get("ID_LIKE", "").split()]
    family = "debian" if "debian" in like else "redhat" if {"rhel", "fedora", "centos"} & set(like) else "other"
    kernel = read("proc/sys/kernel/osrelease").strip()
    return {
        "id": names.get("ID", ""),
        "name": names.get("PRETTY_NAME", "an unknown system"),
        "version": names.get("VERSION_ID", ""),
        "codename": names.get("VERSION_CODENAME", ""),
        "family": family,
        "machine": read("usr/share/pool-test/machine").strip() or platform.machine(),
        "kernel": kernel,
        "boot": read("proc/sys/kernel/random/boot_id").strip(),
        "container": read("run/systemd/container").strip() or ("docker" if exists(".dockerenv") else ""),
        "wsl": "microsoft" in kernel.lower(),
        "dgx": exists("etc/dgx-release"),
        "systemd": exists("run/systemd/system"),
        "secure_boot": secure_boot(),
        "raises_limits": raises_limits(),
        "free_mib": {place: free_mib(place) for place in ("/", "/boot", "/var")},
        # While somebody installs there always are some: the lock is waited for then.
        "apt_problems": "" if locked("var/lib/dpkg/lock-frontend") else ask("dpkg", "--audit")[1].strip()[:2000],
        "mirror": mirror(names.get("VERSION_CODENAME", "")),
    }


def locked(name):
    """Whether a process holds a lock on the file."""
    try:
        inode = os.stat(under(name)).st_ino
    except OSError:
        return False
    return any(line.split()[5].endswith(":%d" % inode) for line in read("proc/locks").splitlines() if "->" not in line)


def mirror(suite):
    """Where apt gets a suite from, and the keyring it names: another source of the same suite must name the same."""
    for path in (
        "etc/apt/sources.list",
        *("etc/apt/sources.list.d/" + name for name in listed("etc/apt/sources.list.d")),
    ):
        text = re.sub(r"^#.*\n?", "", read(path), flags=re.M)
        for options, url in re.findall(
            r"^deb\s+(?:\[([^\]]*)\]\s+)?(\S+)\s+%s\s" % re.escape(suite or "-"), text, re.M
        ):
            key = re.search(r"signed-by=(\S+)", options)
            return {"url": url.rstrip("/"), "keyring": key.group(1) if key else ""}
        for stanza in re.split(r"\n\s*\n", text) if path.endswith(".sources") else ():
            fields = dict(re.findall(r"^(\S+):[ \t]*(.*)$", stanza, re.M))
            if suite and suite in fields.get("Suites", "").split() and "deb" in fields.get("Types", "").split():
                return {
                    "url": fields.get("URIs", "").split()[0].rstrip("/"),
                    "keyring": fields.get("Signed-By", "").strip(),
                }
    return {"url": "", "keyring": ""}


def secure_boot():
    """None where the firmware does not say."""
    for path in glob.glob(under("sys/firmware/efi/efivars/SecureBoot-*")):
        with open(path, "rb") as file:
            return file.read()[-1:] == b"\x01"
    return None


def raises_limits():
    """Whether root may lock more memory than init may; in many containers it may not."""
    able = re.search(r"^CapEff:\s+([0-9a-f]+)$", read("proc/1/status"), re.M)
    limit = re.search(r"^Max locked memory\s+\S+\s+(\S+)", read("proc/1/limits"), re.M)
    return not able or bool(int(able.group(1), 16) >> 24 & 1) or bool(limit and limit.group(1) == "unlimited")


def packages():
    """Installed packages that have to do with GPUs or containers: {name: version}; `held` are those on hold."""
    code, out = ask("dpkg-query", "-W", "-f", "${Package}\t${Version}\t${db:Status-Status}\n")
    if code != 0:
        code, out = ask("rpm", "-qa", "--qf", "%{NAME}\t%{VERSION}-%{RELEASE}\tinstalled\n")
    rows = [line.split("\t") for line in out.splitlines()] if code == 0 else []
    wanted = {row[0]: row[1] for row in rows if len(row) == 3 and row[2] == "installed" and PACKAGES.match(row[0])}
    return {"installed": wanted, "held": ask("apt-mark", "showhold")[1].split()}


def jobs():
    """The jobs of pool that run here, by the ledgers of the runners of root and of the users."""
    found = set()
    for path in ["var/lib/pool-runner/ledger.json", *glob.glob(under("home/*/.local/state/pool-runner/ledger.json"))]:
        try:
            entries = json.loads(read(path))["jobs"]
            found.update(job for job, entry in entries.items() if entry.get("state") == "held")
        except (ValueError, KeyError, AttributeError, TypeError):
            continue
    return sorted(found)


def journals():
    """The roles that have changed something here; and those that have installed packages, or were cut off at it."""
    names = listed("var/lib/pool/journal")
    packages = [name for name in names if '"kind": "packages"' in read("var/lib/pool/journal/" + name)]
    cut_off = [name[: -len(".open")] for name in names if name.endswith(".open")]
    return {"journals": [name for name in names if "." not in name], "installed": sorted({*packages, *cut_off})}


def nvidia(timeout):
    """The GPUs on the bus; the versions of the driver as loaded, on disk and in the library; who uses it."""
    kernel = read("proc/sys/kernel/osrelease").strip()
    text = read("proc/driver/nvidia/version")
    loaded = re.search(r"Kernel Module\s+(?:for \S+\s+)?(\d+\.\d+(?:\.\d+)?)", text)
    release = read("sys/module/nvidia/version").strip()
    return {
        "gpus": gpus(),
        "switches": len(listed("proc/driver/nvidia-nvswitch/devices")) or len(on_bus("0x0680")),
        "loaded": loaded.group(1) if loaded else release or None,
        "loaded_open": "Open Kernel Module" in text,
        "on_disk": on_disk(kernel),
        "library": library(),
        "smi": smi(timeout),
        "fabric_manager": version_of(ask("nv-fabricmanager", "--version")[1]),
        "nouveau": exists("sys/module/nouveau"),
        "headers": os.path.isdir(under("lib/modules/%s/build" % kernel)),
        "newer_kernel": newer_kernel(kernel),
        "key_enrolled": key_enrolled(),
        "runfile": exists("usr/bin/nvidia-uninstall"),
        "grid": exists("usr/bin/nvidia-gridd"),
        "initramfs": next((name for name in ("update-initramfs", "dracut") if which(name)), None),
        "busy": busy(),
        "persistenced": exists("lib/systemd/system/nvidia-persistenced.service")
        or exists("usr/lib/systemd/system/nvidia-persistenced.service"),
        "dkms": ask("dkms", "status")[1].strip()[:2000],
    }


def gpus():
    """Every NVIDIA display or 3D controller, whatever driver has it."""
    found = []
    for address in on_bus("0x0300") + on_bus("0x0302"):
        device = int(read("sys/bus/pci/devices/%s/device" % address), 16)
        bound = os.path.realpath(under("sys/bus/pci/devices/%s/driver" % address))
        generation = [name for first, name in GENERATIONS if device >= first][-1]
        found.append(
            {
                "address": address,
                "device": "%04x" % device,
                "generation": generation,
                "driver": os.path.basename(bound) if exists("sys/bus/pci/devices/%s/driver" % address) else None,
                "open": "only" if device in GRACE_HOPPER or generation == "blackwell or newer"
                else "never" if generation in ("kepler or older", "maxwell", "pascal", "volta") else "may",
            }
        )  # fmt: skip
    return sorted(found, key=lambda gpu: gpu["address"])


def on_bus(kind):
    """Addresses of NVIDIA's PCI devices of one class."""
    return [
        address
        for address in listed("sys/bus/pci/devices")
        if read("sys/bus/pci/devices/%s/vendor" % address).strip() == "0x10de"
        and read("sys/bus/pci/devices/%s/class" % address).startswith(kind)
    ]


def on_disk(kernel):
    """The version of the module that the running kernel would load; Debian's has a name of its own."""
    for name in ("nvidia-current", "nvidia-current-open", "nvidia"):
        code, out = ask("modinfo", "-k", kernel, "-F", "version", name)
        if code == 0 and out.strip():
            return out.strip()
    return None


def library():
    """The version of the library that programs load."""
    places = (
        "usr/lib/*-linux-gnu",
        "usr/lib64",
        "usr/lib/*-linux-gnu/nvidia/current",
        "usr/lib/nvidia",
        "usr/lib/wsl/lib",
    )
    for place in places:
        for link in glob.glob(under(place + "/libnvidia-ml.so.1")):
            found = re.search(r"\.so\.(\d+\.[\d.]+)$", os.path.realpath(link))
            if found:
                return found.group(1)
    return None


def smi(timeout):
    """How nvidia-smi answers; a driver in trouble makes it hang, in the kernel, where nothing ends it."""
    code, out = ask("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader", timeout=timeout)
    lines = [line.strip() for line in out.splitlines() if line.strip()]
    works = code == 0 and bool(lines) and all(re.fullmatch(r"\d+\.[\d.]+", line) for line in lines)
    return {
        "found": code is not None,
        "hangs": code == -1,
        "works": works,
        "count": len(lines) if works else 0,
        "version": lines[0] if works else None,
        "said": "" if works else (lines or [""])[0][:300],
    }


def newer_kernel(kernel):
    """An installed kernel that a reboot would start in place of this one, as far as the versions tell."""
    flavour = re.sub(r"^[\d.]+(-\d+)?", "", kernel)
    same = [
        k for k in listed("lib/modules") if re.sub(r"^[\d.]+(-\d+)?", "", k) == flavour and exists("boot/vmlinuz-" + k)
    ]
    newest = max([*same, kernel], key=lambda k: [int(n) for n in re.findall(r"\d+", k)])
    return newest if newest != kernel else None


def key_enrolled():
    """Whether the firmware trusts the key that DKMS signs with; None where there is no such key yet."""
    if not exists("var/lib/dkms/mok.pub"):
        return None
    return "is already enrolled" in ask("mokutil", "--test-key", under("var/lib/dkms/mok.pub"))[1]


def busy():
    """Programs that have a GPU open, apart from the driver's own daemons: ["name (pid)"]."""
    found = []
    for pid in listed("proc"):
        if not pid.isdigit():
            continue
        try:
            names = [os.readlink(path) for path in glob.glob(under("proc/%s/fd/*" % pid))]
        except OSError:
            continue
        name = read("proc/%s/comm" % pid).strip()
        if name not in DAEMONS and any(re.match(r"/dev/nvidia(\d|-uvm$)", path) for path in names):
            found.append("%s (%s)" % (name, pid))
    return found


def docker():
    """The engine: as installed, as it runs, and as it is configured."""
    code, out = ask("docker", "info", "--format", "{{json .}}", timeout=20)
    try:
        info = json.loads(out.splitlines()[-1]) if code == 0 and out.strip() else {}
    except ValueError:
        info = {}
    text = read("etc/docker/daemon.json")
    try:
        settings = json.loads(text) if text.strip() else {}
    except ValueError:
        settings = None
    settings = settings if isinstance(settings, dict) else None
    path = os.path.realpath(which("docker") or "/nowhere")
    code, flags = ask("systemctl", "show", "-p", "ExecStart", "--value", "docker.service")
    return {
        "command": which("docker"),
        "daemon": which("dockerd"),
        "running": bool(info.get("ServerVersion")),
        "version": info.get("ServerVersion") or version_of(ask("dockerd", "--version")[1]),
        "live_restore": bool(info.get("LiveRestoreEnabled")),
        "swarm": (info.get("Swarm") or {}).get("LocalNodeState", "inactive") != "inactive",
        "containers": int(info.get("ContainersRunning") or 0),
        "data_root": info.get("DockerRootDir"),
        "runtimes": sorted(info.get("Runtimes") or {}),
        "cgroup_driver": info.get("CgroupDriver"),
        "snap": path.startswith(under("snap")) or exists("snap/bin/docker"),
        "podman": "podman" in os.path.basename(path) or "podman" in read("usr/bin/docker")[:300],
        "flags": flags.strip() if code == 0 else "",
        "settings_exist": exists("etc/docker/daemon.json"),
        "settings": settings,
        "settings_text": text,
        "apparmor": read("sys/module/apparmor/parameters/enabled").startswith("Y"),
        "validates": code_of_validate(),
        "restart_pending": exists("run/pool/docker-restart-pending"),
    }


def code_of_validate():
    """Whether dockerd can check a configuration: from 23 on."""
    return "--validate" in ask("dockerd", "--help")[1]


def toolkit():
    """The container toolkit: its version and the devices its CDI specification names."""
    listed_devices = ask("nvidia-ctk", "cdi", "list")[1]
    return {
        "command": which("nvidia-ctk"),
        "version": version_of(ask("nvidia-ctk", "--version")[1]),
        "runtime": which("nvidia-container-runtime"),
        "devices": len(re.findall(r"^nvidia\.com/gpu=\d+$", listed_devices, re.M)),
        "refresh": exists("usr/lib/systemd/system/nvidia-cdi-refresh.path")
        or exists("lib/systemd/system/nvidia-cdi-refresh.path")
        or exists("etc/systemd/system/nvidia-cdi-refresh.path"),
        "char_links": exists("usr/lib/udev/rules.d/71-pool-nvidia-dev-char.rules")
        or exists("etc/udev/rules.d/71-pool-nvidia-dev-char.rules"),
    }


def version_of(text):
    """The first version number in a text."""
    found = re.search(r"\d+\.\d+(?:\.\d+)*", text)
    return found.group(0) if found else None


def free_mib(place):
    """Room on the file system of a folder; None where it cannot be told."""
    told = read("usr/share/pool-test/free" + place.replace("/", "-")).strip()
    if told:
        return int(told)
    try:
        disk = os.statvfs(under(place.lstrip("/")))
    except OSError:
        return None
    return disk.f_bavail * disk.f_frsize >> 20


def under(path):
    """A path inside ROOT."""
    return os.path.join(ROOT, path)


def exists(path):
    """Also for a link that leads nowhere."""
    return os.path.lexists(under(path))


def listed(path):
    """The names in a folder; none when it is missing."""
    try:
        return sorted(os.listdir(under(path)))
    except OSError:
        return []


def read(path):
    """The text of a file; nothing when it cannot be read."""
    try:
        with open(under(path), errors="replace") as file:
            return file.read(1 << 20)
    except OSError:
        return ""


def which(name):
    """The path of a program, where a root login would find it."""
    for folder in folders():
        path = os.path.join(folder, name)
        if os.access(path, os.X_OK):
            return path
    return None


def folders():
    """Where programs are looked for."""
    names = ("usr/local/sbin", "usr/local/bin", "usr/sbin", "usr/bin", "sbin", "bin")
    return [under(name) for name in (names if ROOT == "/" else ("usr/sbin", "usr/bin"))]


def ask(name, *arguments, **options):
    """`(exit code, output)` of a program; code None when there is none, -1 when it does not answer in time."""
    path = which(name)
    if path is None:
        return None, ""
    environment = {
        "PATH": os.pathsep.join(folders() if ROOT == "/" else [*folders(), "/usr/bin", "/bin"]),
        "LC_ALL": "C",
    }
    try:
        process = subprocess.Popen(
            [path, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
    except OSError as error:
        return 126, str(error)
    try:
        out = process.communicate(timeout=options.get("timeout", 30))[0]
    except subprocess.TimeoutExpired:
        process.kill()  # not waited for: in the kernel's D state it would take us along
        return -1, "did not answer"
    return process.returncode, out.decode(errors="replace")


if __name__ == "__main__":
    main(sys.argv)
