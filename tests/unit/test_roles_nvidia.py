"""What the role nvidia_driver decides on machines that are made of files, and real Ansible on a few of them."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from pool.errors import DiskFullError, HostError, ProvisionError
from pool.provision.failure import classify

REPOSITORY = Path(__file__).resolve().parents[2]
H100, H200, B200, A100, V100, K80, GH200 = "2330", "2335", "2901", "20b0", "1db4", "102d", "2342"
KERNEL = "6.1.0-56-amd64"
DEBIAN = 'ID=debian\nVERSION_ID="12"\nVERSION_CODENAME=bookworm\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n'
UBUNTU = 'ID=ubuntu\nID_LIKE=debian\nVERSION_ID="24.04"\nVERSION_CODENAME=noble\nPRETTY_NAME="Ubuntu 24.04.3 LTS"\n'
ROCKY = 'ID="rocky"\nID_LIKE="rhel centos fedora"\nVERSION_ID="9.6"\nPRETTY_NAME="Rocky Linux 9.6"\n'
ALPINE = 'ID=alpine\nVERSION_ID=3.22.1\nPRETTY_NAME="Alpine Linux v3.22"\n'
OPEN_MODULE = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  {}  Release Build  (dvs-builder)\n"
CLOSED_MODULE = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  {}  Wed May 14 12:00:00 UTC 2025\n"
DEBIAN_PACKAGES = "linux-headers-amd64 nvidia-smi nvidia-persistenced libcuda1 libnvidia-ml1 nvidia-kernel-dkms".split()


class Machine:
    """A host as `look.py` would find it, as files below `root`."""

    def __init__(self, root: Path, system: str = DEBIAN, kernel: str = KERNEL) -> None:
        self.root = root
        self.kernel = kernel
        self.write("etc/os-release", system)
        self.write(
            "etc/apt/sources.list",
            "# deb http://old/ bookworm main\ndeb [signed-by=/k] http://mirror/debian/ bookworm main\n",
        )
        self.write("proc/sys/kernel/osrelease", kernel + "\n")
        self.write("usr/share/pool-test/machine", "x86_64\n")
        self.write(f"lib/modules/{kernel}/build/Makefile", "")
        self.write(f"boot/vmlinuz-{kernel}", "")

    def write(self, path: str, text: str | bytes) -> None:
        """One file."""
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(text.encode() if isinstance(text, str) else text)

    def program(self, name: str, script: str) -> None:
        """A program of the machine."""
        self.write(f"usr/bin/{name}", "#!/bin/sh\n" + script + "\n")
        (self.root / "usr/bin" / name).chmod(0o755)

    def cards(self, *devices: str, driver: str | None = None, kind: str = "0x030200") -> Machine:
        """Cards on its bus, bound to `driver`."""
        bus = self.root / "sys/bus/pci"
        for device in devices:
            address = f"0000:{len(list(bus.glob('devices/*'))) + 1:02x}:00.0"
            for name, value in (("vendor", "0x10de"), ("class", kind), ("device", f"0x{device}")):
                self.write(f"sys/bus/pci/devices/{address}/{name}", value + "\n")
            if driver:
                (bus / "drivers" / driver).mkdir(parents=True, exist_ok=True)
                (bus / "devices" / address / "driver").symlink_to(f"../../drivers/{driver}")
        return self

    def driver(
        self, loaded: str, *, on_disk: str = "", library: str = "", gpus: int = 1, module: str = OPEN_MODULE
    ) -> Machine:
        """A driver: loaded, on disk and as a library of the same version unless said otherwise."""
        self.write("proc/driver/nvidia/version", module.format(loaded))
        self.program("modinfo", f'[ "$5" = nvidia ] && echo {on_disk or loaded}')
        self.write(f"usr/lib/x86_64-linux-gnu/libnvidia-ml.so.{library or loaded}", "")
        (self.root / "usr/lib/x86_64-linux-gnu/libnvidia-ml.so.1").symlink_to(f"libnvidia-ml.so.{library or loaded}")
        if (library or loaded) == loaded:
            self.program("nvidia-smi", f"for i in $(seq {gpus}); do echo {loaded}; done")
        else:
            self.program("nvidia-smi", "echo 'Failed to initialize NVML: Driver/library version mismatch'; exit 18")
        return self

    def packages(self, *names: str) -> Machine:
        """Installed packages."""
        self.program("dpkg-query", "\n".join(f"printf '{name}\\t1\\tinstalled\\n'" for name in names))
        return self

    def jobs(self, *names: str) -> Machine:
        """Jobs of pool that run."""
        self.write("var/lib/pool-runner/ledger.json", json.dumps({"jobs": {name: {"state": "held"} for name in names}}))
        return self

    def journal(self) -> Machine:
        """The role has been here."""
        self.write("var/lib/pool/journal/nvidia_driver", '{"kind": "packages", "names": {}}\n')
        return self

    def secure_boot(self) -> Machine:
        """The firmware asks for signatures."""
        self.write("sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c", b"\x06\0\0\0\x01")
        return self


def machines(folder: Path) -> dict[str, tuple[Machine, dict[str, Any]]]:
    """Each machine by name, with the variables that its owner has set."""
    made: dict[str, tuple[Machine, dict[str, Any]]] = {}

    def make(name: str, system: str = DEBIAN, kernel: str = KERNEL, **variables: Any) -> Machine:
        machine = Machine(folder / name, system, kernel)
        made[name] = machine, {f"nvidia_driver_{key}": value for key, value in variables.items()}
        return machine

    make("no_gpu")
    make("fresh").cards(H100, H100)
    make("passed_on").cards(A100, driver="vfio-pci")
    make("working").cards(A100).driver("550.90.07")
    make("upgrade", UBUNTU, "6.8.0-60-generic", adopt=False).cards(A100, driver="nvidia").driver("550.90.07")
    make("volta").cards(V100)
    make("volta_new_branch", branch="590").cards(V100)
    make("blackwell").cards(B200)
    make("blackwell_closed", flavor="proprietary").cards(B200)
    make("mixed", UBUNTU, "6.8.0-60-generic").cards(V100, B200)
    make("kepler").cards(K80)
    make("grace", UBUNTU, "6.8.0-60-nvidia-64k").cards(GH200)
    make("rocky", ROCKY, "5.14.0-570.el9.x86_64").cards(H200)
    make("alpine", ALPINE).cards(A100)
    make("secure").cards(A100).secure_boot()
    make("secure_signed", UBUNTU, "6.8.0-60-generic").cards(A100).secure_boot()
    enrolled = make("secure_enrolled").cards(A100).secure_boot()
    enrolled.write("var/lib/dkms/mok.pub", "")
    enrolled.program("mokutil", 'echo "$2 is already enrolled"')
    headless = make("no_headers", kernel="6.1.0-50-amd64").cards(A100)
    (headless.root / "lib/modules/6.1.0-50-amd64/build/Makefile").unlink()
    (headless.root / "lib/modules/6.1.0-50-amd64/build").rmdir()
    headless.write("lib/modules/6.1.0-56-amd64/modules.dep", "")
    headless.write("boot/vmlinuz-6.1.0-56-amd64", "")
    make("nouveau").cards(A100, driver="nouveau").write("sys/module/nouveau/refcnt", "0")
    mismatch = make("mismatch").cards(A100).journal().packages(*DEBIAN_PACKAGES)
    mismatch.driver("535.216.01", on_disk="535.309.01", library="535.309.01", module=CLOSED_MODULE)
    busy = make("mismatch_busy", reboot="when_idle").cards(A100).journal().packages(*DEBIAN_PACKAGES).jobs("train-1-0")
    busy.driver("535.216.01", on_disk="535.309.01", library="535.309.01", module=CLOSED_MODULE)
    idle = make("mismatch_idle", reboot="when_idle").cards(A100).journal().packages(*DEBIAN_PACKAGES)
    idle.driver("535.216.01", on_disk="535.309.01", library="535.309.01", module=CLOSED_MODULE)
    hanging = make("hanging", smi_timeout=1).cards(A100).journal().packages(*DEBIAN_PACKAGES).driver("535.309.01")
    hanging.program("nvidia-smi", "exec sleep 30")
    make("replace_busy", adopt=False).cards(A100).driver("550.90.07").jobs("train-1-0")
    make("switches", UBUNTU, "6.8.0-60-generic").cards(H100, H100).cards("22a3", kind="0x068000")
    full = make("full").cards(A100)
    full.write("usr/share/pool-test/free-", "100\n")
    (make("no_mirror").cards(A100).root / "etc/apt/sources.list").unlink()
    make("runfile").cards(A100).program("nvidia-uninstall", "")
    broken = make("broken_packages").cards(A100)
    broken.program("dpkg", "echo 'The following packages are only half configured: libc6'")
    make("container").cards(A100).write("run/systemd/container", "docker\n")
    return made


def play(folder: Path, playbook: str, hosts: Mapping[str, tuple[Machine, dict[str, Any]]], *arguments: str) -> str:
    """Run a playbook on these machines; what it said."""
    local = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable, "nvidia_driver_become": False}
    each = {name: {"nvidia_driver_root": f"{machine.root}/", **values} for name, (machine, values) in hosts.items()}
    (folder / "inventory.json").write_text(json.dumps({"all": {"vars": local, "hosts": each}}))
    program = os.path.join(os.path.dirname(sys.executable), "ansible-playbook")
    command = [program, "-i", str(folder / "inventory.json"), playbook, *arguments]
    environment = os.environ | {
        "ANSIBLE_ROLES_PATH": str(REPOSITORY / "roles"),
        "ANSIBLE_CONFIG": str(REPOSITORY / "ansible.cfg"),
        "ANSIBLE_FORKS": "4",
        "ANSIBLE_NOCOLOR": "1",
        "ANSIBLE_LOCAL_TEMP": str(folder / "tmp"),
        "ANSIBLE_REMOTE_TEMP": str(folder / "tmp"),
        "ANSIBLE_DISPLAY_SKIPPED_HOSTS": "0",
        "PATH": os.path.dirname(sys.executable) + os.pathsep + os.environ["PATH"],
    }
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)
    return done.stdout + done.stderr


def program(path: str) -> Any:
    """A program of the roles, as a module."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, REPOSITORY / "roles" / path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def read(path: str) -> Any:
    """A YAML file of the role; None when there is none."""
    file = REPOSITORY / "roles/nvidia_driver" / path
    return yaml.safe_load(file.read_text()) if file.exists() else None


