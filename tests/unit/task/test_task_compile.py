"""From a task to a spec: every field has its effect or a note, options go over the file, profiles lie under it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from pool.errors import InputError, TaskError
from pool.offer import GpuRequest, Range, Request
from pool.run import Port, Retry, TaskSpec
from pool.task.compile import compile_task, request_from_options
from pool.task.load import load_task
from pool.task.needed import needed_env
from pool.task.options import apply_options, parse_options
from pool.task.profiles import find_profile, parse_profiles
from pool.task.schema import TaskConfig

HEAD = "type: task\ncommands: [x]\n"


def task(text: str, head: str = HEAD) -> TaskConfig:
    """The task of a small file."""
    return load_task((head + text).encode(), "t.yml")


def spec(text: str, head: str = HEAD, args: tuple[str, ...] = (), **env: str) -> TaskSpec:
    """The spec of a small file, without options."""
    return compile_task(task(text, head), args, env)


@pytest.mark.parametrize(
    ("written", "field", "value"),
    [
        ("name: train-1", "name", "train-1"),
        ("nodes: 2", "nodes", 2),
        ("nodes: '2'", "nodes", 2),
        ("nodes: 2.0", "nodes", 2),
        ("working_dir: ./a//b/../c", "working_dir", "a/c"),
        ("home_dir: /home/me", "home_dir", "/home/me"),
        ("shell: /bin/zsh", "shell", "/bin/zsh"),
        ("user: 1000", "user", "1000"),
        ("image: repo/img:1.10", "image", "repo/img:1.10"),
        ("python: 3.1", "python", "3.10"),
        ("python: 3.10", "python", "3.10"),
        ("python: '3.12'", "python", "3.12"),
        ("registry_auth: {username: 0123, password: 0xff}", "registry_auth", ("0123", "0xff")),
        ("privileged: true", "privileged", True),
        ("docker: yes", "docker", True),
        ("volumes: [/a:/b, '/c:/d:ro', {instance_path: /e, path: /f}]", "volumes", ("/a:/b", "/c:/d:ro", "/e:/f")),
        ("files: [a, 'b:/c', {local_path: d, path: e}]", "files", ("a", "b:/c", "d:e")),
        ("ports: [6000, '80:8080', '*:9000']", "ports", (Port(6000, 6000), Port(8080, 80), Port(9000, None))),
        ("ports: [{container_port: 1, local_port: 2}]", "ports", (Port(1, 2),)),
        ("max_duration: 2h", "max_duration_s", 7200),
        ("max_duration: off", "max_duration_s", None),
        ("", "max_duration_s", 72 * 3600),
        ("stop_duration: 1m", "stop_duration_s", 60),
        ("", "stop_duration_s", 30),
        ("startup_order: master-first\nnodes: 2", "startup_order", "master-first"),
        ("stop_criteria: master-done\nnodes: 2", "stop_criteria", "master-done"),
        ("retry: true", "retry", Retry(("no-capacity", "interruption", "error"), 3600)),
        ("retry: false", "retry", None),
        ("retry: {on_events: [error], duration: off}", "retry", Retry(("error",), None)),
        ("retry: {duration: 1d}", "retry", Retry(("no-capacity", "interruption", "error"), 86400)),
        ("retry_policy: {retry: true, duration: 1d}", "retry", Retry(("no-capacity", "interruption", "error"), 86400)),
        ("retry_policy: {retry: false}", "retry", None),
        ("priority: 7", "priority", 7),
        ("runtime: process", "runtime", "process"),
        ("schedule: {cron: '0 4 * * mon-fri'}", "schedule", ("0 4 * * mon-fri",)),
        ("utilization_policy: {min_gpu_utilization: 5, time_window: 1h}", "utilization", (5, 3600)),
        ("resources: {shm_size: 1.5GB}", "shm_mib", 1536),
        (
            "env: {A: 1.10, B: true, C: 0x1F, D: '', E: \"a\\nb\"}",
            "env",
            {"A": "1.10", "B": "true", "C": "0x1F", "D": "", "E": "a\nb"},
        ),
        ("env: ['A=b=c d%$\"', B=]", "env", {"A": 'b=c d%$"', "B": ""}),
    ],
)
def test_fields(written: str, field: str, value: Any) -> None:
    """Each field of the file stands in the spec, exactly."""
    assert getattr(spec(written), field) == value


@pytest.mark.parametrize(
    ("written", "request_"),
    [
        ("", Request()),
        ("resources: {}", Request()),
        ("resources: {cpu: 4}", Request(cpus=Range(4, 4))),
        ("resources: {memory: 512GB}", Request(memory_mib=Range(512 * 1024, None))),
        ("resources: {disk: {size: 1TB}}", Request(disk_mib=Range(1024 * 1024, None))),
        ("resources: {disk: null}", Request()),
        ("resources: {gpu: A100:2}", Request(gpu=GpuRequest(Range(2, 2), ("A100",)))),
        ("resources: {gpu: 0}", Request(gpu=GpuRequest(Range(0, 0)))),
        ("resources: {shm_size: 16GB}", Request(shm_mib=16384)),
        ("pool_name: lab", Request(pool="lab")),
        ("instance_name: gpu1", Request(host="gpu1")),
        ("regions: [a, b]", Request(regions=("a", "b"))),
        ("regions: a", Request(regions=("a",))),
        ("instance_types: [8xA100]", Request(instance_types=("8xA100",))),
        ("backends: [aws]", Request(backends=("aws",))),
        ("spot_policy: spot", Request(spot=True)),
        ("spot_policy: auto", Request(spot=False)),
        ("max_price: 1.5", Request(max_price=1.5)),
        ("image: x", Request(runtime="docker")),
        ("python: 3.11", Request(runtime="docker")),
        ("runtime: docker", Request(runtime="docker")),
        ("image: x\nruntime: process", Request(runtime="process")),
    ],
)
def test_request(written: str, request_: Request) -> None:
    """Only what is written is a requirement on a host."""
    assert spec(written).request == request_


@pytest.mark.parametrize(
    ("written", "note"),
    [
        ("backends: [aws, gcp]", "no host matches aws, gcp"),
        ("spot_policy: spot", "matches no host"),
        ("spot_policy: auto", "no effect"),
        (
            "creation_policy: reuse-or-create\ntermination_idle_time: 5m",
            "creation_policy, termination_idle_time have no effect",
        ),
        ("termination_policy: destroy-after-idle", "termination_policy has no effect"),
        ("retry_policy: {retry: true}", "deprecated"),
        ("nvcc: true\npython: 3.11", "nvcc"),
        ("schedule: {cron: '* * * * *'}", "the run starts now"),
        ("utilization_policy: {min_gpu_utilization: 5, time_window: 1h}", "not stopped"),
        ("repos: [.]", "repos"),
        ("env: [CUDA_VISIBLE_DEVICES=0]", "a job sees the GPUs it was given"),
        ("stop_criteria: master-done", "one node"),
        ("startup_order: master-first", "one node"),
        ("volumes: ['/a:/b']", "volumes has no effect"),
        ("user: me", "user has no effect"),
        ("home_dir: /x", "home_dir has no effect"),
        ("registry_auth: {username: a, password: b}", "registry_auth has no effect"),
        ("resources: {shm_size: 1GB}", "/dev/shm"),
    ],
)
def test_notes(written: str, note: str) -> None:
    """A field that has no effect on a pool says so, once."""
    assert [n for n in spec(written).notes if note in n] == list(spec(written).notes)
    assert len(spec(written).notes) == 1


@pytest.mark.parametrize(
    ("written", "image"),
    [
        ("image: x:1", "x:1"),
        ("python: '3.12'", "base:3.12"),
        ("runtime: docker", "base:3.11"),
        ("", None),
        ("python: '3.12'\nruntime: process", None),
    ],
)
def test_a_container_without_an_image_has_the_default_one(written: str, image: str | None) -> None:
    """With the python that was asked for; a process has none."""
    text = "type: task\ncommands: [x]\n" + written
    assert compile_task(load_task(text.encode(), "t"), [], {}, "base:{python}").image == image


def test_no_notes() -> None:
    """A task whose fields all have their effect has no notes."""
    text = "image: x\nnodes: 2\nbackends: [ssh]\nregions: [remote]\nvolumes: ['/a:/b']\nhome_dir: /x\n"
    text += "resources: {shm_size: 1GB}"
    assert spec(text).notes == ()


def test_gpu_variables_are_the_pools() -> None:
    """CUDA_VISIBLE_DEVICES and its kin never reach the job from a file."""
    assert spec("env: [CUDA_VISIBLE_DEVICES=0, NVIDIA_VISIBLE_DEVICES=all, A=1]").env == {"A": "1"}


def test_null_is_not_written() -> None:
    """A key without a value is as if it were not there."""
    assert spec("name:\nenv: ~\nports: null\nresources:\nmax_duration:\n") == spec("")


def test_commands_and_setup() -> None:
    """Setup comes first; without commands an image runs its own."""
    script = spec("setup: [first]").script or ""
    assert script.index("first") < script.index("'x\n'")
    assert spec("image: x", head="type: task\n").script is None


def test_commands_as_written() -> None:
    """A command is text whatever YAML makes of it, and a bare comment is an empty one."""
    found = load_task(b"type: task\ncommands:\n  - true\n  - # later\n  - 1.10\n  - off\n", "t")
    assert found.commands == ("true", "", "1.10", "off")


def test_entrypoint() -> None:
    """An entrypoint is split like a shell would; commands are its arguments, and no shell runs."""
    found = spec("entrypoint: python -m 'my app'\nimage: y", head="type: task\ncommands: [--lr 1, b]\n")
    assert found.entrypoint == ("python", "-m", "my app", "--lr 1", "b")
    assert found.script is None
    assert spec("entrypoint: [python, a b]", head="type: task\n").entrypoint == ("python", "a b")


def test_dev_environment() -> None:
    """A dev-environment has its own fields, needs no commands, has 6h, and stays up."""
    found = spec("ide: vscode\nversion: 1.90\ninit: [a]", head="type: dev-environment\n")
    assert (found.type, found.ide, found.ide_version, found.max_duration_s) == (
        "dev-environment",
        "vscode",
        "1.90",
        21600,
    )
    assert "sleep" in (found.script or "")
    assert found.inactivity_s is None, "it is off when not written"
    assert spec("inactivity_duration: 1h30m", head="type: dev-environment\n").inactivity_s == 5400
    assert spec("inactivity_duration: off", head="type: dev-environment\n").inactivity_s is None
    found = spec("init: [a]\nsetup: [b]\ncommands: [c]", head="type: dev-environment\n")
    assert re.findall(r"eval '?(\w+)", found.script or "") == ["a", "b", "c", "while"]


def test_interpolation() -> None:
    """References work in every text; `$${{` is the text itself, and no other `$$` is touched."""
    found = spec(
        "image: reg/${{ env.TAG }}\nregistry_auth: {username: u, password: '${{env.PASS}}'}\n"
        "env: ['A=${{ env.TAG }}-x', 'PATH=${{ env.PATH }}:/x', 'B=${{ env.A }}!']\nworking_dir: ${{ env.DIR }}",
        head="type: task\ncommands: ['echo $$ $${{ run.args }} ${{ env.A }} ${{run.args}}']\n",
        args=("a b",),
        TAG="v1",
        PASS="p$1",
        PATH="/bin",
        DIR="sub",
    )
    assert found.image == "reg/v1"
    assert found.registry_auth == ("u", "p$1")
    assert found.env == {"A": "v1-x", "PATH": "/bin:/x", "B": "v1-x!"}
    assert found.working_dir == "sub"
    assert "echo $$ ${{ run.args }} v1-x '\"'\"'a b'\"'\"'" in (found.script or "")
    assert found.notes == ()


def test_interpolated_values_are_not_read_again() -> None:
    """What comes from the caller is text: a `${{` in it stays."""
    assert spec("env: [A]", A="${{ env.B }} $${{").env == {"A": "${{ env.B }} $${{"}


def test_unused_arguments() -> None:
    """Arguments that no command refers to are told of."""
    assert "'a b' --c" in spec("", args=("a b", "--c")).notes[0]


def test_env_circle() -> None:
    """Variables that need each other are an error."""
    with pytest.raises(InputError, match="circle"):
        spec("env: ['A=${{ env.B }}', 'B=${{ env.A }}']")


def test_working_dir_from_env_stays_inside() -> None:
    """A folder that comes from the environment must stay inside as a written one must."""
    with pytest.raises(InputError, match="leaves the folder"):
        spec("working_dir: a/${{ env.D }}", D="../../etc")


def test_missing_values() -> None:
    """Every name without a value is named, with the command to type; an empty value is a value."""
    with pytest.raises(InputError) as caught:
        spec("env: [TOKEN, B, C=1]", B="")
    assert caught.value.details["missing"] == ["TOKEN"]
    assert caught.value.hint == "export TOKEN=…, or add -e TOKEN=…"
    assert spec("env: [B]", B="").env == {"B": ""}


def test_long_value_from_the_caller() -> None:
    """A value of the caller that no program could be started with is an error that says so."""
    with pytest.raises(InputError, match="MAX_ARG_STRLEN"):
        spec("env: [A]", A="x" * 131_070)
    assert len(spec("env: [A]", A="x" * 131_069).env["A"]) == 131_069


def test_what_is_not_text() -> None:
    """Bytes that are no UTF-8 are refused by name: a pool passes text, byte for byte."""
    with pytest.raises(InputError, match="A is not UTF-8"):
        spec("env: [A]", A="\udcff")
    with pytest.raises(InputError, match="argument is not UTF-8"):
        spec("", args=("\udcff",))
    with pytest.raises(TaskError):
        spec('env: {A: "\\ud800"}')


def test_request_from_options() -> None:
    """`pool offer` asks with options alone."""
    asked = request_from_options(parse_options({"gpu": "A100:2", "memory": "64GB..", "pool": "lab"}))
    assert asked == Request(memory_mib=Range(65536, None), gpu=GpuRequest(Range(2, 2), ("A100",)), pool="lab")


def test_needed_env() -> None:
    """Exactly the names that the caller's environment must give, no others."""
    text = (
        "env: [A, B=1, 'C=${{ env.X }}', 'P=${{ env.P }}']\nimage: '${{ env.B }}/${{ env.Y }}'\nfiles: ['${{ env.Z }}']"
    )
    assert needed_env(task(text)) == ["A", "Z", "Y", "X", "P"]
    options = parse_options({"env": ["A=2", "D", "X=${{ env.Q }}"]})
    assert needed_env(task(text), options) == ["D", "Z", "Y", "P"]
    assert needed_env(apply_options(task(text), options), None) == ["D", "Z", "Y", "P"]


