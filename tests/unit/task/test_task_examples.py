"""Every example a user may copy: it loads, it validates against the JSON Schema, and its normal form loads again."""

from __future__ import annotations

import json
import re
import textwrap
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from pool.task.compile import compile_task
from pool.task.document import read_document
from pool.task.fields import task_fields
from pool.task.json_schema import DIALECT, json_schema
from pool.task.load import load_task
from pool.task.needed import needed_env
from pool.task.normal import normal_form
from pool.task.reference import reference_markdown
from pool.task.schema import DEV_ONLY, TaskConfig
from tests.unit.task.core_schema import core

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
FILES = [*sorted(HERE.glob("examples/*.yml")), *sorted(ROOT.glob("examples/**/*.dstack.y*ml"))]
README = ROOT / "README.md"


def _readme() -> list[Any]:
    """The task files of README: its YAML blocks with a `type`."""
    text = README.read_text(encoding="utf-8") if README.exists() else ""
    blocks = re.findall(r"^( *)```ya?ml[^\n]*\n(.*?)^\1```", text, flags=re.S | re.M)
    texts = [textwrap.dedent(body) for _, body in blocks]
    return [pytest.param(t.encode(), id=f"README-{i}") for i, t in enumerate(texts) if re.search(r"^type:", t, re.M)]


EXAMPLES = [pytest.param(path.read_bytes(), id=path.name) for path in FILES] + _readme()

FULL = b"""
type: task
name: all-1
nodes: 2
commands: [a, 1.5, true]
setup: [b]
image: x
shell: sh
env: {A: 1, B: null}
working_dir: w
home_dir: /h
user: 1000
registry_auth: {username: u, password: 7}
ports: [1, "2:3", "*:4", {local_port: null, container_port: 5}]
resources:
  cpu: {min: 1, max: "8"}
  memory: 8GB..1TB
  shm_size: 1
  gpu: {vendor: NVIDIA, name: [A100, 4090], count: 1..2, memory: 24GB.., total_memory: ..1TB, compute_capability: 8.0}
  disk: {size: 100}
volumes: [/a:/b, {instance_path: /a, path: /c}]
files: [a, {local_path: a, path: b}]
repos: [.]
privileged: no
docker: false
nvcc: true
groups: []
runtime: docker
backends: [ssh]
regions: remote
instance_types: [1xA100]
spot_policy: on-demand
max_price: 0.5
retry: {on_events: [error], duration: 1d}
max_duration: off
stop_duration: 90
pool_name: p
instance_name: i
creation_policy: reuse
termination_policy: dont-destroy
termination_idle_time: 1h30m
priority: 100
startup_order: workers-first
stop_criteria: master-done
utilization_policy: {min_gpu_utilization: 1, time_window: 5m}
schedule: {cron: ["* * * * *"]}
"""


@pytest.fixture(scope="module")
def validator() -> jsonschema.Draft202012Validator:
    """A validator of `pool schema`."""
    return jsonschema.Draft202012Validator(json_schema())


@pytest.mark.parametrize("text", EXAMPLES)
def test_examples(text: bytes, validator: jsonschema.Draft202012Validator) -> None:
    """An example runs here unchanged."""
    task = load_task(text, "example")
    validator.validate(core(read_document(text, "example").value))
    compile_task(task, (), dict.fromkeys(needed_env(task), "value"))
    again = json.dumps(normal_form(task))
    assert json.dumps(normal_form(load_task(again.encode(), "normal"))) == again
    validator.validate(json.loads(again))


def test_the_reference_has_its_examples() -> None:
    """All twelve examples of the reference are here."""
    assert len(list(HERE.glob("examples/*.yml"))) == 12


def test_every_field_at_once(validator: jsonschema.Draft202012Validator) -> None:
    """A file that writes every field is valid, in the schema and in its normal form."""
    task = load_task(FULL, "full")
    left_out = set(TaskConfig.model_fields) - set(task.model_fields_set)
    assert left_out == {"entrypoint", "python", "retry_policy", *DEV_ONLY}
    validator.validate(core(read_document(FULL, "full").value))
    again = json.dumps(normal_form(task))
    validator.validate(json.loads(again))
    assert json.dumps(normal_form(load_task(again.encode(), "normal"))) == again


def test_schema_is_a_schema() -> None:
    """Draft 2020-12, with a description for every field."""
    schema = json_schema()
    assert schema["$schema"] == DIALECT
    jsonschema.Draft202012Validator.check_schema(schema)
    parts = [schema, *schema["$defs"].values()]
    assert [name for part in parts for name, prop in part["properties"].items() if not prop.get("description")] == []
    assert json.loads(json.dumps(schema)) == schema


@pytest.mark.parametrize(
    "wrong",
    [
        {"type": "task"},
        {"type": "service", "commands": ["a"]},
        {"type": "task", "commands": ["a"], "gpus": 2},
        {"type": "task", "commands": ["a"], "nodes": 2.7},
        {"type": "task", "commands": ["a"], "resources": {"memory": "lots"}},
        {"type": "task", "commands": ["a"], "resources": {"gpu": {"cuont": 1}}},
        {"type": "task", "commands": ["a"], "priority": 101},
        {"type": "task", "commands": ["a"], "max_duration": "soon"},
        {"type": "task", "commands": "a"},
    ],
)
def test_schema_refuses(wrong: Any, validator: jsonschema.Draft202012Validator) -> None:
    """What an editor can see to be wrong, the schema refuses."""
    assert not validator.is_valid(wrong)


def test_defaults_of_the_schema_are_valid(validator: jsonschema.Draft202012Validator) -> None:
    """Each default, written out, means what leaving it out means."""
    for field in task_fields():
        if field.part == "" and field.default is not None:
            assert json_schema()["properties"][field.name]["default"] == field.default
            written = {"type": "task", "commands": ["a"], field.name: field.default}
            validator.validate(written)
            loaded = load_task(json.dumps(written).encode(), "t")
            assert getattr(loaded, field.name) == TaskConfig.model_fields[field.name].default


def test_normal_form() -> None:
    """The normal form: ranges, GB, seconds, maps, as `pool validate --json` prints them."""
    text = b"type: task\ncommands: [x]\nenv: [A, B=1]\nports: ['*:80']\nmax_duration: 2h\n"
    text += b"resources: {gpu: 'A100:40GB:2', memory: 512MB}"
    found = normal_form(load_task(text, "t"))
    assert found["env"] == {"A": None, "B": "1"}
    assert found["ports"] == [{"local_port": None, "container_port": 80}]
    assert found["max_duration"] == 7200
    assert found["resources"] == {
        "cpu": {"min": 2, "max": None},
        "memory": {"min": 0.5, "max": None},
        "shm_size": None,
        "gpu": {
            "vendor": None,
            "name": ["A100"],
            "count": {"min": 2, "max": 2},
            "memory": {"min": 40, "max": 40},
            "total_memory": None,
            "compute_capability": None,
        },
        "disk": {"min": 100, "max": None},
    }


def test_reference_names_every_field() -> None:
    """The reference has a row for every key, with its effect."""
    rows = re.findall(r"^\| `(\w+)` \| [^|]+ \|[^|]*\| [^|]+\|$", reference_markdown().replace("\\|", ""), re.M)
    assert rows == [field.name for field in task_fields()]