@pytest.fixture(scope="module")
def plans(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What the role would do on every machine."""
    look, decide = program("look/files/look.py"), program("nvidia_driver/files/decide.py")
    defaults = {name.removeprefix("nvidia_driver_"): value for name, value in read("defaults/main.yml").items()}
    made = {}
    for name, (machine, variables) in machines(tmp_path_factory.mktemp("nvidia")).items():
        wish = defaults | {key.removeprefix("nvidia_driver_"): value for key, value in variables.items()}
        facts = json.loads(json.dumps(look.look(f"{machine.root}/", wish["smi_timeout"], ["nvidia", "docker"])))
        known = read(f"vars/{facts['system']['id']}.yml") or read(f"vars/{facts['system']['family']}.yml") or {}
        made[name] = decide.plan(facts, wish, known.get("__nvidia_driver_known"))
    return made


@pytest.mark.parametrize(
    ("name", "action", "flavor", "source", "refused"),
    [
        ("fresh", "install", "proprietary", "distribution", []),
        ("upgrade", "install", "open", "distribution", []),
        ("volta", "install", "proprietary", "distribution", []),
        ("volta_new_branch", "install", "proprietary", "distribution", ["branch"]),
        ("blackwell", "install", "open", "cuda", []),
        ("blackwell_closed", "install", "proprietary", "cuda", ["flavor"]),
        ("mixed", "install", "open", "distribution", ["mixed_cards", "flavor"]),
        ("kepler", "install", "proprietary", "distribution", ["too_old_card"]),
        ("grace", "install", "open", "distribution", []),
        ("rocky", "install", "open", "cuda", []),
        ("alpine", "install", "open", "distribution", ["unsupported_system"]),
        ("secure", "install", "proprietary", "distribution", ["secure_boot"]),
        ("secure_signed", "install", "open", "distribution", []),
        ("secure_enrolled", "install", "proprietary", "distribution", []),
        ("no_headers", "install", "proprietary", "distribution", ["newer_kernel"]),
        ("replace_busy", "install", "proprietary", "distribution", ["busy"]),
        ("full", "install", "proprietary", "distribution", ["no_room"]),
        ("no_mirror", "install", "proprietary", "distribution", ["no_mirror"]),
        ("runfile", "install", "proprietary", "distribution", ["runfile"]),
        ("broken_packages", "install", "proprietary", "distribution", ["package_state"]),
    ],
)
def test_what_is_installed_and_what_speaks_against_it(
    plans: dict[str, dict[str, Any]], name: str, action: str, flavor: str, source: str, refused: list[str]
) -> None:
    """Flavor and source follow the cards; every reason against it has a word, before anything is changed."""
    plan = plans[name]
    codes = [reason["code"] for reason in plan["refused"]]
    assert (plan["action"], plan["flavor"], plan["source"], codes) == (action, flavor, source, refused), plan


def test_packages(plans: dict[str, dict[str, Any]]) -> None:
    """Headless packages, with the module of the running kernel, and fabric manager where there is NVSwitch."""
    assert sorted(plans["fresh"]["packages"]) == sorted(DEBIAN_PACKAGES)
    assert plans["grace"]["packages"] == [
        "nvidia-utils-580-server",
        "linux-modules-nvidia-580-server-open-nvidia-64k",
        "nvidia-headless-no-dkms-580-server-open",
    ]
    assert "nvidia-fabricmanager-580" in plans["switches"]["packages"]
    assert "nvidia-kernel-open-dkms" in plans["blackwell"]["packages"]
    assert "kmod-nvidia-open-dkms" in plans["rocky"]["packages"]


def test_the_mirror_that_the_host_uses(tmp_path: Path) -> None:
    """Its URL and its keyring are taken over, for apt refuses two sources of one suite that name different ones."""
    look = program("look/files/look.py")
    machine = Machine(tmp_path)
    assert look.look(f"{machine.root}/", 1, [])["system"]["mirror"] == {"url": "http://mirror/debian", "keyring": "/k"}
    machine.write("etc/apt/sources.list", "")
    machine.write(
        "etc/apt/sources.list.d/debian.sources",
        "Types: deb\nURIs: http://sec/\nSuites: bookworm-security\n\n"
        "Types: deb deb-src\n# ours\nURIs: http://near/debian\n"
        "Suites: bookworm bookworm-updates\nSigned-By: /usr/k.gpg\n",
    )
    assert look.look(f"{machine.root}/", 1, [])["system"]["mirror"] == {
        "url": "http://near/debian",
        "keyring": "/usr/k.gpg",
    }


def test_left_alone(plans: dict[str, dict[str, Any]]) -> None:
    """No card, a card that belongs to virtual machines, a driver that works: nothing is done, and why is said."""
    assert (plans["no_gpu"]["action"], plans["no_gpu"]["why"]) == ("skip", "no NVIDIA card on the bus")
    assert plans["passed_on"]["action"] == "skip" and "vfio-pci" in plans["passed_on"]["why"]
    assert plans["working"]["action"] == "adopt" and "550.90.07 works" in plans["working"]["why"]
    assert all(plans[name]["reboot"] == "no" for name in ("no_gpu", "passed_on", "working", "fresh", "container"))


def test_when_a_reboot_is_needed(plans: dict[str, dict[str, Any]]) -> None:
    """Nouveau, a mismatch of versions, a hanging nvidia-smi: a reboot, when it is allowed and nothing runs."""
    assert (
        plans["nouveau"]["reboot"] == plans["mismatch"]["reboot"] == plans["hanging"]["reboot"] == "needed, not allowed"
    )
    assert plans["mismatch_idle"]["reboot"] == "yes"
    assert (plans["mismatch_busy"]["reboot"], plans["mismatch_busy"]["busy"]) == (
        "needed, not allowed",
        ["job train-1-0"],
    )
    assert plans["mismatch"]["versions"]["loaded"] == "535.216.01"
    assert plans["mismatch"]["versions"]["on_disk"] == plans["mismatch"]["versions"]["library"] == "535.309.01"


def test_check_mode_on_a_fresh_and_on_a_refused_host(tmp_path: Path) -> None:
    """A dry run says what would be installed, or why not; it fails where the real run would."""
    playbook = tmp_path / "host.yml"
    playbook.write_text("- hosts: all\n  gather_facts: false\n  strategy: free\n  roles: [nvidia_driver]\n")
    chosen = {
        name: made for name, made in machines(tmp_path).items() if name in ("fresh", "mixed", "mismatch", "working")
    }
    said = play(tmp_path, str(playbook), chosen, "--check", "--diff")
    assert "Would install, from distribution: linux-headers-amd64" in said, said
    assert "no driver serves all of these cards" in said
    recap = {line.split()[0]: line for line in said.splitlines() if "unreachable=" in line}
    assert "failed=1" in recap["mixed"]
    assert all("failed=0" in recap[name] for name in ("fresh", "mismatch", "working")), said
    assert "changed=0" in recap["working"]


@pytest.mark.parametrize(
    ("name", "error", "cause"),
    [
        ("secure", ProvisionError, "Secure Boot is on"),
        ("no_headers", ProvisionError, "no module could be built for the running kernel"),
        ("broken_packages", ProvisionError, "its packages are in disorder"),
        ("full", DiskFullError, "no room on the host"),
    ],
)
def test_a_refusal_is_a_cause(plans: dict[str, dict[str, Any]], name: str, error: type[HostError], cause: str) -> None:
    """`pool provision` names it, with what to type, instead of pointing at the log."""
    said = "; ".join(reason["say"] for reason in plans[name]["refused"])
    failed = classify("gpu1", "Stop for every reason against it", {"msg": said}, unreachable=False, log="/l")
    assert type(failed) is error
    assert cause in failed.message
    assert failed.hint != "less /l"


def test_an_unknown_variable_is_refused(tmp_path: Path) -> None:
    """A typing error in a variable's name is an error, not a silence."""
    playbook = tmp_path / "host.yml"
    playbook.write_text("- hosts: all\n  gather_facts: false\n  roles: [nvidia_driver]\n")
    machine = Machine(tmp_path / "root")
    said = play(tmp_path, str(playbook), {"typo": (machine, {"nvidia_driver_flavour": "open"})}, "--check")
    assert "nvidia_driver has no such variable: nvidia_driver_flavour" in said, said


def test_a_role_that_reads_less_takes_nothing_away(tmp_path: Path) -> None:
    """The toolkit's role has Docker's role look at Docker alone, and asks for the cards after that."""
    playbook = tmp_path / "host.yml"
    look = {"name": "Look", "ansible.builtin.include_role": {"name": "look"}}
    root = "{{ nvidia_driver_root }}"
    looks = [look | {"vars": {"look_root": root, "look_parts": [part]}} for part in ("nvidia", "docker")]
    said_of = "{{ look_facts.nvidia.gpus | length }} cards, {{ look_facts.docker.containers }}"
    say = {"ansible.builtin.debug": {"msg": said_of}}
    playbook.write_text(json.dumps([{"hosts": "all", "gather_facts": False, "tasks": [*looks, say]}]))
    machine = Machine(tmp_path / "root").cards(A100, A100)
    said = play(tmp_path, str(playbook), {"two": (machine, {})})
    assert '"msg": "2 cards, 0"' in said, said