def test_options_go_over_the_file() -> None:
    """Every option replaces what the file says; the rest of the file stays."""
    text = "name: a1\nenv: [A=1, B=2]\nports: [80, 81]\nmax_duration: 1h\nregions: [x]\n"
    text += "resources: {gpu: A100:8, cpu: 4, memory: 1GB, disk: 2GB}"
    options = parse_options(
        {
            "name": "b2",
            "env": ["A=9", "C=${{ env.Q }}"],
            "gpu": "H100",
            "memory": "2GB..",
            "ports": ["8080:80"],
            "max_duration": "off",
            "retry": True,
            "pool": "lab",
            "instance": "h1",
            "regions": ["y"],
            "spot_policy": "on-demand",
        }
    )
    found = compile_task(apply_options(task(text), options), (), {})
    assert found.name == "b2"
    assert found.env == {"A": "9", "B": "2", "C": "${{ env.Q }}"}
    assert found.request == Request(
        cpus=Range(4, 4),
        memory_mib=Range(2048, None),
        disk_mib=Range(2048, None),
        gpu=GpuRequest(Range(1, 1), ("H100",)),
        pool="lab",
        host="h1",
        regions=("y",),
    )
    assert found.ports == (Port(80, 8080), Port(81, 81))
    assert found.max_duration_s is None
    assert found.retry is not None


