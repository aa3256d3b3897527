"""Runs a playbook on hosts through ansible-runner, several runs at once and from any thread.

What this does to the world: what the playbook does. On this machine it leaves only the log; the folder that
ansible-runner works in, which holds the inventory, is private, fresh for each run, in memory where possible, and gone
at the end. Host keys are checked against the pinned file, which ansible-runner would switch off.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import queue
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final, Protocol, TextIO

from pool.errors import InputError, ProvisionError
from pool.provision.halt import halt
from pool.provision.inventory import JSON, inventory
from pool.provision.openssh import Target, ssh_arguments
from pool.provision.progress import Outcome, Progress, StepEvent

FORKS_MAX: Final = 32
#: The most that one step may take, when it says nothing itself: ten minutes' wait for a package manager, and its work.
STEP_S: Final = 1200
_PREFIX: Final = "pool-ansible-"
#: An ssh that was told to end has gone by then.
_REMOVE_S: Final = 10.0
#: What of this process's environment Ansible and ssh may see; secrets and ANSIBLE_* of the person are none of it.
_ENVIRONMENT: Final = frozenset(
    ("HOME", "LANG", "LC_ALL", "LOGNAME", "PATH", "SSH_AUTH_SOCK", "TERM", "TMPDIR", "TZ", "USER", "POOL_LAB")
)


class RunPlaybook(Protocol):
    """The seam: `run_playbook`, and its fake in the tests."""

    def __call__(
        self,
        playbook: str,
        targets: Sequence[Target],
        *,
        known_hosts: str,
        log: str,
        variables: Mapping[str, Mapping[str, JSON]],
        on_event: Callable[[StepEvent], None],
        cancelled: Callable[[], bool] = ...,
        check: bool = False,
        skip: Collection[str] = (),
        timeout_s: float = 3600,
    ) -> dict[str, Outcome]:
        """See `run_playbook`."""


def run_playbook(
    playbook: str,
    targets: Sequence[Target],
    *,
    known_hosts: str,
    log: str,
    variables: Mapping[str, Mapping[str, JSON]],
    on_event: Callable[[StepEvent], None],
    cancelled: Callable[[], bool] = lambda: False,
    check: bool = False,
    skip: Collection[str] = (),
    timeout_s: float = 3600,
) -> dict[str, Outcome]:
    """Run `playbook` (a file of playbooks/, or an absolute path) on `targets`; each host's outcome by its name.

    A host's failure is in its outcome, never an exception, and does not hold up the others. `variables` are by host
    name; `on_event` is called from one other thread, in order, and an exception from it stops the run and comes out
    here. `cancelled` is asked every second; a run that is given up ends its steps on the hosts too, but for a package
    manager. Steps with a tag in `skip` are left out, which costs less than a `when` of each on each host. `log` gets
    the whole of Ansible's output, appended.

    Raises InputError for values that may not stand in an inventory, ProvisionError when Ansible is not installed.
    """
    path = find_playbook(playbook)
    inventory(targets, variables)  # refuses before anything is written
    if not targets:
        return {}
    _sweep()
    folder = tempfile.mkdtemp(prefix=_PREFIX, dir=_memory())
    lock = _lock(folder)
    try:
        pins = _write_pins(folder, known_hosts, targets)
        _write(folder, "inventory.json", json.dumps(inventory(targets, variables, pins)))
        # ansible-runner takes its settings from this file only; it looks for a cancellation this often.
        _write(folder, "env/settings", json.dumps({"pexpect_timeout": 1, "suppress_ansible_output": True}))
        environment = _environment(folder, path, pins, targets)
        words = ["--check", "--diff"] if check else []
        words += ["--skip-tags", ",".join(sorted(skip))] if skip else []
        progress = Progress(targets, log, on_event)
        with _open_log(log) as file:
            return _run(folder, path, environment, shlex.join(words), progress, file, cancelled, timeout_s)
    finally:
        _remove(folder)
        os.close(lock)


def find_playbook(name: str) -> str:
    """The absolute path of a playbook; InputError when there is none of that name."""
    path = name if os.path.isabs(name) else os.path.join(content(), "playbooks", name)
    if (not os.path.isabs(name) and os.path.basename(name) != name) or not os.path.isfile(path):
        raise InputError(f"no such playbook: {name}")
    return path


def content() -> str:
    """The folder of playbooks/ and roles/: inside an installed package, or the checkout's root."""
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    installed = os.path.join(package, "_ansible")
    return installed if os.path.isdir(installed) else os.path.dirname(package)


