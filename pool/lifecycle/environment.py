"""The variables a job finds: which run, which rank, where its peers are. The table is `README.md`, "Environment"."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pool.host import Host
    from pool.run import Job, Run


def pool_env(run: Run, job: Job, hosts: Sequence[Host], master_port: int) -> dict[str, str]:
    """The variables of `job`; `hosts[rank]` carries each rank. The user's own values win over these on the host."""
    alone = run.spec.nodes == 1 and run.spec.request.runtime == "docker"  # has a network of its own
    ips = ["127.0.0.1" if alone else host.ip or "127.0.0.1" for host in hosts]
    gpus = [len(each.gpus) for each in run.jobs]
    per_node = len(job.gpus)
    env = {
        "DSTACK_RUN_NAME": run.name,
        "DSTACK_REPO_ID": run.repo_id,
        "DSTACK_GPUS_NUM": str(sum(gpus)),
        "DSTACK_GPUS_PER_NODE": str(per_node),
        "DSTACK_NODES_NUM": str(len(ips)),
        "DSTACK_NODE_RANK": str(job.rank),
        "DSTACK_MASTER_NODE_IP": ips[0],
        "DSTACK_NODES_IPS": "\n".join(ips),
        "RUN_NAME": run.name,
        "REPO_ID": run.repo_id,
        "MASTER_ADDR": ips[0],
        "MASTER_PORT": str(master_port),
        "PET_NNODES": str(len(ips)),
        "PET_NODE_RANK": str(job.rank),
        "PET_NPROC_PER_NODE": str(per_node or 1),
        "PET_MASTER_ADDR": ips[0],
        "PET_MASTER_PORT": str(master_port),
    }
    interface = hosts[job.rank].interface
    if len(ips) > 1 and interface:
        env |= {"NCCL_SOCKET_IFNAME": interface, "GLOO_SOCKET_IFNAME": interface}
    return env


def mpi_hosts(run: Run, hosts: Sequence[Host]) -> str:
    """An MPI host file: a line a rank, `ip slots=N`, one slot a GPU, at least one."""
    rows = [f"{host.ip or '127.0.0.1'} slots={len(job.gpus) or 1}\n" for host, job in zip(hosts, run.jobs, strict=True)]
    return "".join(rows)