@pytest.mark.parametrize(
    ("given", "flag", "hint"),
    [
        ({"gpu": "A100x2"}, "--gpu: ", "A100:2"),
        ({"memory": "lots"}, "--memory: ", "24GB"),
        ({"env": ["A B=1"]}, "-e: ", "letters"),
        ({"env": ["A=1", "A=2"]}, "-e: A is given twice", "keep one"),
        ({"ports": ["x"]}, "-p: ", "8080"),
        ({"max_duration": "soon"}, "--max-duration: ", "2h"),
        ({"regions": [""]}, "--region: ", ""),
        ({"bogus": 1}, "--bogus: is not an option", ""),
    ],
)
def test_wrong_options(given: dict[str, Any], flag: str, hint: str) -> None:
    """A wrong option names its flag and the right spelling."""
    with pytest.raises(InputError) as caught:
        parse_options(given)
    assert caught.value.message.startswith(flag)
    assert hint in (caught.value.hint or "")


def test_option_port_that_collides() -> None:
    """A port of the command line that takes the local port of another is an error."""
    with pytest.raises(InputError, match="local port 80 is used twice"):
        apply_options(task("ports: [80]"), parse_options({"ports": ["80:81"]}))


PROFILES = b"""
profiles:
  - name: lab
    regions: [lab]
    max_price: 2
    retry: true
    max_duration: 1h
  - name: usual
    default: true
    spot_policy: on-demand
"""


