"""Makes a signed repository of stand-ins for NVIDIA's packages: their names, and nothing of theirs in them.

Standard library, Python >= 3.8; a scenario sends it to a test host through stdin. `repository.py FOLDER MACHINE`.
Needs dpkg-deb and gpg there. What is made below FOLDER is served by any web server:

key.asc                    a throw-away key, of which only this is kept
debian/                    a mirror of Debian with its sections: the driver by Debian's names
cuda/debian12/x86_64/      a repository of NVIDIA's kind: three versions of the driver, two of them of branch 580, whose
                           newest is older than the newest fabric manager of that branch
toolkit/amd64/             three versions of the container toolkit: one below the floor, one at it, one with units

The programs in the packages see the kernel's side of the driver in the folder MACHINE (machine.py), where a stand-in of
`modprobe` loads it. They answer as far as the roles ask, and fail as the real ones do when the module is not loaded.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile

KERNEL = "6.1.0-99-amd64"
DEBIAN = "535.247.01"
CUDA = ("580.95.05", "580.105.08", "590.44.01")
FABRICS = ("580.105.08", "580.120.01", "590.44.01")
CLOSED, OPEN = "NVIDIA UNIX x86_64 Kernel Module", "NVIDIA UNIX Open Kernel Module for x86_64"
TOOLKIT = ("1.17.4", "1.17.8", "1.18.1")

DKMS = """#!/bin/sh
# dkms status [-k KERNEL]
for file in /var/lib/dkms/nvidia*/version; do
    [ -e "$file" ] && echo "$(basename "$(dirname "$file")")/$(cat "$file"), KERNEL, x86_64: installed"
done
exit 0
"""
SMI = """#!/bin/sh
# The library's version is this package's; the loaded one is the machine's.
mine=VERSION
loaded=$(sed -n 's/.*  \\([0-9.]*\\)  .*/\\1/p' MACHINE/proc/driver/nvidia/version 2>/dev/null)
if [ -z "$loaded" ]; then
    echo "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver."
    exit 9
elif [ "$loaded" != "$mine" ]; then
    echo "Failed to initialize NVML: Driver/library version mismatch"
    exit 18
fi
cards=$(grep -l 0x0302 MACHINE/sys/bus/pci/devices/*/class)
case "$1" in
    --query-gpu=driver_version) for card in $cards; do echo "$loaded"; done ;;
    -L) for card in $cards; do echo "GPU: stand-in (UUID: GPU-0)"; done ;;
    -q) echo "    Fabric"; echo "        State : $(cat MACHINE/fabric 2>/dev/null || echo In Progress)" ;;
esac
"""
PERSISTENCED = """#!/bin/sh
[ -e MACHINE/proc/driver/nvidia/version ] || { echo "Failed to query NVIDIA devices"; exit 1; }
exec sleep infinity
"""
FABRIC = """#!/bin/sh
[ "$1" = --version ] && { echo "Fabric Manager version is : VERSION"; exit 0; }
grep -q " VERSION " MACHINE/proc/driver/nvidia/version || { echo "VERSION is not the driver's"; exit 1; }
echo Completed > MACHINE/fabric
exec sleep infinity
"""
CTK = """#!/bin/sh
cards=$(grep -l 0x0302 MACHINE/sys/bus/pci/devices/*/class 2>/dev/null | wc -l)
spec=/var/run/cdi/nvidia.yaml
case "$1 $2" in
    "--version ") echo "NVIDIA Container Toolkit CLI version VERSION" ;;
    "cdi list") [ -e $spec ] && sed 's/^/nvidia.com\\/gpu=/' $spec; true ;;
    "cdi generate") mkdir -p /var/run/cdi && { seq 0 $((cards - 1)); echo all; } > $spec ;;
    "config --in-place")
        file=/etc/nvidia-container-runtime/config.toml
        shift 2
        for set in "$@"; do
            pair=${set#--set=}; key=${pair%%=*}
            sed -i "/^#\\?$key *=/d" $file && echo "$key = ${pair#*=}" >> $file
        done ;;
    "system create-dev-char-symlinks") echo "$*" >> MACHINE/char-links ;;
    *) echo "unknown: $*" >&2; exit 1 ;;
