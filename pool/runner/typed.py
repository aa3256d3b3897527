"""What a person or a playbook types on the host: `pool-runner drain`, `undrain`, `status`, `facts`.

Where the runner runs it is asked, and tells every server at once; where it does not, its file is changed under its
lock, and it reads that at its start.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import pwd
import sys
import time
from typing import Any, Iterator

from pool.runner import durable, presence
from pool.runner.ask import ask
from pool.runner.drain import Drain, sentence
from pool.runner.ledger import RefusedError
from pool.runner.version import VERSION

_ANSWER_S = 5.0
#: A runner that is just being restarted is waited for.
_RESTART_S = 10.0
_LOOK_EVERY_S = 1.0
#: `drain --wait`: jobs were still there when the time was up. The host stays drained.
BUSY = 4
_EXAMPLES = {
    "drain": """\
examples:
  pool-runner drain --reason 'new fans'     no new jobs on this host; those that run go on
  pool-runner drain --wait 3600             and wait until none is left, an hour at most (exit code 4: some are)
  pool-runner drain --by site.yml --json    a drain of its own, which `undrain --by site.yml` takes back
""",
    "undrain": """\
examples:
  pool-runner undrain                  take new jobs again, whoever drained the host
  pool-runner undrain --by site.yml    take back that drain alone; another's stays
""",
    "status": """\
examples:
  pool-runner status --json    whether the runner runs (exit code 3: no), who drains the host, its jobs
""",
    "facts": """\
examples:
  pool-runner facts --json    the host as servers see it: CPUs, memory, disk, addresses, GPUs or why there are none
""",
}


def main(state: str, verb: str, words: list[str]) -> int:
    """Run one of the verbs; its exit code."""
    asked = _parser(verb).parse_args(words)
    try:
        if verb == "status":
            return _status(state)
        if verb == "facts":
            from pool.runner import probe

            sys.stdout.write(json.dumps(probe.facts(state)) + "\n")
            return 0
        if verb == "undrain":
            return _say(asked, _change(state, "undrain", by=asked.by))
        answer = _change(state, "drain", by=asked.by or _user(), reason=asked.reason)
        if asked.wait is None:
            return _say(asked, answer)
        return _wait(state, asked, answer)
    except KeyboardInterrupt:
        sys.stderr.write("\npool-runner: the host stays drained\ntry: pool-runner undrain\n")
        return 130
    except (RefusedError, OSError) as error:
        sys.stderr.write("pool-runner: {}\n".format(error))
        if isinstance(error, PermissionError):
            sys.stderr.write("try: sudo pool-runner {}\n".format(verb))
        return 1


def _parser(verb: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pool-runner {}".format(verb),
        epilog=_EXAMPLES[verb],
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    if verb in ("drain", "undrain"):
        parser.add_argument("--by", metavar="WHO", help="whose drain it is; of drain: your login name by default")
    if verb == "drain":
        parser.add_argument("--reason", default="", help="why, for everyone who looks at the host")
        parser.add_argument("--wait", type=float, metavar="SECONDS", help="wait until no job is left, so long at most")
    return parser


def _status(state: str) -> int:
    who = presence.running(state)
    answer = {"version": VERSION, "running": bool(who), "pid": who["pid"] if who else None, **_standing(state)}
    sys.stdout.write(json.dumps(answer) + "\n")
    return 0 if who else 3


def _standing(state: str) -> dict[str, Any]:
    """Who drains the host and its jobs, as its runner says; where none answers, as its files do."""
    with contextlib.suppress(RefusedError, OSError):
        return ask(state, "standing", _ANSWER_S)
    ledger: dict[str, Any] = {}
    with contextlib.suppress(PermissionError):
        ledger = durable.read_json(os.path.join(state, "ledger.json")) or {}
    return {"drain": Drain(state).told, "jobs": sorted(ledger.get("jobs") or {})}


def _change(state: str, verb: str, **asked: Any) -> dict[str, Any]:
    deadline = time.monotonic() + _RESTART_S
    while True:
        try:
            return ask(state, verb, _ANSWER_S, **asked)
        except (ConnectionRefusedError, FileNotFoundError):
            with _stopped(state) as stopped:
                if stopped:
                    drain = Drain(state)
                    changed = drain.begin(**asked) if verb == "drain" else drain.end(**asked)
                    return {"changed": changed, **_standing(state)}
            if time.monotonic() > deadline:
                raise
        time.sleep(0.1)


@contextlib.contextmanager
def _stopped(state: str) -> Iterator[bool]:
    """True inside while no runner serves the folder, and none can begin to."""
    lock = presence.take(os.path.join(state, presence.LOCK))
    try:
        yield lock is not None
    finally:
        if lock is not None:
            os.close(lock)


def _wait(state: str, asked: argparse.Namespace, answer: dict[str, Any]) -> int:
    """Until no job is left; what is waited for is told on stderr whenever it changes."""
    deadline, seen = time.monotonic() + asked.wait, None
    while answer["jobs"] and time.monotonic() < deadline:
        if answer["jobs"] != seen:
            seen = answer["jobs"]
            sys.stderr.write("waiting for {}\n".format(_jobs(seen)))
            sys.stderr.flush()
        time.sleep(_LOOK_EVERY_S)
        answer = {**answer, **_standing(state)}
    _say(asked, answer)
    if answer["jobs"]:
        sys.stderr.write("pool-runner: after {:g} s there are still {}\n".format(asked.wait, _jobs(answer["jobs"])))
    return BUSY if answer["jobs"] else 0


def _say(asked: argparse.Namespace, answer: dict[str, Any]) -> int:
    why = sentence(answer["drain"])
    if asked.json:
        sys.stdout.write(json.dumps({**answer, "drained": bool(why), "reason": why}) + "\n")
    elif why:
        sys.stdout.write("drained: {}; {} here\n".format(why, _jobs(answer["jobs"])))
    else:
        sys.stdout.write("takes jobs; {} here\n".format(_jobs(answer["jobs"])))
    return 0


def _jobs(jobs: list[str]) -> str:
    return "no job" if not jobs else "job {}".format(jobs[0]) if len(jobs) == 1 else "{} jobs".format(len(jobs))


def _user() -> str:
    """Who types: also through sudo."""
    name = os.environ.get("SUDO_USER")
    try:
        return name or pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())
