#!/bin/sh
# pool from nothing to a two-node run and back, on this machine: `make demo`.
#
# Every line that starts with `$` is what you would type; below it stands what it really printed.
# The hosts are real OpenSSH daemons on 127.0.0.11 and 127.0.0.12. All state is in a folder of its own, so your own
# pool is not touched; however this ends, no process and no folder is left.
set -eu
cd "$(dirname "$0")"

POOL_STATE_DIR=$(mktemp -d /tmp/pool-demo.XXXXXX)
# Whatever carries this belongs to the lab in that folder: `pool lab down` ends it, even a server that is stuck.
POOL_LAB=$POOL_STATE_DIR/lab
export POOL_STATE_DIR POOL_LAB

clean_up() {
    code=$?
    trap '' INT TERM HUP
    trap - EXIT
    if [ -d "$POOL_STATE_DIR" ]; then
        [ "$code" -eq 0 ] || printf '\nthe demo ended early (exit code %s); taking everything down\n' "$code" >&2
        pool server stop >/dev/null 2>&1 </dev/null || true
        if [ -e "$POOL_LAB/lab.json" ] && ! pool lab down >/dev/null </dev/null; then
            echo "the lab did not go down; see $POOL_LAB" >&2
            exit 1
        fi
        rm -rf "$POOL_STATE_DIR"
    fi
    exit "$code"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# Show a command as a person types it, then run it.
run() {
    printf '\n$ %s\n' "$*"
    "$@" </dev/null
}

began=$(date +%s)

# Two hosts to play with. In your own pool, these are the servers you have.
run pool lab up --hosts 2 | tee "$POOL_STATE_DIR/lab.txt"

# Make them a pool: Ansible installs the runner on each. The lab has printed the exact lines.
grep 'pool add-ssh' "$POOL_STATE_DIR/lab.txt" >"$POOL_STATE_DIR/add.txt"
while read -r line; do
    eval "run $line"
done <"$POOL_STATE_DIR/add.txt"

run pool ps

# One run on both hosts: the folder is uploaded, both hosts are reserved, the ranks find each other.
run pool run . -f ring.dstack.yml -n ring -y

run pool runs
run pool logs ring

# And everything away again.
run pool rm gpu1 -y
run pool rm gpu2 -y
run pool server stop
run pool lab down
rm -rf "$POOL_STATE_DIR"

printf '\nthe demo took %s s\n' "$(($(date +%s) - began))"
