"""The last step of provisioning: a real job through the host's real runner, with a GPU where there is a free one.

It goes the way that every job goes - reserve, prepare, start, log, end - but it is in no store: it is the pool's own,
and nothing of it stays on the host.
"""

from __future__ import annotations

import contextlib
import secrets
import time
from typing import TYPE_CHECKING, Any

from pool.errors import HostError, ProvisionError

if TYPE_CHECKING:
    from pool.host import Host
    from pool.lifecycle.context import Context

#: A job that prints two lines has ended by then, also on a host that is busy.
_JOB_S = 60.0
#: What the job does: says which GPU it was given, and, of NVIDIA's, what the driver calls that one.
_SCRIPT = """\
echo "given ${CUDA_VISIBLE_DEVICES:-nothing}"
if [ -n "$CUDA_VISIBLE_DEVICES" ]; then
    timeout 30 nvidia-smi --id="$CUDA_VISIBLE_DEVICES" --query-gpu=uuid --format=csv,noheader
fi
"""


def smoke(ctx: Context, host: Host) -> str:
    """Run the job on `host`, whose link is up; what was seen, for people. HostError when it is not as it should be."""
    view = next(view for view in ctx.store.hosts.views(ctx.foreign) if view.host.id == host.id)
    gpus = [gpu.uuid for gpu in view.free_gpus[:1]]
    job = f"smoke-{secrets.token_hex(6)}"
    try:
        status = _run(ctx, host, job, gpus)
        log = ctx.keeper.request(host.id, "read_log", job=job, offset=0, max=4096)[1].decode(errors="replace")
    finally:
        with contextlib.suppress(HostError):
            _clear(ctx, host, job)
    _judge(host, gpus, status.get("exit") or {}, log.split("\n"))
    if gpus:
        return f"a job ran and saw its GPU and no other: {gpus[0]}"
    return "a job ran" + ("; its GPUs are all in use, so it had none" if view.host.gpus else "")


def _run(ctx: Context, host: Host, job: str, gpus: list[str]) -> dict[str, Any]:
    """The job's status once it has ended; ProvisionError when it does not."""
    task: dict[str, Any] = {"script": _SCRIPT, "shell": "sh", "env": {}, "max_duration_s": _JOB_S}
    ctx.keeper.request(host.id, "reserve", job=job, gpus=gpus, ttl_s=_JOB_S, code=None, port=False)
    ctx.keeper.request(host.id, "prepare", job=job, task=task)
    status = ctx.keeper.request(host.id, "start", job=job)[0]
    deadline = time.monotonic() + _JOB_S
    while status["state"] != "exited":
        if time.monotonic() > deadline:
            raise ProvisionError(f"{host.name}: a job did not end within {_JOB_S:.0f} s", host=host.name)
        ctx.keeper.request(host.id, "read_log", job=job, offset=1 << 30, max=0, wait_s=1.0)
        status = ctx.keeper.request(host.id, "start", job=job)[0]  # of a job that has started it only tells the status
    return status


def _clear(ctx: Context, host: Host, job: str) -> None:
    """Leave nothing of the job, however far it came."""
    try:
        ctx.keeper.request(host.id, "forget", job=job)
    except HostError:
        ctx.keeper.request(host.id, "stop", job=job, abort=True)
        time.sleep(1.0)
        ctx.keeper.request(host.id, "forget", job=job)


def _judge(host: Host, gpus: list[str], ended: dict[str, Any], lines: list[str]) -> None:
    problem = ""
    if ended.get("exit_code") != 0:
        problem = f"exit code {ended.get('exit_code')}, {ended.get('reason') or 'it said: ' + ' '.join(lines)[:200]}"
    elif lines[0] != f"given {gpus[0] if gpus else 'nothing'}":
        problem = f"it was given {lines[0].removeprefix('given ')[:100]}, not {gpus[0] if gpus else 'nothing'}"
    elif gpus and lines[1:2] != gpus:
        problem = f"the driver calls GPU {gpus[0]} {' '.join(lines[1:])[:100] or 'nothing'}"
    if problem:
        raise ProvisionError(
            f"{host.name}: a job on it does not run as it should: {problem}",
            hint=f"pool doctor {host.name}",
            host=host.name,
            step="run a job",
        )