esac
"""
RUNTIME = '#!/bin/sh\nexec runc "$@"\n'
UNIT = """[Unit]
Description=Stand-in of {0}
[Service]
{2}
ExecStart=/usr/bin/{1}
[Install]
WantedBy=multi-user.target
"""
WATCH = """[Unit]
Description=Stand-in of what watches the driver
[Path]
PathChanged=/usr/share/nvidia-stand-in/version
[Install]
WantedBy=multi-user.target
"""
ENABLED = "systemctl daemon-reload\nsystemctl enable --now {0} || true\n"
DISABLED = '[ "$1" = remove ] && systemctl disable --now {0}\ntrue\n'


def main(argv):
    """Make the whole tree."""
    folder, machine = argv[1], argv[2]
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    with tempfile.TemporaryDirectory() as home:
        os.environ["GNUPGHOME"] = home
        run("gpg", "--batch", "--quiet", "--passphrase", "", "--quick-generate-key", "stand-in", "rsa2048", "sign")
        key = run("gpg", "--armor", "--export", "stand-in")
        write(folder + "/key.asc", key)
        make = Maker(machine)
        debian(make, folder + "/debian")
        cuda(make, folder + "/cuda/debian12/x86_64")
        write(folder + "/cuda/debian12/x86_64/3bf863cc.pub", key)
        toolkit(make, folder + "/toolkit/amd64")
        run("gpgconf", "--kill", "all")


def debian(make, folder):
    """The driver as Debian has it, in non-free."""
    pool = folder + "/pool"
    driver(make, pool, DEBIAN, "nvidia-kernel-dkms", "nvidia-current", CLOSED)
    make(pool, "nvidia-smi", DEBIAN, {"/usr/bin/nvidia-smi": SMI}, Depends="libnvidia-ml1")
    make(pool, "libnvidia-ml1", DEBIAN, {library(DEBIAN): ""}, links={library(): os.path.basename(library(DEBIAN))})
    make(pool, "libcuda1", DEBIAN)
    for component in ("main", "contrib", "non-free", "non-free-firmware"):
        text = index(folder, pool) if component == "non-free" else ""
        write(f"{folder}/dists/bookworm/{component}/binary-amd64/Packages", text)
    sign(folder + "/dists/bookworm", "Codename: bookworm\nComponents: main contrib non-free non-free-firmware\n")


def cuda(make, folder):
    """The driver as NVIDIA has it; apt takes 590 unless it is told not to."""
    for version in CUDA:
        driver(make, folder, version, "nvidia-kernel-dkms", "nvidia", CLOSED)
        driver(make, folder, version, "nvidia-kernel-open-dkms", "nvidia", OPEN)
        make(
            folder, "nvidia-driver-cuda", version, {library(version): "", "/usr/bin/nvidia-smi": SMI},
            links={library(): os.path.basename(library(version))},
        )  # fmt: skip
    for version in FABRICS:
        make.unit(folder, "nvidia-fabricmanager", version, "nv-fabricmanager", FABRIC)
    write(folder + "/Packages", index(folder, folder))
    sign(folder, "")


def driver(make, folder, version, name, module, text):
    """What both have: headers, dkms, the module, and what keeps it loaded."""
    make(folder, f"linux-headers-{KERNEL}", "999", {f"/usr/lib/modules/{KERNEL}/build/Makefile": ""})
    make(folder, "linux-headers-amd64", "999", Depends=f"linux-headers-{KERNEL}")
    make(folder, "dkms", "999", {"/usr/sbin/dkms": DKMS.replace("KERNEL", KERNEL)})
    files = {
        "/usr/share/nvidia-stand-in/version": f"NVRM version: {text}  {version}  Release Build\n",
        "/usr/share/nvidia-stand-in/name": module + "\n",
        f"/var/lib/dkms/{module}/version": version + "\n",
    }
    one = "nvidia-kernel-stand-in"
    make(folder, name, version, files, Depends="dkms", Conflicts=one, Provides=one)
    make.unit(folder, "nvidia-persistenced", version, "nvidia-persistenced", PERSISTENCED, user="nvpd")


def toolkit(make, folder):
    """The container toolkit; from 1.18 on it keeps the list of devices itself."""
    for version in TOOLKIT:
        make(folder, "libnvidia-container1", version)
        make(folder, "libnvidia-container-tools", version, Depends="libnvidia-container1")
        files = {"/usr/bin/nvidia-ctk": CTK, "/usr/bin/nvidia-container-runtime": RUNTIME}
        files["/etc/nvidia-container-runtime/config.toml"] = "#debug = false\n"
        postinst, prerm = "", ""
        if version >= "1.18":
            unit = "/usr/lib/systemd/system/nvidia-cdi-refresh"
            files[unit + ".service"] = UNIT.format("the list", "nvidia-ctk cdi generate", "Type=oneshot")
            files[unit + ".path"] = WATCH
            postinst = ENABLED.format("nvidia-cdi-refresh.path")
            prerm = DISABLED.format("nvidia-cdi-refresh.path nvidia-cdi-refresh.service")
        make(folder, "nvidia-container-toolkit-base", version, files, postinst=postinst, prerm=prerm)
        tied = f"nvidia-container-toolkit-base (= {version}-1), libnvidia-container-tools"
        make(folder, "nvidia-container-toolkit", version, Depends=tied)
    write(folder + "/Packages", index(folder, folder))
    sign(folder, "")


class Maker:
    """Builds packages for one machine."""

    def __init__(self, machine):
        self.machine = machine

    def __call__(self, folder, name, version, files=None, links=None, **more):
        """One package, unless it is there; `more` are its fields, in capitals, and dpkg's scripts, by name."""
        target = f"{folder}/{name}_{version}-1_all.deb"
        if os.path.exists(target):
            return
        os.makedirs(folder, exist_ok=True)
        control = {"Package": name, "Version": version + "-1", "Architecture": "all"}
        control.update({key: value for key, value in more.items() if key.istitle()})
        control.update({"Maintainer": "nobody <nobody@localhost>", "Description": "stand-in for a test"})
        with tempfile.TemporaryDirectory() as tree:
            os.chmod(tree, 0o755)
            write(tree + "/DEBIAN/control", "".join(f"{key}: {value}\n" for key, value in control.items()))
            for path, text in (files or {}).items():
                text = text.replace("MACHINE", self.machine).replace("VERSION", version)
                write(tree + path, text, 0o755 if text.startswith("#!") else 0o644)
            for path, target_of_link in (links or {}).items():
                os.symlink(target_of_link, tree + path)
            settings = [path for path in files or {} if path.startswith("/etc/")]
            if settings:
                write(tree + "/DEBIAN/conffiles", "".join(path + "\n" for path in settings))
            for script in ("postinst", "prerm"):
                if more.get(script):
                    write(f"{tree}/DEBIAN/{script}", "#!/bin/sh\n" + more[script], 0o755)
            run("dpkg-deb", "--root-owner-group", "-Znone", "--build", tree, target)

    def unit(self, folder, name, version, program, script, user=""):
        """A package with a service, which its own script enables and starts, as Debian's do: perhaps in vain."""
        files = {
            "/usr/bin/" + program: script,
            f"/lib/systemd/system/{name}.service": UNIT.format(name, program, "Restart=no"),
        }
        made = f"useradd --system --no-create-home {user} || true\n" if user else ""
        postinst, prerm = made + ENABLED.format(name), DISABLED.format(name)
        self(folder, name, version, files, postinst=postinst, prerm=prerm)


