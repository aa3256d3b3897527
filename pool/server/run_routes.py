"""Routes about runs: plan, submit, list, stop. Following one is a stream: streams.py."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from starlette.routing import Route

from pool.lifecycle import ports, stop, submit
from pool.lifecycle.follow import states
from pool.lifecycle.streams import own_run, running_job
from pool.runner import frames
from pool.runner.frames import Frame
from pool.server.endpoint import Asked, answers_json, answers_stream, event
from pool.server.views import plan_json, ports_json, run_json
from pool.ssh.identity import public_host_key
from pool.task.check import check_file
from pool.task.options import parse_options

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pool.lifecycle.context import Context


def run_routes(ctx: Context) -> list[Route]:
    """Every route about runs."""

    def runs(asked: Asked) -> list[dict[str, Any]]:
        found = ctx.store.runs.live() if asked.query.get("live") else ctx.store.runs.all()
        return [run_json(run) for run in found]

    def submitted(asked: Asked) -> dict[str, Any]:
        body = asked.body
        return run_json(
            submit.submit(
                ctx,
                _run_asked(asked),
                run_id=str(body["id"]),
                user=asked.user,
                code=body.get("code"),
                repo_id=str(body.get("repo_id") or ""),
            )
        )

    def stopped(asked: Asked) -> dict[str, Any]:
        return run_json(stop.ask(ctx, asked.path["name"], abort=bool(asked.body.get("abort"))))

    def ssh(asked: Asked) -> dict[str, Any]:
        mine = [run for run in ctx.store.runs.live() if run.user == asked.user]
        runs = [{"id": run.id, "name": run.name, "user": run.user, "nodes": run.spec.nodes} for run in mine]
        return {"host_key": public_host_key(ctx.folder), "runs": runs}

    def where(asked: Asked) -> dict[str, Any]:
        job = running_job(own_run(ctx, asked.user, asked.path["name"]), int(asked.query.get("rank") or 0))
        return ctx.keeper.request(str(job.host_id), "where", job=job.id)[0]

    def forwarded(asked: Asked) -> dict[str, Any]:
        options = parse_options({"ports": asked.body["ports"]} if asked.body.get("ports") else {})
        found = ports.forwarded(ctx, asked.user, asked.path["name"], int(asked.body.get("rank") or 0), options)
        return {"ports": ports_json(found)}

    def port_stands(asked: Asked) -> dict[str, Any]:
        return ports.standing(ctx, asked.user, asked.body | {"run": asked.path["name"]})

    return [
        Route("/validate", answers_json(_validated), methods=["POST"]),
        Route("/needed", answers_json(lambda asked: submit.needed(_run_asked(asked))), methods=["POST"]),
        Route("/plan", answers_json(lambda asked: plan_json(submit.plan(ctx, _run_asked(asked)))), methods=["POST"]),
        Route("/runs", answers_json(runs)),
        Route("/runs", answers_json(submitted), methods=["POST"]),
        Route("/runs/{name}", answers_json(lambda asked: run_json(ctx.store.runs.named(asked.path["name"])))),
        Route("/runs/{name}/stop", answers_json(stopped), methods=["POST"]),
        Route("/runs/{name}/ports", answers_json(forwarded), methods=["POST"]),
        Route("/runs/{name}/port", answers_json(port_stands), methods=["POST"]),
        Route("/runs/{name}/where", answers_json(where)),
        Route("/ssh", answers_json(ssh)),
        Route("/runs/{name}/states", answers_stream(lambda asked: _states(ctx, asked))),
    ]


def _validated(asked: Asked) -> list[dict[str, Any]]:
    files = asked.body["files"]
    return [check_file(str(each["text"]).encode(errors="surrogateescape"), str(each["source"])) for each in files]


def _run_asked(asked: Asked) -> submit.Asked:
    body = asked.body
    return submit.Asked(
        text=str(body["text"]).encode(errors="surrogateescape"),
        source=str(body["source"]),
        folder=str(body["folder"]),
        options=parse_options(body.get("options") or {}),
        args=tuple(body.get("args") or ()),
        env=dict(body.get("env") or {}),
    )


def _states(ctx: Context, asked: Asked) -> Iterator[Frame]:
    """The run whenever its state changed; the last frame's head has `end`."""
    run = ctx.store.runs.named(asked.path["name"])
    for item in states(ctx, run):
        yield event({"run": run_json(item)}) if item else Frame(frames.PING, 0, {})
    yield event({"end": run_json(ctx.store.runs.get(run.id))})
