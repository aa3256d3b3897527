"""Routes about hosts: list, look at a destination, add, provision again, check, ways in, drain, remove."""

from __future__ import annotations

import os
import queue
import threading
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from starlette.routing import Route

from pool.errors import InputError, PoolError
from pool.lifecycle import drain
from pool.lifecycle.add import Sight, Wanted, add, look
from pool.lifecycle.assemble import known_hosts
from pool.lifecycle.doctor import Checked, doctor
from pool.lifecycle.inventory import wishes_in
from pool.lifecycle.provision import Added, Manner, provision
from pool.lifecycle.remove import remove
from pool.lifecycle.wish import host_wished
from pool.provision.playbook import content
from pool.provision.survey import ROLES
from pool.runner import frames
from pool.runner.frames import Frame
from pool.server.endpoint import Asked, answers_json, answers_stream, event
from pool.server.inventory import ansible_inventory
from pool.server.ssh import ssh_words
from pool.server.views import host_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pool.host import Host
    from pool.lifecycle.context import Context
    from pool.lifecycle.keys import KeySeen
    from pool.provision.preflight import Scope
    from pool.provision.progress import StepEvent

#: Without a step for this long a frame is sent all the same, so that a reader that has gone is noticed.
_QUIET_S = 5.0


def host_routes(ctx: Context) -> list[Route]:
    """Every route about hosts."""

    def hosts(_: Asked) -> list[dict[str, Any]]:
        return [host_json(view) for view in ctx.store.hosts.views(ctx.foreign)]

    def looked(asked: Asked) -> list[dict[str, Any]]:
        wishes = [host_wished(wish) for wish in asked.body["hosts"]]  # all of them, before any is asked
        _refuse_twice([host for host, _ in wishes])
        looks = [
            (host, wish.get("fingerprint"), _prints(wish))
            for (host, _), wish in zip(wishes, asked.body["hosts"], strict=True)
        ]
        seen = ctx.every(lambda each: look(ctx, *each), looks)
        return [_sight_json(*each) for each in zip(wishes, seen, strict=True)]

    def drained(asked: Asked) -> dict[str, Any]:
        done = drain.drain(ctx, asked.path["name"], by=asked.user, reason=str(asked.body.get("reason") or ""))
        return done | {"host": _host(ctx, asked.path["name"])}

    def undrained(asked: Asked) -> dict[str, Any]:
        return drain.undrain(ctx, asked.path["name"]) | {"host": _host(ctx, asked.path["name"])}

    def inventory(_: Asked) -> dict[str, Any]:
        found = ansible_inventory(ctx.store.hosts.views(ctx.foreign), known_hosts(ctx))
        return {"inventory": found, "plugins": os.path.join(content(), "playbooks", "inventory_plugins")}

    def ssh(asked: Asked) -> dict[str, Any]:
        hosts = [ctx.store.hosts.named(str(name)) for name in asked.body["hosts"]]
        keys, batch = bool(asked.body.get("keys")), bool(asked.body.get("batch"))
        return ssh_words(hosts, known_hosts(ctx), str(asked.body["known_hosts"]), keys=keys, batch=batch)

    def in_inventory(asked: Asked) -> dict[str, Any]:
        found = wishes_in(*(asked.body[word] for word in ("path", "limit", "defaults", "folder")))
        errors = [error.to_json() for error in found.errors]
        return {"wishes": found.wishes, "errors": errors, "notes": found.notes}

    return [
        Route("/hosts", answers_json(hosts)),
        Route("/inventory", answers_json(inventory)),
        Route("/hosts/inventory", answers_json(in_inventory), methods=["POST"]),
        Route("/hosts/ssh", answers_json(ssh), methods=["POST"]),
        Route("/hosts/look", answers_json(looked), methods=["POST"]),
        Route("/hosts", answers_stream(lambda asked: _add(ctx, asked)), methods=["POST"]),
        Route("/hosts/provision", answers_stream(lambda asked: _provision(ctx, asked)), methods=["POST"]),
        Route("/hosts/doctor", answers_stream(lambda asked: _doctor(ctx, asked)), methods=["POST"]),
        Route("/hosts/{name}/drain", answers_json(drained), methods=["POST"]),
        Route("/hosts/{name}/undrain", answers_json(undrained), methods=["POST"]),
        Route("/hosts/{name}/idle", answers_stream(lambda asked: _idle(ctx, asked)), methods=["POST"]),
        Route("/hosts/{name}/remove", answers_stream(lambda asked: _remove(ctx, asked)), methods=["POST"]),
    ]


def _refuse_twice(hosts: list[Host]) -> None:
    for number, host in enumerate(hosts):
        for other in hosts[:number]:
            if host.name == other.name or (host.address, host.port) == (other.address, other.port):
                raise InputError(f"{host.name} and {other.name} are the same host: name each once")


def _add(ctx: Context, asked: Asked) -> Iterator[Frame]:
    wishes = [
        Wanted(host_wished(wish)[0], str(wish["fingerprint"]), _scope(wish.get("scope")), _prints(wish))
        for wish in asked.body["hosts"]
    ]

    manner = _manner(asked.body)

    def act(on_step: Callable[[StepEvent], None]) -> list[dict[str, Any]]:
        seen = ctx.every(lambda wish: look(ctx, wish.host, wish.fingerprint, wish.jump_fingerprints), wishes)
        wanted, failed = [], []
        for wish, sight in zip(wishes, seen, strict=True):
            if isinstance(sight, PoolError):
                failed.append(Added(wish.host.name, 0, sight))
            elif isinstance(sight, Exception):
                raise sight
            else:
                wanted.append(replace(wish, host=sight.host))
        return [_added_json(added) for added in [*add(ctx, wanted, on_step, manner), *failed]]

    return _steps(act)


