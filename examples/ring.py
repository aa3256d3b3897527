"""A ring all-reduce between the nodes of one run, with the standard library only.

Every node starts with a vector of its own. Afterwards every node has the sum of all of them, and nobody ever had to
hold more than its own vector: each node talks only to its neighbours in the ring, as NCCL does.

    python3 ring.py [--steps N] [--size NUMBERS]

Works with any number of nodes, also one. Exits with 1 when a sum is wrong or a peer does not come.
"""

import argparse
import os
import socket
import struct
import sys
import threading
import time

PATIENCE = 60.0  # seconds: for peers to start, and for any single message


def main():
    """Join the ring, add up vectors, check each sum; the exit code."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--size", type=int, default=100003, help="numbers in the vector")
    options = parser.parse_args()

    rank = int(os.environ.get("DSTACK_NODE_RANK", "0"))
    nodes = int(os.environ.get("DSTACK_NODES_NUM", "1"))
    ips = os.environ.get("DSTACK_NODES_IPS", "127.0.0.1").split()
    master = (os.environ.get("DSTACK_MASTER_NODE_IP", "127.0.0.1"), int(os.environ.get("MASTER_PORT", "29500")))
    gpus = os.environ.get("CUDA_VISIBLE_DEVICES") or "none"
    say(f"I am rank {rank} of {nodes} at {ips[rank]}; my GPUs: {gpus}")

    left, right = join(rank, nodes, ips[rank], master)
    for step in range(1, options.steps + 1):
        # Whole numbers, so that the sum can be checked exactly: rank r holds (r + 1) * (i + step) at place i.
        vector = [float((rank + 1) * (i + step)) for i in range(options.size)]
        began = time.monotonic()
        vector = all_reduce(vector, rank, nodes, left, right)
        took = (time.monotonic() - began) * 1000
        for i, found in enumerate(vector):
            expected = nodes * (nodes + 1) // 2 * (i + step)
            if found != expected:
                say(f"step {step}: WRONG at place {i}: {found}, expected {expected}")
                return 1
        say(f"step {step}: {len(vector)} numbers summed over {nodes} nodes in {took:.1f} ms, correct")
    say(f"done: {options.steps} steps, every sum is correct")
    return 0


def join(rank, nodes, ip, master):
    """Meet the others at the master, then connect to the neighbours: sockets (from the left, to the right)."""
    listener = socket.create_server((ip, 0))
    listener.settimeout(PATIENCE)
    addresses = meet(rank, nodes, listener.getsockname()[:2], master)
    neighbour = addresses[(rank + 1) % nodes]
    right = connect(neighbour)
    left = listener.accept()[0]
    left.settimeout(PATIENCE)
    listener.close()
    say(f"the ring is closed; my right neighbour is {neighbour[0]} port {neighbour[1]}")
    return left, right


def meet(rank, nodes, mine, master):
    """Rank 0 collects where every rank listens and tells everyone: the addresses, by rank."""
    if rank > 0:
        with connect(master) as link, link.makefile("rw") as lines:
            lines.write(f"{rank} {mine[0]} {mine[1]}\n")
            lines.flush()
            answer = [lines.readline().split() for _ in range(nodes)]
            return [(ip, int(port)) for ip, port in answer]
    addresses = {0: mine}
    links = []
    with socket.create_server(master) as door:
        door.settimeout(PATIENCE)
        while len(addresses) < nodes:
            link = door.accept()[0]
            link.settimeout(PATIENCE)
            lines = link.makefile("rw")
            peer, ip, port = lines.readline().split()
            addresses[int(peer)] = (ip, int(port))
            links.append((link, lines))
    for link, lines in links:
        lines.write("".join(f"{addresses[peer][0]} {addresses[peer][1]}\n" for peer in range(nodes)))
        lines.close()
        link.close()
    return [addresses[peer] for peer in range(nodes)]


def connect(address):
    """A connection to a peer, which may need some time to start."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            link = socket.create_connection(address, timeout=PATIENCE)
            link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return link
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def all_reduce(vector, rank, nodes, left, right):
    """The sum of all nodes' vectors, in 2 * (nodes - 1) rounds that each move one part to the right."""
    size = len(vector)
    parts = [vector[size * n // nodes : size * (n + 1) // nodes] for n in range(nodes)]
    for turn in range(nodes - 1):  # after these, this node has the full sum of part rank + 1
        give, take = (rank - turn) % nodes, (rank - turn - 1) % nodes
        received = exchange(parts[give], len(parts[take]), left, right)
        parts[take] = [a + b for a, b in zip(parts[take], received)]
    for turn in range(nodes - 1):  # now the full sums go round
        give, take = (rank + 1 - turn) % nodes, (rank - turn) % nodes
        parts[take] = exchange(parts[give], len(parts[take]), left, right)
    return [number for part in parts for number in part]


def exchange(outgoing, incoming_count, left, right):
    """Send to the right while receiving from the left: if all sent first, all could wait for each other."""
    message = struct.pack(f"!{len(outgoing)}d", *outgoing)
    sender = threading.Thread(target=right.sendall, args=(message,), daemon=True)
    sender.start()
    data = bytearray()
    while len(data) < 8 * incoming_count:
        chunk = left.recv(8 * incoming_count - len(data))
        if not chunk:
            raise ConnectionError("the left neighbour is gone")
        data += chunk
    sender.join()
    return struct.unpack(f"!{incoming_count}d", data)


def say(text):
    """Print a line at once."""
    print(text, flush=True)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (OSError, ValueError) as error:
        say(f"the ring broke: {type(error).__name__}: {error}")
        sys.exit(1)
