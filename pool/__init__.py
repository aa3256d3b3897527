"""pool: a few GPU servers in a lab become one pool.

The map, top down; imports only ever go down (tests/unit/test_architecture.py holds it):

    cli/         what a person types: parse, one call, render
    client.py    the server's socket, for the CLI and as the Python SDK
    inside/      what is inside of a running job, from the client's end: its ports, programs and files
    folder/      the folder that a run takes along: what git sees of it, what is new in it, sent
    server/      HTTP over a Unix socket, start and stop
    lifecycle/   the only place that decides and acts: submit, place, launch, watch, stop
    scheduler/   pure: which hosts could take a request, which are best, all N or none
    store/       tables, migrations, queries
    ssh/         destinations, host keys, connections, the link to a host's runner
    provision/   inventory and playbooks, run by ansible-runner
    task/        the file a person writes: schema, resources, interpolation, YAML
    host.py run.py offer.py    the nouns: frozen values
    config.py    where things are
    states.py errors.py        legal moves; one tree of errors with exit codes
    runner/      the program on each host: standard library only, imports nothing else of pool
    lab/         real sshd hosts on this machine, to try things and to test
"""

__version__ = "0.1.0"