def library(version="1"):
    """The path of the library that nvidia-smi uses."""
    return "/usr/lib/x86_64-linux-gnu/libnvidia-ml.so." + version


def index(root, folder):
    """The text of `Packages`, with paths from `root`."""
    stanzas = []
    for name in sorted(os.listdir(folder)):
        if name.endswith(".deb"):
            path = os.path.join(folder, name)
            with open(path, "rb") as file:
                content = file.read()
            digest = hashlib.sha256(content).hexdigest()
            fields = f"Filename: {os.path.relpath(path, root)}\nSize: {len(content)}\nSHA256: {digest}\n"
            stanzas.append(run("dpkg-deb", "--field", path) + fields)
    return "\n".join(stanzas)


def sign(folder, fields):
    """`InRelease` over every `Packages` below the folder."""
    lines = []
    for path, _, names in os.walk(folder):
        for name in names:
            if name == "Packages":
                full = os.path.join(path, name)
                with open(full, "rb") as file:
                    content = file.read()
                digest = hashlib.sha256(content).hexdigest()
                lines.append(f" {digest} {len(content)} {os.path.relpath(full, folder)}\n")
    date = run("date", "--utc", "--rfc-email").strip()
    text = f"{fields}Architectures: amd64 all\nDate: {date}\nSHA256:\n{''.join(sorted(lines))}"
    write(folder + "/Release", text)
    run("gpg", "--batch", "--yes", "--clearsign", "--output", folder + "/InRelease", folder + "/Release")


def write(path, text, mode=0o644):
    """One file and its folders."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as file:
        file.write(text)
    os.chmod(path, mode)


def run(*argv):
    """What a program prints; an error ends it all."""
    return subprocess.run(argv, check=True, stdout=subprocess.PIPE, encoding="utf-8").stdout


if __name__ == "__main__":
    main(sys.argv)
