"""An image on many hosts: its name is settled by one of them, and what went wrong on each is told with what to type."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pool.errors import DiskFullError, HostError, NotFoundError, PoolError, RunnerError, UnreachableError
from pool.lifecycle import image
from pool.lifecycle.context import Context
from pool.lifecycle.image import Progress, Pulled, Wanted
from pool.store.store import Store
from tests.unit.store.test_store import HOST

HOSTS = tuple(replace(HOST, id=f"h{n}", name=f"gpu{n}", address=f"10.0.0.{n}") for n in (1, 2, 3))
PINNED = "reg/x@sha256:1"


class Hosts:
    """The keeper of links to hosts that answer as they are told to; remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, str | None]] = []  #: (host, verb, pinned)
        self.answers: dict[str, list[Any]] = {}  #: host -> what it answers or raises, one after the other

    def request(self, host_id: str, verb: str, **head: Any) -> tuple[dict[str, Any], bytes]:
        """As of the real one."""
        self.asked.append((host_id, verb, head.get("pinned")))
        answers = self.answers.get(host_id) or []
        answer = answers.pop(0) if answers else {}
        if isinstance(answer, Exception):
            raise answer
        settled = {"pinned": PINNED, "said": "", "progress": "", "image": f"sha256:{host_id}"}
        return settled | answer, b""


@pytest.fixture
def ctx(tmp_path: Path) -> Context:
    """A server with three hosts."""
    made = Context(str(tmp_path), Store(str(tmp_path)), 1)
    made.keeper = Hosts()  # type: ignore[assignment]
    for host in HOSTS:
        made.store.hosts.add(host)
    return made


def hosts(ctx: Context) -> Hosts:
    """The stand-in."""
    return ctx.keeper  # type: ignore[return-value]


def pull(ctx: Context) -> tuple[dict[str, Pulled], list[Progress]]:
    """On all hosts: how it ended on each, and what was said before."""
    told = list(image.pull(ctx, Wanted("reg/x:1"), [host.name for host in HOSTS]))
    return {each.host: each for each in told if isinstance(each, Pulled)}, [
        each for each in told if isinstance(each, Progress)
    ]


def refused(host: str, cause: str, kind: type[HostError] = RunnerError) -> HostError:
    """A refusal as the link raises it."""
    return kind(f"{host}: {cause} it is", cause=cause, host=host)


def test_one_host_settles_the_name_for_all(ctx: Context) -> None:
    """The others are told what it means, and how far each is is said."""
    hosts(ctx).answers["h2"] = [{"image": None, "progress": "1 of 2\x1b[2J"}]
    ended, said = pull(ctx)
    assert {name: (each.image, each.pinned, each.error) for name, each in ended.items()} == {
        f"gpu{n}": (f"sha256:h{n}", PINNED, None) for n in (1, 2, 3)
    }
    assert said == [Progress("gpu2", "1 of 2?[2J")]
    assert hosts(ctx).asked[0] == ("h1", "pull", None)
    assert {pinned for _, _, pinned in hosts(ctx).asked[1:]} == {PINNED}


@pytest.mark.parametrize("error", [UnreachableError("gpu1 is silent"), refused("gpu1", "no_docker")])
def test_another_settles_it_where_the_first_cannot(ctx: Context, error: HostError) -> None:
    """What is wrong with one host does not hold up the others."""
    hosts(ctx).answers["h1"] = [error]
    ended, _ = pull(ctx)
    assert ended["gpu1"].error is not None
    assert [ended[name].image for name in ("gpu2", "gpu3")] == ["sha256:h2", "sha256:h3"]
    assert hosts(ctx).asked[:2] == [("h1", "pull", None), ("h2", "pull", None)]


def test_what_a_registry_says_is_said_once_for_all(ctx: Context) -> None:
    """It is not asked again for each host."""
    hosts(ctx).answers["h1"] = [refused("gpu1", "no_such_image")]
    ended, _ = pull(ctx)
    assert {name: str(each.error) for name, each in ended.items()} == {
        name: f"{name}: no_such_image it is" for name in ("gpu1", "gpu2", "gpu3")
    }
    assert len(hosts(ctx).asked) == 1


@pytest.mark.parametrize(
    ("cause", "login", "job", "hint"),
    [
        ("refused_login", ("a", "b"), "j", "check username and password of registry_auth"),
        ("refused_login", None, "j", "add registry_auth to the task file"),
        ("refused_login", ("a", "b"), None, "check --username and the password"),
        ("refused_login", None, None, "pool pull reg/x:1 --username NAME --password-stdin"),
        ("disk_full", None, "j", "pool images gpu1"),
        ("registry_unreachable", None, "j", "pool pull reg/x:1 --hosts gpu1   once gpu1 reaches it"),
        ("no_docker", None, None, "pool doctor gpu1"),
        ("busy", None, "j", None),
    ],
)
def test_each_cause_has_its_next_command(
    ctx: Context, cause: str, login: tuple[str, str] | None, job: str | None, hint: str | None
) -> None:
    """With the names in it; the error stays what it was."""
    kind = DiskFullError if cause == "disk_full" else RunnerError
    hosts(ctx).answers["h1"] = [refused("gpu1", cause, kind)]
    with pytest.raises(kind) as error:
        image.ask(ctx, HOSTS[0], Wanted("reg/x:1", login), 0.0, job)
    assert (error.value.hint, error.value.details["cause"]) == (hint, cause)


def test_a_runner_that_does_not_know_the_verb_is_too_old(ctx: Context) -> None:
    """And what to do about that is said."""
    hosts(ctx).answers["h1"] = [RunnerError("gpu1: unknown verb 'images'", cause="bad_request")]
    found = dict(image.listed(ctx, ["gpu1"]))
    assert isinstance(found["gpu1"], PoolError)
    assert str(found["gpu1"].hint).startswith("pool provision gpu1")


def test_a_list_is_what_the_host_says_made_safe(ctx: Context) -> None:
    """A host that does not answer is told of beside those that do."""
    told = {
        "names": ["a\x1b[2J"],
        "id": "sha256:1",
        "digest": None,
        "size": 5,
        "last_used": None,
        "pulled": False,
        "jobs": [],
    }
    hosts(ctx).answers["h1"] = [{"images": [told]}]
    hosts(ctx).answers["h2"] = [UnreachableError("silent")]
    found = dict(image.listed(ctx, ["gpu1", "gpu2"]))
    assert found["gpu1"] == [told | {"names": ["a?[2J"]}]
    assert isinstance(found["gpu2"], UnreachableError)
    with pytest.raises(NotFoundError):
        image.listed(ctx, ["gpu9"])
