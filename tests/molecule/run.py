"""Runs the roles' molecule scenarios, `roles/ROLE/molecule/SCENARIO/`, two at a time: one line a step, the whole log in
a file each.

    python tests/molecule/run.py                     all but those of OPT_IN
    python tests/molecule/run.py docker              those of one role, OPT_IN too
    python tests/molecule/run.py docker/adopt        one
    python tests/molecule/run.py docker/adopt login  another verb of molecule's than `test`, in the foreground

Their hosts are whole machines of pool's system lab, so it takes root; without, one line says what was not run.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
#: What each scenario keeps while it runs, and its log.
KEPT = ROOT / ".lab" / "molecule"
#: Scenarios that only run when they are asked for, each with the reason.
OPT_IN = {"nvidia_driver/real": "it builds NVIDIA's real module, which takes about 20 minutes"}
#: They mostly wait for their hosts.
AT_ONCE = 2
_STEP = re.compile(r"INFO\s+\[\w+ > (\w+)\] (Executing|Executed: [A-Z]\w+)")


def main(words: list[str]) -> int:
    """Run what `words` ask for; 0 when all of it passed."""
    there = sorted(f"{path.parts[-4]}/{path.parts[-2]}" for path in ROOT.glob("roles/*/molecule/*/molecule.yml"))
    asked = words[0] if words else ""
    chosen = [name for name in there if asked in (name, name.split("/")[0])] if asked else there
    if not chosen:
        print(f"no scenario is called {asked}; there are: {', '.join(there)}", file=sys.stderr)
        return 2
    left_out = [name for name in chosen if not asked and name in OPT_IN]
    chosen = [name for name in chosen if name not in left_out]
    if os.geteuid() != 0:
        print(f"molecule was not run ({', '.join(chosen)}): it needs root, for hosts that systemd runs in")
        return 0
    if words[1:]:
        return _molecule(chosen[0], words[1:]).wait()
    failed = _test_all(chosen)
    for name in left_out:
        print(f"{name} was not run: {OPT_IN[name]}; make molecule ROLE={name}")
    print(f"molecule: {len(chosen) - len(failed)} of {len(chosen)} scenarios passed")
    return 1 if failed else 0


def _test_all(names: list[str]) -> list[str]:
    """Run these; the names of those that failed."""
    with ThreadPoolExecutor(AT_ONCE) as workers:
        tests = {name: workers.submit(_test, name) for name in names}
        try:
            return [name for name, test in tests.items() if not test.result()]
        except KeyboardInterrupt:  # molecule has heard it too, and leaves its hosts
            workers.shutdown(cancel_futures=True)
            for name in (name for name, test in tests.items() if not test.cancelled()):
                _molecule(name, ["destroy"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).wait()
            raise


def _test(name: str) -> bool:
    """Run one scenario from nothing to nothing; its steps are said as they end, its log where it fails."""
    log, started = KEPT / f"{name.replace('/', '-')}.log", time.monotonic()
    log.parent.mkdir(parents=True, exist_ok=True)
    print(f"{name}  log: {log.relative_to(ROOT)}", flush=True)
    molecule, since = _molecule(name, ["test"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT), started
    with log.open("w", buffering=1, encoding="utf-8") as file:
        for line in molecule.stdout or ():
            file.write(line)
            step = _STEP.match(line)
            if step and step[2] == "Executing":
                since = time.monotonic()
            elif step:
                print(f"{name}  {step[1]:<12} {time.monotonic() - since:4.0f} s  {step[2][10:]}", flush=True)
    passed = molecule.wait() == 0
    if not passed:
        print("\n".join(log.read_text(encoding="utf-8").splitlines()[-120:]))
    print(f"{name}  {'passed' if passed else 'FAILED'} in {time.monotonic() - started:.0f} s", flush=True)
    return passed


def _molecule(name: str, words: list[str], **options: int) -> subprocess.Popen[str]:
    """Start molecule with what it keeps in a folder of this checkout's own, and programs found in this environment."""
    role, scenario = name.split("/")
    kept = KEPT / f"{role}-{scenario}"
    kept.mkdir(parents=True, exist_ok=True)
    path = os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", os.defpath)])
    env = os.environ | {"PATH": path, "MOLECULE_EPHEMERAL_DIRECTORY": str(kept), "NO_COLOR": "1"}
    config = ROOT / ".config" / "molecule" / "config.yml"
    argv = ["molecule", "--base-config", str(config), words[0], "--scenario-name", scenario, *words[1:]]
    return subprocess.Popen(argv, cwd=ROOT / "roles" / role, env=env, text=True, **options)  # type: ignore[call-overload,no-any-return]


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
