"""Images on hosts: what a name means is settled once, on one host; then every host has the very same image.

A host that cannot have it says why, by a fixed cause; what to type next depends on that alone.
"""

from __future__ import annotations

import queue
import threading
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pool.errors import HostError, PoolError, RunnerError, UnreachableError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pool.host import Host
    from pool.lifecycle.context import Context

#: A host that pulls an image says after this long how far it is.
WAIT_S = 3.0
#: Within this time it says something: a registry has its own time to answer in it.
_ANSWER_S = 120.0
_QUIET_S = 5.0
#: Cause -> what to type next. `login` and `no_login` are words for a refused login, with one and without.
_HINTS = {
    "disk_full": "pool images {host}",
    "wrong_platform": "docker manifest inspect {image}   tells the platforms that it is for",
    "rate_limited": "pool pull {image} --username NAME --password-stdin",
    "no_such_image": "docker manifest inspect {image}   says whether its registry has it",
    "registry_unreachable": "pool pull {image} --hosts {host}   once {host} reaches it",
    "bad_image": "write it as [REGISTRY/]NAME[:TAG]",
    "no_docker": "pool doctor {host}",
    "pull_failed": "pool pull {image} --hosts {host}   tries it again",
}
_TASK_LOGIN = ("check username and password of registry_auth", "add registry_auth to the task file")
_TYPED_LOGIN = ("check --username and the password", "pool pull {image} --username NAME --password-stdin")
#: Causes that are the registry's, or the name's: no other host would be told anything else.
_OF_THE_IMAGE = {"refused_login", "no_such_image", "bad_image"}


@dataclass(frozen=True, slots=True)
class Wanted:
    """An image as it was asked for, and, once that is settled, as every host has it."""

    name: str
    login: tuple[str, str] | None = None
    pinned: str | None = None  #: the name with its digest; "": each host's own copy; None: not settled
    said: str = ""  #: what there is to say of how it was settled


@dataclass(frozen=True, slots=True)
class Pulled:
    """How it went on one host."""

    host: str
    image: str | None = None  #: its id
    pinned: str = ""
    said: str = ""
    error: PoolError | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """What is said on the way: how far a host is."""

    host: str
    text: str


def ask(
    ctx: Context, host: Host, wanted: Wanted, wait_s: float, job: str | None = None
) -> tuple[Wanted, str | None, str]:
    """Have the host have it, for `job` or in advance: (what it is settled as, its id once it is there, how far it is).

    HostError, with what to type next, when it cannot be had there.
    """
    login = list(wanted.login) if wanted.login else None
    asked: dict[str, Any] = {"name": wanted.name, "login": login, "wait_s": wait_s, "pinned": wanted.pinned}
    if job:
        asked["job"] = job
    try:
        answer = ctx.keeper.request(host.id, "image" if job else "pull", timeout=_ANSWER_S, **asked)[0]
    except HostError as error:
        raise _with_hint(error, host, wanted, of_a_job=bool(job)) from error
    if wanted.pinned and "pinned" not in answer:
        raise RunnerError(
            f"{host.name}: its runner is too old to take an image by its digest", hint=f"pool provision {host.name}"
        )
    if wanted.pinned is None:
        said = _line(answer.get("said"))
        # A runner that is older settles nothing: each host goes by the name.
        wanted = replace(wanted, pinned=_line(answer.get("pinned")) if "pinned" in answer else None, said=said)
    return wanted, answer["image"], _line(answer.get("progress"))


def pull(ctx: Context, wanted: Wanted, names: Sequence[str]) -> Iterator[Progress | Pulled | None]:
    """Have it on these hosts, side by side: how far each is, then how each ended; None in quiet seconds.

    NotFoundError for a host that is not in the pool. It goes on when nobody reads this any more.
    """
    hosts = [ctx.store.hosts.named(name) for name in names]
    news: queue.SimpleQueue[Progress | Pulled | None] = queue.SimpleQueue()
    threading.Thread(target=_pull_all, args=(ctx, wanted, hosts, news), name="pull", daemon=True).start()
    left = len(hosts)
    while left:
        try:
            told = news.get(timeout=_QUIET_S)
        except queue.Empty:
            yield None
            continue
        left -= isinstance(told, Pulled)
        yield told


