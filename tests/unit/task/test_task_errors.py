"""Every mistake is shown in its place, with its line, a caret, and how to write it instead."""

from __future__ import annotations

import pytest

from pool.errors import TaskError
from pool.task.load import load_task

HEAD = "type: task\ncommands: [x]\n"


def refuse(text: str) -> TaskError:
    """The error that `text` gives."""
    with pytest.raises(TaskError) as caught:
        load_task(text.encode(), "train.dstack.yml")
    return caught.value


def test_form() -> None:
    """file:line:column and message, the line as it stands, the caret under the value, the fix as the hint."""
    error = refuse(HEAD + "resources:\n  gpu: A100x2   # two\n")
    assert error.message == (
        'train.dstack.yml:4:8: gpu: "A100x2" is not a GPU\n   4 |   gpu: A100x2   # two\n     |        ^'
    )
    assert error.hint == "write the count after a colon: A100:2"
    assert (error.details["line"], error.details["column"]) == (4, 8)
    assert error.exit_code == 2


def test_all_mistakes_are_shown() -> None:
    """Several mistakes come in one error, in the order of the file, each with its fix."""
    error = refuse(HEAD + "priority: 101\nnodes: 2.7\nfoo: 1\n")
    assert [m["line"] for m in error.details["mistakes"]] == [3, 4, 5]
    assert "train.dstack.yml:4:8: nodes is a whole number" in error.message


@pytest.mark.parametrize(
    ("written", "message", "hint"),
    [
        ("comands: [a]", 'unknown key "comands"', "did you mean commands?"),
        ("gpus: 2", 'unknown key "gpus"', "write resources: {gpu: …}"),
        ("timeout: 2h", 'unknown key "timeout"', "did you mean max_duration?"),
        ("qwertz: 2h", 'unknown key "qwertz"', "remove it; `pool schema` lists every key"),
        ("resources: {gpus: 2}", 'unknown key "gpus" in resources', "did you mean gpu?"),
        ("resources: {gpu: {cuont: 2}}", 'unknown key "cuont" in resources.gpu', "did you mean count?"),
        ("retry: {event: x}", 'unknown key "event" in retry', "did you mean on_events?"),
        ("resources: 4", "resources is a mapping, not 4", "write `key: value` lines"),
        ("registry_auth: {username: x}", "password is missing in registry_auth", "add password: …"),
        ("nodes: 0", "nodes is 1 to 10000, not 0", None),
        ("nodes: true", "nodes is a whole number, not true", "write nodes: 1"),
        ("nodes: 22:22", 'nodes is a whole number, not "22:22"', "write nodes: 1"),
        ("nodes: 1e9", "nodes is a whole number, not 1e9", "write nodes: 1"),
        ("nodes: .inf", "nodes is a whole number, not .inf", "write nodes: 1"),
        ("nodes: -1", "nodes is 1 to 10000, not -1", None),
        ("name: Train_1", "is not a run name", "write name: train-1"),
        ("name: ../../etc", "is not a run name", "write name: etc"),
        ("env: [A B=1]", "is not a name of an environment variable", "use letters, digits and _"),
        ("env: {'A=B': 1}", "is not a name of an environment variable", "use letters, digits and _"),
        ("env: [A=1, A=2]", '"A" is set twice', "keep one of the two"),
        ("env: [POOL_X=1]", "POOL_", "choose another name"),
        ("env: [{A: 1}]", "expected NAME=value, not a mapping", "write `- NAME=value`, in quotes if needed"),
        ("ports: [0]", "port 0 is not between 1 and 65535", None),
        ("ports: [80:81, 81]", "container port 81 is forwarded twice", "remove one of the two"),
        ("ports: ['80:81', '80:82']", "local port 80 is used twice", "remove one of the two"),
        ("working_dir: /etc", "is not inside the folder", None),
        ("working_dir: a/../../b", "leaves the folder", None),
        ("spot_policy: on_demand", "spot_policy is one of", "write spot_policy: on-demand"),
        ("max_duration: 3 fortnights", "is not a duration", None),
        ("max_price: 0", "more than 0", None),
        ("volumes: [my-data:/x]", "is not a folder of the host", None),
        ("volumes: [{name: v, path: /x}]", "network volumes are not supported, because", None),
        ("repos: [https://example.org/x.git]", "repositories by URL are not supported, because", None),
        ("groups: [{name: a}]", "groups are not supported yet", None),
        ("inactivity_duration: 1h", "inactivity_duration is for type: dev-environment only", None),
        ("ide: vscode", "ide is for type: dev-environment only", "remove ide"),
        ("setup: [a]\nentrypoint: b", "setup needs a shell", None),
        ("image: x\npython: 3.11", "python and image exclude each other", None),
        ("python: 3.7", 'python "3.7" is not one of', None),
        ("entrypoint: 'a \"b'", "quotes in entrypoint are not closed", "close them"),
        ("image: ${{ secrets.X }}", "${{ secrets.X }} is not something", None),
        ("image: ${{ env.X ", "${{ is not closed by }}", None),
        ("schedule: {cron: '61 * * * *'}", "61 is not a cron minute", None),
        ("schedule: {cron: '* * *'}", "is not a cron line", None),
        ("retry: true\nretry_policy: {retry: true}", "spelt twice", "remove retry_policy"),
        ("commands: x", "set twice", None),
    ],
)
def test_messages(written: str, message: str, hint: str | None) -> None:
    """What is wrong is named, with the fix."""
    error = refuse(HEAD + written)
    assert message in error.message
    assert error.hint == hint if hint else error.hint
    assert not error.message.startswith("train.dstack.yml:1:")


@pytest.mark.parametrize("kind", ["service", "fleet", "gateway", "volume"])
def test_other_types(kind: str) -> None:
    """A type that exists elsewhere is refused with the reason, whatever else the file has."""
    error = refuse(f"type: {kind}\nport: 80\n")
    assert "not supported, because" in error.message
    assert error.hint


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("commands: [a]", "type is missing"),
        ("type: job\ncommands: [a]", "type is one of task, dev-environment"),
        ("type: task", "commands or image must be set"),
        ("type: task\ncommands: echo hi", "expected a list of commands"),
        ("type: task\ncommands:\n  - {a: b}", "expected a text, not a mapping"),
        ("type: dev-environment\nnodes: 2", "a dev-environment has one node"),
        ("type: dev-environment\nentrypoint: x", "a dev-environment stays up by a shell"),
        ("type: dev-environment\ninactivity_duration: 0", "a limit of 0 seconds leaves no time"),
        ("- a", "a task file is a mapping"),
        ("a", "a task file is a mapping"),
    ],
)
def test_whole_files(text: str, message: str) -> None:
    """What is wrong with the file as a whole is said in words."""
    assert message in refuse(text).message


def test_env_value_too_long() -> None:
    """A value that Linux could not pass to a program is refused with that reason; the longest that it can is kept."""
    error = refuse(HEAD + "env: ['A=" + "x" * 131_070 + "']")
    assert "131072 bytes" in error.message
    assert "MAX_ARG_STRLEN" in error.message
    assert len(load_task((HEAD + "env: ['A=" + "x" * 131_069 + "']").encode(), "t").env["A"] or "") == 131_069


def test_unprintable_lines_are_shown_clean() -> None:
    """An excerpt brings nothing to the terminal that could move its cursor or turn the text around."""
    error = refuse(HEAD + 'nodes: "\u202e2"\n')
    assert "\u202e" not in error.message
