"""How a run is treated: the fields that a task file and a profile share."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import Field

from pool.task.duration import parse_duration, parse_limit
from pool.task.mistake import mistake
from pool.task.scalar import filled, listed, number, one_of, plain, show, truth, whole, within
from pool.task.shapes import CRON, DURATION, LIMIT, PRICE, TEXTS, TRUTH, WORD, whole_number, words
from pool.task.written import Form, ShortForm, Written

EVENTS = ("no-capacity", "interruption", "error")
RETRY_DEFAULT_S = 3600

Limit = int | Literal["off"]


def _texts(what: str) -> Form:
    return Form(listed(filled, what), TEXTS)


def _word(name: str, *choices: str) -> Form:
    return Form(one_of(name, choices), words(*choices))


class Retry(Written):
    """When a run is tried again."""

    on_events: Annotated[
        tuple[str, ...],
        Form(listed(one_of("an event", EVENTS), "events"), TEXTS),
    ] = Field(EVENTS, description="Which of `no-capacity`, `interruption`, `error`; all when not written.")
    duration: Annotated[Limit, Form(parse_limit, LIMIT)] = Field(
        RETRY_DEFAULT_S, description="For how long after the submission; `off` is for ever."
    )


NO_RETRY = Retry.model_validate({"on_events": []})


def retry_fields(value: Any) -> Any:
    """true is every event for an hour, false is no retry (an empty list of events)."""
    if isinstance(value, (dict, Retry)):
        return value
    return {} if truth(value) else {"on_events": []}


class RetryPolicy(Written):
    """The older spelling of retry."""

    retry: Annotated[bool, Form(truth, TRUTH)] = Field(False, description="Whether to try again.")
    duration: Annotated[Limit | None, Form(parse_limit, LIMIT)] = Field(None, description="For how long.")


class Utilization(Written):
    """When a run that does not use its GPUs is stopped."""

    min_gpu_utilization: Annotated[
        int,
        Form(whole("min_gpu_utilization", 0, 100), whole_number(0, 100)),
    ] = Field(description="Percent that each GPU must reach at some time in the window.")
    time_window: Annotated[int, Form(parse_duration, DURATION)] = Field(description="How far back one looks.")


def parse_schedule(value: Any) -> tuple[str, ...]:
    """{cron: "0 4 * * *"} or {cron: [...]}: five fields each, in UTC."""
    if not isinstance(value, dict):
        raise mistake(f"expected a mapping with cron, not {show(value)}", 'write schedule: {cron: "0 4 * * *"}')
    for key in value:
        if key != "cron":
            raise mistake(f"unknown key {show(key)}", "schedule has one key: cron", (key,), at_key=True)
    if value.get("cron") is None:
        raise mistake("cron is missing", 'write schedule: {cron: "0 4 * * *"}')
    return within("cron", listed(_cron, "cron lines"), value["cron"])


_CRON_FIELDS = (("minute", 0, 59), ("hour", 0, 23), ("day", 1, 31), ("month", 1, 12), ("weekday", 0, 7))
_CRON_PART = re.compile(r"(?:\*|(\d{1,2})(?:-(\d{1,2}))?)(?:/(\d{1,3}))?")
_CRON_NAMES = re.compile(r"\b(jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec|sun|mon|tue|wed|thu|fri|sat)\b", re.I)
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_CRON_NUMBERS = {name: str(i) for names, first in ((_MONTHS, 1), (_DAYS, 0)) for i, name in enumerate(names, first)}


def _cron(value: Any) -> str:
    written = filled(value)
    fields = written.split()
    hint = 'write five fields, in UTC: minute hour day month weekday, such as "0 4 * * 1-5"'
    if len(fields) != 5 or len(written) > 500:
        raise mistake(f"{show(value)} is not a cron line", hint)
    for (name, low, high), found in zip(_CRON_FIELDS, fields, strict=True):
        numbered = _CRON_NAMES.sub(lambda m: _CRON_NUMBERS[m[0].lower()], found)
        for part in numbered.split(","):
            match = _CRON_PART.fullmatch(part)
            ends = [int(n) for n in match.groups()[:2] if n is not None] if match else [-1]
            if any(not low <= n <= high for n in ends) or ends != sorted(ends) or (match and match[3] == "0"):
                raise mistake(f"{found} is not a cron {name}", hint)
    return " ".join(fields)


def _idle(value: Any) -> Limit:
    return 0 if plain(value) == 0 and not isinstance(plain(value), bool) else parse_limit(value)


class Policy(Written):
    """What a profile may set and a task file may set again."""

    backends: Annotated[tuple[str, ...], _texts("backends")] = Field(
        (),
        description="`ssh` and `remote` are this pool's hosts. Clouds alone match no host, and the plan says so.",
    )
    regions: Annotated[tuple[str, ...], _texts("regions")] = Field(
        (), description="Only hosts whose `--region` is one of these (`remote` where none was given)."
    )
    instance_types: Annotated[tuple[str, ...], _texts("instance types")] = Field(
        (), description="Only hosts whose type is one of these: `<count>x<gpu>` such as `8xA100`, or the label `type`."
    )
    spot_policy: Annotated[str, _word("spot_policy", "spot", "on-demand", "auto")] = Field(
        "auto", description="Pool hosts are on-demand: `spot` matches none, the others match all."
    )
    max_price: Annotated[
        float | None,
        Form(number("max_price", 0), PRICE),
    ] = Field(None, description="Only hosts whose hourly `--price` is at most this; a host without a price costs 0.")
    retry: Annotated[
        Retry,
        ShortForm(retry_fields, TRUTH),
    ] = Field(NO_RETRY, description="Whether and when a failed run is tried again; `true` is every event for 1h.")
    retry_policy: RetryPolicy | None = Field(None, description="Deprecated: the older spelling of `retry`.")
    max_duration: Annotated[Limit | None, Form(parse_limit, LIMIT)] = Field(
        None,
        description="The host stops the run after this long, reachable or not; `off` is no limit. A task has `72h`, "
        "a dev-environment `6h`.",
    )
    stop_duration: Annotated[int, Form(parse_duration, DURATION)] = Field(
        30, description="Time between the stop signal and the kill."
    )
    pool_name: Annotated[str | None, Form(filled, WORD)] = Field(None, description="Only hosts of this pool.")
    instance_name: Annotated[str | None, Form(filled, WORD)] = Field(None, description="Only the host of this name.")
    creation_policy: Annotated[str, _word("creation_policy", "reuse", "reuse-or-create")] = Field(
        "reuse", description="No effect: a pool reuses its hosts and creates none."
    )
    termination_policy: Annotated[
        str | None,
        _word("termination_policy", "dont-destroy", "destroy-after-idle"),
    ] = Field(None, description="No effect: a pool destroys no host.")
    termination_idle_time: Annotated[Limit | None, Form(_idle, LIMIT)] = Field(
        None, description="No effect: a pool destroys no host."
    )
    priority: Annotated[
        int,
        Form(whole("priority", 0, 100), whole_number(0, 100)),
    ] = Field(0, description="Of the runs that wait, the higher ones are placed first.")
    startup_order: Annotated[
        str,
        _word("startup_order", "any", "master-first", "workers-first"),
    ] = Field("any", description="Which nodes start first.")
    stop_criteria: Annotated[str, _word("stop_criteria", "all-done", "master-done")] = Field(
        "all-done", description="When a run of many nodes is done: when all nodes are, or the master."
    )
    utilization_policy: Utilization | None = Field(
        None, description="Stop the run when its GPUs stay idle for a time. Not yet: the plan says so."
    )
    schedule: Annotated[tuple[str, ...], Form(parse_schedule, CRON)] = Field(
        (),
        description='`{cron: "0 4 * * *"}`: when to start, in UTC. Not yet: it starts now, and the plan says so.',
    )