def listed(ctx: Context, names: Sequence[str]) -> list[tuple[str, list[dict[str, Any]] | PoolError]]:
    """Of each of these hosts its images, as its runner tells them, or why it does not."""
    hosts = [ctx.store.hosts.named(name) for name in names]

    def one(host: Host) -> list[dict[str, Any]]:
        try:
            return [_shown(each) for each in ctx.keeper.request(host.id, "images", timeout=60.0)[0]["images"]]
        except HostError as error:
            raise _with_hint(error, host, Wanted(""), of_a_job=False) from error

    found: list[tuple[str, list[dict[str, Any]] | PoolError]] = []
    for host, answer in zip(hosts, ctx.every(one, hosts), strict=True):
        if isinstance(answer, Exception) and not isinstance(answer, PoolError):
            raise answer
        found.append((host.name, answer))
    return found


def _pull_all(
    ctx: Context, wanted: Wanted, hosts: list[Host], news: queue.SimpleQueue[Progress | Pulled | None]
) -> None:
    """Settle the name on the first host that can, then have it on all of those that are left."""
    left = list(hosts)
    while left and wanted.pinned is None:
        try:
            wanted, _, _ = ask(ctx, left[0], wanted, 0.0)
            break
        except Exception as error:
            news.put(_failed(left.pop(0), error))
            if isinstance(error, RunnerError) and error.details.get("cause") in _OF_THE_IMAGE:
                for host in left:
                    news.put(_failed(host, _elsewhere(error, host)))
                return
    # Threads of its own: this may take as long as it likes, and everybody shares the others.
    for host in left:
        threading.Thread(target=lambda host=host: news.put(_pull_one(ctx, wanted, host, news)), daemon=True).start()


def _pull_one(ctx: Context, wanted: Wanted, host: Host, news: queue.SimpleQueue[Progress | Pulled | None]) -> Pulled:
    try:
        while True:
            settled, image, progress = ask(ctx, host, wanted, WAIT_S)
            if image:
                return Pulled(host.name, image, settled.pinned or "", settled.said)
            news.put(Progress(host.name, progress))
    except Exception as error:
        return _failed(host, error)


def _failed(host: Host, error: Exception) -> Pulled:
    return Pulled(host.name, error=error if isinstance(error, PoolError) else PoolError(f"{host.name}: {error!r}"))


def _elsewhere(error: RunnerError, host: Host) -> RunnerError:
    """What the registry told one host, of another."""
    said = error.message.partition(": ")[2]
    return RunnerError(f"{host.name}: {said}", hint=error.hint, **error.details | {"host": host.name})


def _with_hint(error: HostError, host: Host, wanted: Wanted, *, of_a_job: bool) -> HostError:
    """The same error with what to type next."""
    if isinstance(error, UnreachableError):
        return error
    cause = str(error.details.get("cause"))
    if "unknown verb" in error.message:
        hint: str | None = f"pool provision {host.name}   brings its runner up to date"
    elif cause == "refused_login":
        hint = (_TASK_LOGIN if of_a_job else _TYPED_LOGIN)[wanted.login is None]
    else:
        hint = _HINTS.get(cause)
    text = hint.format(host=host.name, image=wanted.name) if hint else None
    return type(error)(_line(error.message), hint=text, **error.details)


def _shown(image: dict[str, Any]) -> dict[str, Any]:
    """One image of a host's list."""
    used, digest = image["last_used"], image["digest"]
    return {
        "names": [_line(name) for name in image["names"]],
        "id": _line(image["id"]),
        "digest": _line(digest) if digest else None,
        "size": int(image["size"]),
        "last_used": float(used) if used else None,
        "pulled": bool(image["pulled"]),
        "jobs": [_line(job) for job in image["jobs"]],
    }


def _line(text: Any) -> str:
    """What a host says, on one line that a terminal can show; a host is not trusted with more."""
    return "".join(c if c.isprintable() else "?" for c in str(text or "")[:600])
