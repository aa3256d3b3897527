"""Launch and watch on a real store, with hosts that answer as the test says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pool.errors import ConflictError, DiskFullError, FencedError, PoolError, RunnerError, UnreachableError, parted
from pool.lifecycle import launch, stop, watch
from pool.lifecycle.context import Context
from pool.offer import Offer, Range, Request
from pool.run import Retry, Run
from pool.states import HostStatus, JobStatus
from pool.store.store import Store
from tests.unit.store.test_store import FACTS, GPUS, HOST, run_of

_ELSE = replace(GPUS[0], uuid="GPU-9")
HOSTS = (HOST, replace(HOST, id="h2", name="gpu2", address="10.0.0.2", facts=replace(FACTS, gpus=(_ELSE,))))


class Hosts:
    """The keeper of links to hosts that do as they are told; remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []  #: (host, verb)
        self.answers: dict[tuple[str, str], Any] = {}  #: what (host, verb) answers or raises

    def request(self, host_id: str, verb: str, body: bytes = b"", **head: Any) -> tuple[dict[str, Any], bytes]:
        """As of the real one."""
        self.asked.append((host_id, verb))
        answer = self.answers.get((host_id, verb))
        if isinstance(answer, Exception):
            raise answer
        if verb == "reserve":
            return {"has_code": True, "port": 1234}, b""
        return answer or {"job": head["job"], "state": "running", "started_at": 1.0, "exit": None}, b""

    def verbs(self, host_id: str) -> list[str]:
        """What one host was asked, in order."""
        return [verb for host, verb in self.asked if host == host_id]


@pytest.fixture
def ctx(tmp_path: Path) -> Context:
    """A server with two ready hosts, of two GPUs and of one."""
    made = Context(str(tmp_path), Store(str(tmp_path)), 1)
    made.keeper = Hosts()  # type: ignore[assignment]
    for host in HOSTS:
        made.store.hosts.add(host)
        for to in (HostStatus.PROVISIONING, HostStatus.READY):
            made.store.hosts.move(host.id, to)
    return made


def hosts(ctx: Context) -> Hosts:
    """The stand-in."""
    return ctx.keeper  # type: ignore[return-value]


def gang(ctx: Context, **spec: Any) -> Run:
    """A placed run of two ranks, one on each host."""
    run = run_of("r1", nodes=2, script="true", env={"TOKEN": "canary"}, **spec)
    ctx.store.secrets.keep("r1", run.spec)
    ctx.store.runs.add(run)
    ctx.store.runs.place("r1", [Offer(HOSTS[0], GPUS[:1], 1, 1), Offer(HOSTS[1], (_ELSE,), 1, 1)])
    return ctx.store.runs.get("r1")


def statuses(ctx: Context) -> list[JobStatus]:
    """Of both ranks."""
    return [job.status for job in ctx.store.runs.get("r1").jobs]


def refused(cause: str, **details: Any) -> RunnerError:
    """A refusal as the link raises it."""
    return RunnerError(f"gpu2: {cause}", cause=cause, **details)


def test_nothing_starts_before_all_are_ready(ctx: Context) -> None:
    """Reserve everywhere, prepare everywhere, and only then the first start."""
    launch.launch(ctx, gang(ctx))
    verbs = [verb for _, verb in hosts(ctx).asked]
    assert verbs == ["reserve"] * 2 + ["prepare"] * 2 + ["start"] * 2
    assert statuses(ctx) == [JobStatus.RUNNING] * 2


@pytest.mark.parametrize("verb", ["reserve", "prepare"])
@pytest.mark.parametrize(
    ("error", "to"),
    [
        (UnreachableError("silent"), JobStatus.SUBMITTED),
        (refused("busy", gpus=["GPU-9"]), JobStatus.SUBMITTED),
        (refused("no_such_gpu"), JobStatus.SUBMITTED),
        (refused("not_reserved"), JobStatus.SUBMITTED),
        (refused("bad_manifest"), JobStatus.FAILED),
        (DiskFullError("full", cause="disk_full"), JobStatus.FAILED),
    ],
    ids=lambda value: str(value),
)
def test_a_launch_that_one_host_refuses_is_undone(ctx: Context, verb: str, error: PoolError, to: JobStatus) -> None:
    """Released on both, both ranks in one state, every GPU free, and no start was ever sent."""
    hosts(ctx).answers["h2", verb] = error
    launch.launch(ctx, gang(ctx))
    assert statuses(ctx) == [to] * 2
    assert hosts(ctx).verbs("h1")[-1] == hosts(ctx).verbs("h2")[-1] == "release"
    assert ("h1", "start") not in hosts(ctx).asked
    assert [len(view.free_gpus) for view in ctx.store.hosts.views({})] == [2, 1]
    assert ctx.store.runs.get("r1").jobs[0].reason == str(error)
    kept = (Path(ctx.folder) / "secrets" / "r1.json").exists()
    assert kept == (to == JobStatus.SUBMITTED)