def _run(
    folder: str,
    playbook: str,
    environment: Mapping[str, str],
    arguments: str,
    progress: Progress,
    log: TextIO,
    cancelled: Callable[[], bool],
    timeout_s: float,
) -> dict[str, Outcome]:
    # The package itself, never a module of it: while another thread still imports the package, `import` waits for all
    # of it, but takes a module of it that is there already and fails in what is not there yet.
    import ansible_runner

    settings = ansible_runner.RunnerConfig(
        private_data_dir=folder,
        playbook=playbook,
        inventory=os.path.join(folder, "inventory.json"),
        cmdline=arguments or None,
        forks=min(len(progress.targets), FORKS_MAX),
        envvars=dict(environment),
        ident="run",
        quiet=True,
        timeout=max(1, int(timeout_s)),
    )
    settings.prepare()
    allowed = _ENVIRONMENT | set(environment)
    settings.env = {k: v for k, v in settings.env.items() if k in allowed or v != os.environ.get(k)}
    if shutil.which("ansible-playbook", path=environment["PATH"]) is None:
        raise ProvisionError("ansible-playbook is not installed", hint=f"{sys.executable} -m pip install ansible-core")
    events: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
    reader = _Reader(events, progress, log)

    def forget_environment(status: Mapping[str, Any], runner_config: Any) -> None:
        if status.get("status") == "running":
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(runner_config.artifact_dir, "command"))

    def queue_event(event: dict[str, Any]) -> bool:
        events.put(event)
        return False  # nothing is kept on disk

    runner = ansible_runner.Runner(
        settings,
        event_handler=queue_event,
        status_handler=forget_environment,
        # Given, so that ansible-runner does not put in a signal handler of its own, which it would never take out.
        cancel_callback=lambda: reader.error is not None or cancelled(),
    )
    reader.start()
    try:
        runner.run()
    except ansible_runner.AnsibleRunnerException as exc:
        raise ProvisionError(f"ansible-runner failed: {exc}", hint=f"less {progress.log}", log=progress.log) from exc
    finally:
        events.put(None)
        reader.join()
    if reader.error is not None:
        raise reader.error
    if runner.status in ("canceled", "timeout"):
        _end_processes(folder)  # before that they would begin the next step
        halt(os.path.join(folder, "c"))
    return progress.outcomes(str(runner.status))


class _Reader(threading.Thread):
    """Takes events off the queue: whoever makes them must never wait, or ansible-runner gives the playbook up."""

    def __init__(self, events: queue.SimpleQueue[dict[str, Any] | None], progress: Progress, log: TextIO) -> None:
        super().__init__(name="playbook-events", daemon=True)
        self.error: BaseException | None = None
        self._events, self._progress, self._log = events, progress, log

    def run(self) -> None:
        while (event := self._events.get()) is not None:
            try:
                if text := str(event.get("stdout") or ""):
                    self._log.write(text + "\n")
                    self._log.flush()
                if self.error is None:
                    self._progress.take(event)
            except Exception as exc:  # the run's own thread raises it
                self.error = self.error or exc


def _environment(folder: str, playbook: str, pins: str, targets: Sequence[Target]) -> dict[str, str]:
    """The variables that settle everything an ansible.cfg or a person's environment might say otherwise."""
    _write(folder, "ansible.cfg", "")
    for name in ("c", "home"):
        os.mkdir(os.path.join(folder, name), 0o700)
    beside = os.path.join(os.path.dirname(playbook), "roles")
    return {
        "PATH": os.path.dirname(sys.executable) + os.pathsep + os.environ.get("PATH", os.defpath),
        "ANSIBLE_CONFIG": os.path.join(folder, "ansible.cfg"),
        "ANSIBLE_HOME": os.path.join(folder, "home"),
        "ANSIBLE_ROLES_PATH": os.pathsep.join([os.path.join(content(), "roles"), beside]),
        "ANSIBLE_INVENTORY_ENABLED": "ansible.builtin.yaml",
        "ANSIBLE_HOST_KEY_CHECKING": "True",
        "ANSIBLE_SSH_ARGS": ssh_arguments(pins, own_key=all(target.key for target in targets)),
        "ANSIBLE_SSH_CONTROL_PATH_DIR": os.path.join(folder, "c"),
        "ANSIBLE_SSH_RETRIES": "2",
        "ANSIBLE_TIMEOUT": "10",
        "ANSIBLE_PIPELINING": "True",
        # Its own folder on the host, so that undoing can take it away; the shell there expands it.
        "ANSIBLE_REMOTE_TMP": "$HOME/.pool-ansible",
        "ANSIBLE_ASYNC_DIR": "~/.pool-ansible/async",
        # No step may go on for ever. What may take long has a time of its own: async, or the task's `timeout`.
        "ANSIBLE_TASK_TIMEOUT": str(STEP_S),
        "ANSIBLE_CALLBACK_PLUGINS": "",
        "ANSIBLE_STDOUT_CALLBACK": "",
        "ANSIBLE_NOCOLOR": "True",
        "ANSIBLE_DEPRECATION_WARNINGS": "False",
        "ANSIBLE_LOCALHOST_WARNING": "False",
    }