def _prints(wish: dict[str, Any]) -> tuple[str | None, ...]:
    return tuple(wish.get("jump_fingerprints") or ())


def _provision(ctx: Context, asked: Asked) -> Iterator[Frame]:
    names, manner = [str(name) for name in asked.body["hosts"]], _manner(asked.body)

    def act(on_step: Callable[[StepEvent], None]) -> list[dict[str, Any]]:
        return [_added_json(added) for added in provision(ctx, names, manner, on_step)]

    return _steps(act)


def _doctor(ctx: Context, asked: Asked) -> Iterator[Frame]:
    names = [str(name) for name in asked.body["hosts"]]
    return _steps(lambda on_step: [_checked_json(checked) for checked in doctor(ctx, names, on_step)])


def _manner(body: dict[str, Any]) -> Manner:
    skip = frozenset(str(role) for role in body.get("skip") or ())
    if unknown := sorted(skip - set(ROLES[:-1])):
        raise InputError(f"--skip: one of {', '.join(ROLES[:-1])}, not {unknown[0]!r}")
    return Manner(skip, reboot=bool(body.get("reboot")), dry_run=bool(body.get("dry_run")))


def _scope(text: str | None) -> Scope | None:
    scopes: dict[str | None, Scope | None] = {None: None, "system": "system", "user": "user"}
    if text not in scopes:
        raise InputError(f"--scope: system or user, not {text!r}")
    return scopes[text]


def _host(ctx: Context, name: str) -> dict[str, Any]:
    return next(host_json(view) for view in ctx.store.hosts.views(ctx.foreign) if view.host.name == name)


def _idle(ctx: Context, asked: Asked) -> Iterator[Frame]:
    """How many jobs are on the host, whenever that has changed, until none is; `wait_s` seconds at most."""
    seen = None
    wait_s = asked.body.get("wait_s")
    for jobs in drain.await_idle(ctx, asked.path["name"], None if wait_s is None else float(wait_s)):
        yield Frame(frames.PING, 0, {}) if jobs == seen else event({"host": asked.path["name"], "jobs": jobs})
        seen = jobs
    yield event({"end": _host(ctx, asked.path["name"])})


def _remove(ctx: Context, asked: Asked) -> Iterator[Frame]:
    def act(on_step: Callable[[StepEvent], None]) -> dict[str, Any]:
        return {"undone": remove(ctx, asked.path["name"], on_step, force=bool(asked.body.get("force")))}

    return _steps(act)


def _steps(act: Callable[[Callable[[StepEvent], None]], Any]) -> Iterator[Frame]:
    """`act` in a thread of its own, its steps as frames, its result as the last frame's `end`.

    It goes on when the reader has gone: a host that is half provisioned helps nobody.
    """
    news: queue.SimpleQueue[StepEvent | None] = queue.SimpleQueue()
    outcome: list[Any] = []

    def work() -> None:
        try:
            outcome.append(act(news.put))
        except Exception as error:
            outcome.append(error)
        finally:
            news.put(None)

    threading.Thread(target=work, name="provision", daemon=True).start()
    while True:
        try:
            step = news.get(timeout=_QUIET_S)
        except queue.Empty:
            yield Frame(frames.PING, 0, {})
            continue
        if step is None:
            break
        yield event(
            {
                "host": step.host,
                "role": step.role,
                "step": step.step,
                "status": step.status,
                "seconds": round(step.seconds, 3),
                "message": step.message,
            }
        )
    if isinstance(outcome[0], Exception):
        raise outcome[0]
    yield event({"end": outcome[0]})


def _sight_json(wish: tuple[Host, list[str]], seen: Sight | Exception) -> dict[str, Any]:
    host, warnings = wish
    common = {"name": host.name, "address": host.address, "port": host.port, "user": host.user, "warnings": warnings}
    if isinstance(seen, PoolError):
        return common | {"error": seen.to_json()}
    if isinstance(seen, Exception):
        raise seen
    return common | {
        "name": seen.host.name,
        "jumps": [_key_json(jump) for jump in seen.jumps],
        "key": _key_json(seen.key) if seen.key else None,
        "error": None,
    }


def _key_json(seen: KeySeen) -> dict[str, Any]:
    return {
        "address": seen.address,
        "port": seen.port,
        "type": seen.key.get_name(),
        "fingerprint": seen.fingerprint,
        "trusted": seen.trusted,
    }


def _added_json(added: Added) -> dict[str, Any]:
    return {
        "name": added.name,
        "changed": added.changed,
        "error": added.error.to_json() if added.error else None,
        "plan": [asdict(step) for step in added.plan],
        "log": added.log,
    }


def _checked_json(checked: Checked) -> dict[str, Any]:
    return {
        "name": checked.name,
        "error": checked.error.to_json() if checked.error else None,
        "checks": [asdict(check) for check in checked.checks],
        "log": checked.log,
    }
