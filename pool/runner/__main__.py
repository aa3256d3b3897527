"""`pool-runner`: the program on a pool host. `python3 -I -S runner.pyz --state DIR VERB`.

serve       run the runner in the foreground (the systemd unit's command)
start       run it detached unless it runs         stop     end it; jobs run on
start FILE… the same, and anew where it has run since before one of these files was written
restart     stop, then start                       status   one JSON line; exit 3 when it does not run
drain       take no new jobs; running ones go on   undrain  take jobs again; both have --help
facts       what servers see of this host          version  print the version
bridge      what a server's SSH session runs
supervise JOB, forker   internal: run one prepared job; do so for each that is named on stdin
enter JOB FD [WORD…], transfer JOB FD …
                        internal: become the shell of a running job; copy files of a job
"""

from __future__ import annotations

import os
import sys
import time

from pool.runner.version import VERSION


def main(argv: list[str]) -> int:
    """Run one verb; its exit code."""
    if len(argv) < 3 or argv[0] != "--state":
        sys.stderr.write("usage: pool-runner --state DIR VERB\n" + (__doc__ or ""))
        return 2
    state, verb, rest = os.path.abspath(argv[1]), argv[2], argv[3:]
    if verb == "supervise" and len(rest) == 1:
        from pool.runner import supervisor

        return supervisor.main(state, rest[0])
    if verb == "forker" and not rest:
        from pool.runner import forker

        forker.main(state)
    if verb == "enter" and len(rest) >= 2:
        from pool.runner import enter

        return enter.main(state, rest[0], int(rest[1]), rest[2:])
    if verb == "transfer" and len(rest) >= 4:
        from pool.runner import transfer

        transfer.main(state, rest[0], int(rest[1]), rest[2:])
    if verb == "version":
        sys.stdout.write(VERSION + "\n")
        return 0
    if verb in ("drain", "undrain", "status", "facts"):
        from pool.runner import typed

        return typed.main(state, verb, rest)
    if verb == "start":
        return _start(state, rest)
    verbs = {"serve": _serve, "stop": _stop, "restart": _restart, "bridge": _bridge}
    if verb not in verbs or rest:
        sys.stderr.write("pool-runner: unknown verb {}\n".format(" ".join([verb, *rest])))
        return 2
    return verbs[verb](state)


def _serve(state: str) -> int:
    from pool.runner import daemon

    return daemon.serve(state)


def _start(state: str, files: list[str]) -> int:
    from pool.runner import presence

    runs = presence.running(state)
    if runs and not presence.is_older(state, files):
        return 0
    if runs and not presence.stop(state):
        return 1
    deadline = time.monotonic() + 10.0
    started = False
    while not presence.running(state):
        started = started or presence.detach(state)
        if time.monotonic() > deadline:
            sys.stderr.write("pool-runner: did not start; see {}\n".format(os.path.join(state, "runner.log")))
            return 1
        time.sleep(0.02)
    sys.stdout.write("started anew\n" if runs else "started\n")
    return 0


def _stop(state: str) -> int:
    from pool.runner import presence

    return 0 if presence.stop(state) else 1


def _restart(state: str) -> int:
    return _stop(state) or _start(state, [])


def _bridge(state: str) -> int:
    from pool.runner import bridge

    return bridge.main(state)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