def test_an_undo_moves_all_ranks_or_none(ctx: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed between two ranks it would leave a run that is neither placed nor waiting."""
    run = gang(ctx)
    hosts(ctx).answers["h2", "reserve"] = UnreachableError("silent")
    moves: list[list[str]] = []
    monkeypatch.setattr(ctx.store.runs, "move", lambda *_, **__: pytest.fail("moved one by one"))
    real = ctx.store.runs.move_all
    monkeypatch.setattr(ctx.store.runs, "move_all", lambda ids, *a, **k: (moves.append(ids), real(ids, *a, **k))[1])
    launch.launch(ctx, run)
    assert moves == [["r1-0-1", "r1-1-1"]]


def test_a_refused_gpu_is_not_offered_again_until_the_host_says_so(ctx: Context) -> None:
    """It counts as taken from the refusal to the host's next word about it."""
    hosts(ctx).answers["h2", "reserve"] = refused("busy", gpus=["GPU-9"])
    launch.launch(ctx, gang(ctx))
    assert ctx.foreign == {"h2": frozenset(["GPU-9"])}
    watch.host_event(ctx, HOSTS[1], {"event": "ledger", "held": {"GPU-9": "stranger"}})
    assert ctx.foreign["h2"] == frozenset(["GPU-9"])
    seen = ctx.bell.count
    watch.host_event(ctx, HOSTS[1], {"event": "ledger", "held": {}})
    assert ctx.foreign["h2"] == frozenset()
    assert ctx.bell.count > seen


def test_our_own_gpus_are_not_foreign_while_their_job_lives(ctx: Context) -> None:
    """Once it has ended in the store, what the host still holds for it is not ours to give."""
    gang(ctx)
    event = {"event": "ledger", "held": {"GPU-9": "r1-1-1"}}
    watch.host_event(ctx, HOSTS[1], event)
    assert ctx.foreign.get("h2", frozenset()) == frozenset()
    ctx.store.runs.move("r1-1-1", JobStatus.FAILED)
    watch.host_event(ctx, HOSTS[1], event)
    assert ctx.foreign["h2"] == frozenset(["GPU-9"])


def test_a_replaced_server_undoes_nothing(ctx: Context) -> None:
    """The newer one decides: the older leaves the state as it is."""
    hosts(ctx).answers["h2", "reserve"] = FencedError()
    with pytest.raises(FencedError):
        launch.launch(ctx, gang(ctx))
    assert statuses(ctx) == [JobStatus.PLACED] * 2
    assert "release" not in hosts(ctx).verbs("h1")


def test_a_process_is_told_its_limits_as_a_container_is(ctx: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    """The share that it was given, and the upper ends that were written."""
    prepared, real = [], hosts(ctx).request

    def request(host_id: str, verb: str, *args: Any, **head: Any) -> Any:
        if verb == "prepare":
            prepared.append(head["task"])
        return real(host_id, verb, *args, **head)

    monkeypatch.setattr(hosts(ctx), "request", request)
    launch.launch(ctx, gang(ctx, request=Request(cpus=Range(1, 3), memory_mib=Range(None, 512))))
    shares = [job.cpus for job in ctx.store.runs.get("r1").jobs]
    expected = [{"cpus": share, "cpus_max": 3, "memory_max_mib": 512} for share in shares]
    assert sorted((task["limits"] for task in prepared), key=str) == sorted(expected, key=str)
    assert [task["container"] for task in prepared] == [None] * 2


def in_containers(
    ctx: Context,
    monkeypatch: pytest.MonkeyPatch,
    *pulling: str | Exception | None,
    pins: list[Any] | None = None,
    retry: Retry | None = None,
) -> list[Any]:
    """A gang of containers; host h2 tells `pulling`, one after the other, before it has the image. What is prepared."""
    pins = [] if pins is None else pins
    answers, prepared, real = list(pulling), [], hosts(ctx).request

    def request(host_id: str, verb: str, *args: Any, **head: Any) -> Any:
        if verb == "image":
            hosts(ctx).asked.append((host_id, verb))
            assert (head["name"], head["login"]) == ("reg/x:1", ["ann", "canary"])
            told = answers.pop(0) if host_id == "h2" and answers else None
            pins.append((host_id, head["pinned"]))
            if isinstance(told, Exception):
                raise told
            settled = "reg/x@sha256:1" if head["pinned"] is None else head["pinned"]
            return {"image": None if told else f"sha256:{host_id}", "progress": told, "pinned": settled}, b""
        if verb == "prepare":
            prepared.append(head["task"])
        return real(host_id, verb, *args, **head)

    monkeypatch.setattr(hosts(ctx), "request", request)
    spec = {
        "image": "reg/x:1",
        "registry_auth": ("ann", "canary"),
        "request": Request(runtime="docker"),
        "retry": retry,
    }
    launch.launch(ctx, gang(ctx, **spec))
    return prepared


def test_containers_wait_until_every_host_has_the_image(ctx: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    """Meanwhile the reservations are renewed, and how far it is stands with the rank; each host names its own."""
    noted: list[tuple[str, str]] = []
    real = ctx.store.runs.note
    monkeypatch.setattr(ctx.store.runs, "note", lambda *words: (noted.append(words), real(*words)))
    prepared = in_containers(ctx, monkeypatch, "pulling 1 of 2", "pulling 2 of 2")
    assert noted == [("r1-1-1", "pulling 1 of 2"), ("r1-1-1", "pulling 2 of 2")]
    assert hosts(ctx).verbs("h1") == ["reserve", "image", "reserve", "reserve", "prepare", "start"]
    assert hosts(ctx).verbs("h2") == ["reserve", "image", "reserve", "image", "reserve", "image", "prepare", "start"]
    assert sorted(task["container"]["id"] for task in prepared) == ["sha256:h1", "sha256:h2"]
    assert {task["container"]["network"] for task in prepared} == {"host"}
    assert "canary" not in str([task["container"] for task in prepared])
    assert [(job.status, job.reason) for job in ctx.store.runs.get("r1").jobs] == [(JobStatus.RUNNING, None)] * 2


def test_an_image_that_cannot_be_had_fails_the_run(ctx: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the host's cause; nothing was prepared anywhere, and all is given back."""
    in_containers(ctx, monkeypatch, "pulling", refused("no_such_image"))
    assert statuses(ctx) == [JobStatus.FAILED] * 2
    message, hint = parted(str(ctx.store.runs.get("r1").jobs[0].reason))
    assert (message, str(hint).split("  ")[0]) == ("gpu2: no_such_image", "docker manifest inspect reg/x:1")
    assert "prepare" not in hosts(ctx).verbs("h1")
    assert hosts(ctx).verbs("h1")[-1] == hosts(ctx).verbs("h2")[-1] == "release"


def test_the_first_host_settles_the_name_for_all(ctx: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked first, and once; also a launch that was cut off and is done again goes by what it said then."""
    pins: list[tuple[str, str | None]] = []
    in_containers(ctx, monkeypatch, "pulling", pins=pins)
    assert pins == [("h1", None), ("h2", "reg/x@sha256:1"), ("h2", "reg/x@sha256:1")]
    assert ctx.store.runs.get("r1").spec.pinned == ("reg/x@sha256:1", "")


def test_a_later_attempt_has_the_same_image(ctx: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run is one image from its first launch on."""
    pins: list[tuple[str, str | None]] = []
    in_containers(ctx, monkeypatch, UnreachableError("silent"), pins=pins)
    assert statuses(ctx) == [JobStatus.SUBMITTED] * 2
    ctx.store.runs.place("r1", [Offer(HOSTS[0], GPUS[:1], 1, 1), Offer(HOSTS[1], (_ELSE,), 1, 1)])
    pins.clear()
    launch.launch(ctx, ctx.store.runs.get("r1"))
    assert sorted(pins) == [("h1", "reg/x@sha256:1"), ("h2", "reg/x@sha256:1")]
    assert statuses(ctx) == [JobStatus.RUNNING] * 2


@pytest.mark.parametrize("retry", [None, Retry(("error",), 60)])
def test_a_login_is_forgotten_with_the_pull(ctx: Context, monkeypatch: pytest.MonkeyPatch, retry: Retry | None) -> None:
    """What else the run needs to start is kept until its end; and the login where another attempt may need it."""
    in_containers(ctx, monkeypatch, retry=retry)
    kept = ctx.store.secrets.read("r1")
    assert kept.registry_auth == (("ann", "canary") if retry else None)
    assert kept.env == {"TOKEN": "canary"}


def test_a_stop_ends_the_wait_for_an_image(ctx: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    """No host is asked for it again."""
    real = ctx.store.runs.note

    def note(job: str, text: str) -> None:
        real(job, text)
        ctx.store.runs.ask_stop("r1", "stop")

    monkeypatch.setattr(ctx.store.runs, "note", note)
    in_containers(ctx, monkeypatch, "pulling", "pulling")
    assert hosts(ctx).verbs("h2").count("image") == 1
    assert "prepare" not in hosts(ctx).verbs("h1")


def test_a_silent_start_is_not_known(ctx: Context) -> None:
    """It stays `starting` until its host tells; nothing is undone, nothing is started elsewhere."""
    hosts(ctx).answers["h2", "start"] = UnreachableError("silent")
    launch.launch(ctx, gang(ctx))
    assert statuses(ctx) == [JobStatus.RUNNING, JobStatus.STARTING]
    hosts(ctx).answers.clear()
    launch.launch(ctx, ctx.store.runs.get("r1"))
    assert statuses(ctx) == [JobStatus.RUNNING] * 2
    assert hosts(ctx).verbs("h2") == ["reserve", "prepare", "start", "start"]


def test_a_refused_start_fails_its_rank_and_stops_the_others(ctx: Context) -> None:
    """The peers are asked to stop, with the reason."""
    hosts(ctx).answers["h2", "start"] = refused("launch")
    launch.launch(ctx, gang(ctx))
    run = ctx.store.runs.get("r1")
    assert statuses(ctx) == [JobStatus.RUNNING, JobStatus.FAILED]
    why = stop.why_to_stop(run)
    assert why == ("rank 1 failed", False)
    stop.stop(ctx, run, why[0], abort=why[1])
    assert hosts(ctx).verbs("h1")[-1] == "stop"
    assert statuses(ctx) == [JobStatus.STOPPING, JobStatus.FAILED]


def test_a_lost_folder_fails_the_run(ctx: Context) -> None:
    """The archive is no longer on the server: said once, not tried for ever."""
    run = replace(run_of("r1", nodes=1, script="true"), code="c" * 64)
    ctx.store.secrets.keep("r1", run.spec)
    ctx.store.runs.add(run)
    ctx.store.runs.place("r1", [Offer(HOSTS[0], (), 1, 1)])
    real = hosts(ctx).request

    def request(host_id: str, verb: str, *args: Any, **head: Any) -> Any:
        answer = real(host_id, verb, *args, **head)
        return ({"has_code": False, "port": 1}, b"") if verb == "reserve" else answer

    hosts(ctx).request = request  # type: ignore[method-assign]
    launch.launch(ctx, ctx.store.runs.get("r1"))
    assert statuses(ctx) == [JobStatus.FAILED]
    assert "no longer on the server" in str(ctx.store.runs.get("r1").jobs[0].reason)


@pytest.mark.parametrize(
    ("ended", "to", "code"),
    [
        ({"exit_code": 0, "reason": None}, JobStatus.DONE, 0),
        ({"exit_code": 3, "reason": None}, JobStatus.FAILED, 3),
        ({"exit_code": None, "reason": "supervisor_lost"}, JobStatus.FAILED, None),
        ({"exit_code": 130, "reason": "max_duration"}, JobStatus.FAILED, 130),
        ({"exit_code": None, "reason": "host_reboot"}, JobStatus.INTERRUPTED, None),
        ({"exit_code": 130, "reason": "stopped"}, JobStatus.STOPPED, 130),
        ({"exit_code": 137, "reason": "aborted"}, JobStatus.STOPPED, 137),
        ({"exit_code": None, "reason": "cannot start: no such file"}, JobStatus.FAILED, None),
    ],
    ids=str,
)
@pytest.mark.parametrize("before", [JobStatus.STARTING, JobStatus.RUNNING], ids=str)
def test_an_end_is_taken_as_it_was_told(
    ctx: Context, before: JobStatus, ended: dict[str, Any], to: JobStatus, code: int | None
) -> None:
    """From an event, from an answer, and told twice: one end, and the first stays."""
    gang(ctx)
    ctx.store.runs.move_all(["r1-0-1", "r1-1-1"], JobStatus.STARTING)
    if before == JobStatus.RUNNING:
        ctx.store.runs.move("r1-0-1", JobStatus.RUNNING)
    told = {"job": "r1-0-1", "state": "exited", "started_at": 1.0, "exit": {**ended, "at": 2.0, "log_bytes": 7}}
    watch.host_event(ctx, HOSTS[0], {"event": "job", **told})
    watch.observe(ctx, "r1-0-1", {**told, "exit": {**told["exit"], "exit_code": 99}})  # type: ignore[dict-item]
    job = ctx.store.runs.job("r1-0-1")
    assert (job.status, job.exit_code, job.log_bytes, job.finished_at) == (to, code, 7, 2.0)


def test_an_event_about_anothers_job_is_passed_over(ctx: Context) -> None:
    """A host may only speak of jobs that are on it."""
    gang(ctx)
    ctx.store.runs.move_all(["r1-0-1", "r1-1-1"], JobStatus.STARTING)
    watch.host_event(ctx, HOSTS[1], {"event": "job", "job": "r1-0-1", "state": "running", "started_at": 1.0})
    watch.host_event(ctx, HOSTS[1], {"event": "job", "job": "unknown", "state": "running", "started_at": 1.0})
    watch.host_event(ctx, HOSTS[1], {"event": "other"})
    assert statuses(ctx) == [JobStatus.STARTING] * 2


def test_a_stop_before_the_start_is_at_once(ctx: Context) -> None:
    """What is placed is given back; a silent host frees it by itself."""
    run = gang(ctx)
    hosts(ctx).answers["h2", "release"] = UnreachableError("silent")
    stop.ask(ctx, "r1", abort=False)
    run = ctx.store.runs.get("r1")
    stop.stop(ctx, run, None, abort=False)
    assert statuses(ctx) == [JobStatus.STOPPED] * 2
    assert not (Path(ctx.folder) / "secrets" / "r1.json").exists()
    with pytest.raises(ConflictError):
        ctx.store.runs.move("r1-0-1", JobStatus.STARTING)


def test_what_an_undo_could_not_give_back_is_given_back_once_the_host_is_there(ctx: Context) -> None:
    """A reservation, a prepared folder, a job that runs: of a run that has ended or is elsewhere; others are left."""
    run = gang(ctx)
    for number, status in ((2, JobStatus.PLACED), (3, JobStatus.STOPPED)):
        other = ctx.store.runs.add(run_of(f"r{number}"))
        ctx.store.runs.place(other.id, [Offer(HOSTS[1], (), 1, 1)])
        if status != JobStatus.PLACED:
            ctx.store.runs.move(other.jobs[0].id, status)
    ours = {"pool": ctx.store.pool_id, "gpus": ["GPU-9"], "state": "reserved"}
    ledger = {
        "r1-0-1": ours,  # placed on the other host
        "r1-1-1": ours | {"gpus": []},  # placed here
        "r2-0-1": ours | {"gpus": []},
        "r3-0-1": ours | {"gpus": []},  # ended
        "gone": ours | {"gpus": []},  # not in the store
    }
    prepared = {"job": "r3-0-1", "state": "prepared", "started_at": None, "exit": None}
    asked: list[tuple[str, str]] = []

    class Link:
        """Answers `jobs`, remembers the rest."""

        target = HOSTS[1]

        def request(self, verb: str, **head: Any) -> tuple[dict[str, Any], bytes]:
            """As of the real one."""
            if verb != "jobs":
                asked.append((verb, head["job"]))
            return {"boot": "b", "jobs": [prepared], "ledger": ledger, "held": {"GPU-9": "r1-0-1"}}, b""

    watch.reconcile(ctx, HOSTS[1], Link())  # type: ignore[arg-type]
    assert sorted(asked) == [("release", "r1-0-1"), ("release", "r3-0-1")]
    assert statuses(ctx) == [job.status for job in run.jobs]
