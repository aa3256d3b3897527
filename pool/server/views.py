"""What the server answers: hosts, runs and plans as JSON. The shapes here are the `--json` output of the CLI."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pool.states import FINISHED

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pool.host import Gpu, HostView
    from pool.lifecycle.submit import Plan
    from pool.offer import Offer, Refusal
    from pool.run import Job, Port, Run


def host_json(view: HostView) -> dict[str, Any]:
    """One host, with what of it is free. Memory and disk in MiB."""
    host, facts = view.host, view.host.facts
    free = {gpu.uuid for gpu in view.free_gpus}
    return {
        "name": host.name,
        "address": host.address,
        "port": host.port,
        "user": host.user,
        "login": host.login or host.user,
        "jumps": [{"address": hop.address, "port": hop.port, "user": hop.user} for hop in host.jumps or ()],
        "pool": host.pool,
        "region": host.region,
        "network": host.network,
        "ip": host.ip,
        "status": str(host.status),
        "reason": host.reason,
        "gpus": [_gpu_json(gpu) | {"free": gpu.uuid in free} for gpu in host.gpus],
        "gpus_free": len(free),
        "gpus_total": len(host.gpus),
        "gpu_problem": facts.gpu_problem if facts else None,
        "cpus": facts.cpus if facts else None,
        "cpus_free": view.free_cpus if facts else None,
        "memory_mib": facts.memory_mib if facts else None,
        "memory_free_mib": view.free_memory_mib if facts else None,
        "disk_free_mib": facts.disk_free_mib if facts else None,
        "os": facts.os if facts else None,
        "docker": facts.docker if facts else None,
        "driver": facts.driver if facts else None,
        "labels": dict(host.labels),
        "jobs": view.jobs,
    }


def run_json(run: Run) -> dict[str, Any]:
    """One run with its jobs. Times are Unix seconds."""
    return {
        "id": run.id,
        "name": run.name,
        "user": run.user,
        "type": run.spec.type,
        "ide": run.spec.ide,
        "status": str(run.status),
        "finished": run.finished,
        "exit_code": run.exit_code,
        "nodes": run.spec.nodes,
        "submitted_at": run.submitted_at,
        "folder": run.folder,
        "stop_asked": run.stop_asked,
        "image": _image_json(run),
        "ports": ports_json(run.spec.ports),
        "jobs": [job_json(job) for job in run.jobs],
    }


def ports_json(ports: Iterable[Port]) -> list[dict[str, Any]]:
    """Ports to forward; `local` is null where any free one will do."""
    return [{"container": port.container, "local": port.local} for port in ports]


def _image_json(run: Run) -> dict[str, Any] | None:
    """The image of a run in containers: as it was written, as all ranks have it, and what to say of that."""
    if run.spec.request.runtime != "docker":
        return None
    pinned, said = run.spec.pinned or ("", "")
    return {"name": run.spec.image, "pinned": pinned or None, "said": said or None}


def job_json(job: Job) -> dict[str, Any]:
    """One job; `shown` is its status for people, `running?` when its host does not answer."""
    unsure = job.unreachable and job.status not in FINISHED
    return {
        "id": job.id,
        "rank": job.rank,
        "attempt": job.attempt,
        "status": str(job.status),
        "shown": f"{job.status}?" if unsure else str(job.status),
        "host": job.host_name,
        "gpus": list(job.gpus),
        "exit_code": job.exit_code,
        "reason": job.reason,
        "started_at": job.started_at,
        "finished_at": job.finished_at,
        "log_bytes": job.log_bytes,
        "log_sha256": job.log_sha256,
    }


def plan_json(plan: Plan) -> dict[str, Any]:
    """A plan: the task, each rank's offer, and why the other hosts are not taken."""
    spec, answer = plan.spec, plan.answer
    return {
        "type": spec.type,
        "name": spec.name,
        "nodes": spec.nodes,
        "runtime": spec.request.runtime,
        "image": spec.image,
        "max_duration_s": spec.max_duration_s,
        "inactivity_s": spec.inactivity_s,
        "ports": ports_json(spec.ports),
        "notes": list(spec.notes),
        "files": list(spec.files),
        "request": _request_json(plan),
        "offers": [_offer_json(rank, offer) for rank, offer in enumerate(plan.offers)],
        "refusals": [_refusal_json(refusal) for refusal in plan.refusals],
        "reason": getattr(answer, "reason", None),
        "suggestion": getattr(answer, "suggestion", None),
        "waits": getattr(answer, "waits", False),
    }


def _request_json(plan: Plan) -> dict[str, Any]:
    request = plan.spec.request
    gpu = request.gpu
    return {
        "cpu": _range(request.cpus),
        "memory_mib": _range(request.memory_mib),
        "disk_mib": _range(request.disk_mib),
        "gpu": None
        if gpu is None
        else {
            "count": _range(gpu.count),
            "name": list(gpu.names),
            "memory_mib": _range(gpu.memory_mib),
            "total_memory_mib": _range(gpu.total_memory_mib),
            "compute_capability": gpu.compute_capability,
            "vendor": gpu.vendor,
        },
    }


def _range(value: Any) -> dict[str, float | None] | None:
    return None if value is None else {"min": value.min, "max": value.max}


def _offer_json(rank: int, offer: Offer) -> dict[str, Any]:
    return {
        "rank": rank,
        "host": offer.host.name,
        "ip": offer.host.ip,
        "instance_type": offer.host.instance_type,
        "cpus": offer.cpus,
        "memory_mib": offer.memory_mib,
        "gpus": [_gpu_json(gpu) for gpu in offer.gpus],
        "price": offer.host.price,
    }


def _refusal_json(refusal: Refusal) -> dict[str, Any]:
    misses = [{"requirement": m.requirement, "asks": m.asks, "has": m.has} for m in refusal.misses]
    return {"host": refusal.host.name, "busy": refusal.busy, "misses": misses}


def _gpu_json(gpu: Gpu) -> dict[str, Any]:
    return {"uuid": gpu.uuid, "name": gpu.name, "memory_mib": gpu.memory_mib, "index": gpu.index}