def test_profile_lies_under_the_file() -> None:
    """Command line over file over profile over default."""
    profile = parse_profiles(PROFILES, "p")[0]
    found = apply_options(task("max_duration: 2h\nretry: false"), parse_options({"regions": ["here"]}), profile)
    assert (found.max_duration, found.regions, found.max_price) == (7200, ("here",), 2)
    assert compile_task(found, (), {}).retry is None
    assert compile_task(apply_options(task(""), None, profile), (), {}).retry is not None
    old = apply_options(task("retry_policy: {retry: false}"), None, profile)
    assert compile_task(old, (), {}).retry is None


def test_find_profile(tmp_path: Path) -> None:
    """The folder's file counts before the home's; --profile picks by name, else the default one."""
    folder, home = tmp_path / "folder", tmp_path / "home"
    for parent, text in (
        (folder, PROFILES),
        (home, b"profiles: [{name: mine, default: true}, {name: lab, priority: 9}]"),
    ):
        (parent / ".dstack").mkdir(parents=True)
        (parent / ".dstack" / "profiles.yml").write_bytes(text)
    names = {name: getattr(find_profile(str(folder), name, str(home)), "name", None) for name in (None, "lab", "mine")}
    assert names == {None: "usual", "lab": "lab", "mine": "mine"}
    assert find_profile(str(tmp_path), None, str(tmp_path)) is None
    with pytest.raises(InputError, match="there are: lab, usual, mine, lab"):
        find_profile(str(folder), "nope", str(home))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"a: 1", "key profiles"),
        (b"profiles: [{name: a}, {name: a}]", "two profiles are called"),
        (b"profiles: [{name: a, default: true}, {name: b, default: true}]", "a is the default profile already"),
        (b"profiles: [{regions: [a]}]", "name is missing"),
        (b"profiles:\n  - name: a\n    comands: [x]\n", "p:3:5: unknown key"),
    ],
)
def test_wrong_profiles(text: bytes, said: str) -> None:
    """A profiles file that is not valid is shown like a task file."""
    with pytest.raises(TaskError, match="p:") as caught:
        parse_profiles(text, "p")
    assert said in caught.value.message


def test_secrets_are_not_in_the_repr() -> None:
    """A registry password is in no repr."""
    assert "hunter2" not in repr(task("image: x\nregistry_auth: {username: u, password: hunter2}"))
