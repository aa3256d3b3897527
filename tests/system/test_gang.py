"""A run over two machines: the ranks find each other over the machines' own network."""

from __future__ import annotations

from tests.system.site import Site

# Rank 0 listens where the variables say, rank 1 connects; both tell what they were given.
_MEET = """python3 - <<'END'
import os, socket
rank, where = int(os.environ["DSTACK_NODE_RANK"]), (os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))
print(os.environ["NCCL_SOCKET_IFNAME"], os.environ["GLOO_SOCKET_IFNAME"], os.environ["DSTACK_NODES_IPS"].split())
if rank == 0:
    with socket.create_server(where) as server:
        server.settimeout(60)
        peer, address = server.accept()
        peer.sendall(b"met"); print("met", address[0])
else:
    for _ in range(600):
        try:
            peer = socket.create_connection(where, timeout=5); break
        except OSError:
            import time; time.sleep(0.1)
    print(peer.recv(3).decode(), peer.getpeername()[0])
END"""


def test_ranks_meet_over_the_hosts_own_network(site: Site) -> None:
    """The interface is the one that has the hosts' addresses, though each host has a docker0 with an address, too."""
    one, two = (host.address for host in site.hosts.values())
    for name in site.hosts:  # before eth0 in the alphabet, and the same address on every machine, as Docker has it
        site.on(
            name, "ip link add docker0 type bridge && ip addr add 172.17.0.1/16 dev docker0 && ip link set docker0 up"
        )
    try:
        for name in site.hosts:  # the runner tells its addresses when its link comes up
            site.on(name, "systemctl restart pool-runner.service")
        site.settle()
        site.run("gang", _MEET, nodes=2)
        assert site.end_of("gang")["status"] == "done", (site.log("gang", 0), site.log("gang", 1))
        given = f"eth0 eth0 ['{one}', '{two}']\n"
        if site.job("gang", 0)["host"] == "node2":
            one, two = two, one
            given = f"eth0 eth0 ['{one}', '{two}']\n"
        assert site.log("gang", 0).decode() == f"{given}met {two}\n"
        assert site.log("gang", 1).decode() == f"{given}met {one}\n"
    finally:
        for name in site.hosts:
            site.on(name, "ip link delete docker0")