def _write_pins(folder: str, known_hosts: str, targets: Sequence[Target]) -> str:
    """Copy the pins to a path that needs no quoting; a host without one is refused by ssh, as it should be."""
    places = [(target.address, target.port) for target in targets]
    places += [(jump.address, jump.port) for target in targets for jump in target.jumps]
    names = {address.lower() if port == 22 else f"[{address.lower()}]:{port}" for address, port in places}
    try:
        with open(known_hosts, encoding="utf-8") as file:
            lines = [line for line in file if line.split(" ", 1)[0] in names]
    except FileNotFoundError:
        lines = []
    return _write(folder, "known_hosts", "".join(lines))


def _write(folder: str, name: str, text: str) -> str:
    path = os.path.join(folder, name)
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
    return path


def _open_log(path: str) -> TextIO:
    os.makedirs(os.path.dirname(path) or ".", mode=0o700, exist_ok=True)
    return open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "w", encoding="utf-8")


def _memory() -> str | None:
    """A folder in memory, with a path short enough for ssh's control sockets; None = the usual temporary folder."""
    for path in (os.environ.get("XDG_RUNTIME_DIR", ""), "/dev/shm"):  # noqa: S108 - mkdtemp makes a private folder
        if path and len(path) < 40 and os.access(path, os.W_OK | os.X_OK):
            return path
    return None


def _lock(folder: str) -> int:
    """Hold the folder: whoever can take this lock knows that its run is over, however that ended."""
    handle = os.open(os.path.join(folder, "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return handle


def _sweep() -> None:
    """Remove the folders of runs whose process was killed."""
    place = _memory() or tempfile.gettempdir()
    for name in os.listdir(place):
        folder = os.path.join(place, name)
        if not name.startswith(_PREFIX):
            continue
        with contextlib.suppress(OSError):  # it is held, somebody else's, or just being made
            handle = os.open(os.path.join(folder, "lock"), os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove(folder)
            finally:
                os.close(handle)


def _remove(folder: str) -> None:
    """Remove the folder; again while an ssh that is just ending still makes or removes its socket in it."""
    deadline = time.monotonic() + _REMOVE_S
    _end_processes(folder)
    _close_masters(os.path.join(folder, "c"))
    shutil.rmtree(folder, ignore_errors=True)
    while os.path.exists(folder) and time.monotonic() < deadline:
        time.sleep(0.05)
        _close_masters(os.path.join(folder, "c"))
        shutil.rmtree(folder, ignore_errors=True)


def _end_processes(folder: str) -> None:
    """End what of the run is left here: ansible-playbook outlives a killed server, its workers one that is given up."""
    mark = f"ANSIBLE_CONFIG={os.path.join(folder, 'ansible.cfg')}\0".encode()
    for name in os.listdir("/proc") if os.path.isdir("/proc/self") else ():
        with contextlib.suppress(OSError, ValueError):
            pid = int(name)
            with open(f"/proc/{pid}/environ", "rb") as file:
                if mark in file.read() + b"\0" and pid != os.getpid():
                    os.kill(pid, signal.SIGKILL)


def _close_masters(folder: str) -> None:
    """End the warm connections that ssh keeps for a minute: nothing of a run outlives it."""
    with contextlib.suppress(FileNotFoundError):
        for name in os.listdir(folder):
            argv = ["ssh", "-F", "none", "-o", f"ControlPath={os.path.join(folder, name)}", "-O", "exit", "host"]
            with contextlib.suppress(OSError, subprocess.TimeoutExpired):
                subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=5, check=False)
