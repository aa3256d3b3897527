"""Makes a host that has NVIDIA's cards out of one that has none: a folder that the roles read as `/`.

Standard library, Python >= 3.8; a scenario sends it to a test host through stdin. `machine.py FOLDER JSON`; JSON is
{name: machine}, each of which is made anew as FOLDER/name. One that is "whole" is the host in all but the kernel's
side, whose programs (modprobe, modinfo, update-initramfs) are stand-ins that work on the folder, unless it is a
container; any other is made of files alone, to decide about. A machine may have:

whole        the host's own packages, settings and programs
container    what runs it as a container, in which no module is loaded
system       the text of os-release           kernel    the version of the running kernel, and its flavour
cards        [device id, ...], or [[device id, driver], ...]     switches  how many NVSwitches
loaded       the version of the module        module    its text, with {} for the version
on_disk, library     other versions than the loaded one
files        {path: text}                     programs  {name: shell script}
"""

import json
import os
import shutil
import sys

KERNEL = "6.1.0-99-amd64"
DEBIAN = 'ID=debian\nVERSION_ID="12"\nVERSION_CODENAME=bookworm\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n'
OPEN = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  {}  Release Build\n"
#: Stand-ins of the kernel's programs; the packages of repository.py leave there what is loaded.
MODPROBE = """#!/bin/sh
mine=/usr/share/nvidia-stand-in
case "$1" in
    --remove) rm -rf ROOT/proc/driver/nvidia ROOT/fabric ;;
    --all) [ -e $mine/version ] || { echo "modprobe: FATAL: Module nvidia not found"; exit 1; }
           mkdir -p ROOT/proc/driver/nvidia && cp $mine/version ROOT/proc/driver/nvidia/version ;;
esac
echo "$*" >> ROOT/modprobe.log
"""
MODINFO = """#!/bin/sh
# modinfo -k KERNEL -F version NAME
mine=/usr/share/nvidia-stand-in
[ "$5" = "$(cat $mine/name 2>/dev/null)" ] && sed -n 's/.*  \\([0-9.]*\\)  .*/\\1/p' $mine/version
"""
INITRAMFS = '#!/bin/sh\necho "$*" >> ROOT/initramfs.log\n'
HOSTS = ("etc", "var", "lib", "home", "opt", "boot", "usr/bin", "usr/lib", "usr/share", "usr/local")
#: Programs of administrators' folder that are asked for; modinfo is the stand-in.
SBIN = ("dkms", "dockerd")


def main(argv):
    """Make every machine."""
    for name, asked in json.loads(argv[2]).items():
        make(os.path.join(argv[1], name), asked)


def make(root, asked):
    """Make one, anew."""
    shutil.rmtree(root, ignore_errors=True)
    os.makedirs(root)
    machine = Machine(root)
    if asked.get("whole"):
        machine.borrow(asked)
    else:
        machine.alone(asked)
    machine.bus(asked.get("cards", []), asked.get("switches", 0))
    machine.driver(asked)
    if asked.get("container"):
        machine.write("run/systemd/container", asked["container"] + "\n")
    for path, text in asked.get("files", {}).items():
        machine.write(path, text)
    for name, script in asked.get("programs", {}).items():
        machine.program(name, script)


class Machine:
    """The folder."""

    def __init__(self, root):
        self.root = root

    def write(self, path, text, mode=0o644):
        """One file below the root; what starts with / is the host's own."""
        target = path if path.startswith("/") else os.path.join(self.root, path)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with open(target, "wb") as file:
            file.write(text.replace("ROOT", self.root).encode("latin-1"))
        os.chmod(target, mode)

    def program(self, name, script):
        """One of the machine's programs."""
        self.write("usr/bin/" + name, "#!/bin/sh\n" + script + "\n", 0o755)

    def borrow(self, asked):
        """The host's own folders, beside a kernel that is ours."""
        for name in HOSTS:
            target = os.path.join(self.root, name)
            os.makedirs(os.path.dirname(target), exist_ok=True)
            os.symlink("/" + name, target)
        os.makedirs(os.path.join(self.root, "run"))
        os.makedirs(os.path.join(self.root, "usr/sbin"))
        for name in SBIN if not asked.get("container") else (*SBIN, "modinfo"):
            os.symlink("/usr/sbin/" + name, os.path.join(self.root, "usr/sbin", name))
        if not asked.get("container"):
            self.write("usr/sbin/modinfo", MODINFO, 0o755)
            self.write("/usr/local/sbin/modprobe", MODPROBE, 0o755)
            for name in ("usr/sbin/update-initramfs", "/usr/local/sbin/update-initramfs"):  # to be found, and to be run
                self.write(name, INITRAMFS, 0o755)
        self.write("proc/sys/kernel/osrelease", asked.get("kernel", KERNEL) + "\n")
        self.write("proc/sys/kernel/random/boot_id", "stand-in\n")

    def alone(self, asked):
        """A machine of files."""
        kernel = asked.get("kernel", KERNEL)
        self.write("etc/os-release", asked.get("system", DEBIAN))
        self.write("etc/apt/sources.list", "deb http://mirror.invalid/debian bookworm main\n")
        self.write("proc/sys/kernel/osrelease", kernel + "\n")
        self.write("usr/share/pool-test/machine", "x86_64\n")
        self.write("boot/vmlinuz-" + kernel, "")
        if asked.get("headers", True):
            self.write(f"lib/modules/{kernel}/build/Makefile", "")

    def bus(self, cards, switches):
        """NVIDIA's devices on it."""
        rows = [(card, None) if isinstance(card, str) else card for card in cards]
        rows = [(device, driver, "0x030200") for device, driver in rows] + [("22a3", None, "0x068000")] * switches
        for number, (device, driver, kind) in enumerate(rows, 1):
            path = f"sys/bus/pci/devices/0000:{number:02x}:00.0"
            for name, value in (("vendor", "0x10de"), ("class", kind), ("device", "0x" + device)):
                self.write(f"{path}/{name}", value + "\n")
            if driver:
                self.write(f"sys/bus/pci/drivers/{driver}/bind", "")
                os.symlink("../../drivers/" + driver, os.path.join(self.root, path, "driver"))

    def driver(self, asked):
        """A driver that is loaded, with its module on disk, its library and nvidia-smi."""
        loaded = asked.get("loaded")
        if not loaded:
            return
        library = asked.get("library", loaded)
        self.write("proc/driver/nvidia/version", asked.get("module", OPEN).format(loaded))
        self.program("modinfo", f'[ "$5" = nvidia ] && echo {asked.get("on_disk", loaded)}')
        folder = "usr/lib/x86_64-linux-gnu/libnvidia-ml.so."
        self.write(folder + library, "")
        os.symlink("libnvidia-ml.so." + library, os.path.join(self.root, folder + "1"))
        said = f"for card in {' '.join('x' for _ in asked['cards'])}; do echo {loaded}; done"
        if library != loaded:
            said = "echo 'Failed to initialize NVML: Driver/library version mismatch'; exit 18"
        self.program("nvidia-smi", said)


if __name__ == "__main__":
    main(sys.argv)
