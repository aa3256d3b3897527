"""The environment a task asks for: reading it and resolving it; `needed.py` says which names the caller must give.

A name without a value is the caller's to give: by `-e NAME=VALUE`, else by the caller's own environment. Only those
names ever leave it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from pool.errors import InputError
from pool.task.interpolation import RUN_ARGS, interpolate
from pool.task.mistake import mistake
from pool.task.scalar import show, text, within

#: Linux refuses to start a program with a longer `NAME=value` (MAX_ARG_STRLEN less its NUL).
ENTRY_MAX_BYTES: Final = 131071
#: What a job sees of its GPUs is the pool's alone.
OURS: Final = ("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES")

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

Env = dict[str, str | None]


def parse_env(value: Any) -> Env:
    """`["K=V", "K"]` or a map; None is a value still to come from the caller."""
    if isinstance(value, dict):
        return {name: within(name, lambda v, n=name: _entry(n, v), found) for name, found in value.items()}  # type: ignore[misc]
    if not isinstance(value, (list, tuple)):
        raise mistake(f"expected a list of NAME=value or a mapping, not {show(value)}", "write `- NAME=value`")
    env: Env = {}
    for i, item in enumerate(value):
        if not isinstance(item, str):
            raise mistake(f"expected NAME=value, not {show(item)}", "write `- NAME=value`, in quotes if needed", (i,))
        name, equals, found = text(item).partition("=")
        if name in env:
            raise mistake(f"{show(name)} is set twice", "keep one of the two", (i,))
        env[name] = within(i, lambda v, n=name: _entry(n, v), found if equals else None)  # type: ignore[misc]
    return env


def parse_entry(written: str) -> tuple[str, str | None]:
    """One `NAME=value` or `NAME` of the command line: the value is meant byte for byte, its `${{` is no reference."""
    name, equals, found = written.partition("=")
    value = _entry(name, found if equals else None)
    return name, None if value is None else value.replace("${{", "$${{")


def _entry(name: str, value: Any) -> str | None:
    if not _NAME.fullmatch(name):
        raise mistake(
            f"{show(name)} is not a name of an environment variable", "use letters, digits and _", at_key=True
        )
    if name.startswith("POOL_"):
        raise mistake(f"{name}: names that start with POOL_ are the pool's own", "choose another name", at_key=True)
    if value is None:
        return None
    found = text(value)
    _check_value(name, found)
    return found


def _check_value(name: str, value: str) -> None:
    try:
        size = len(name.encode()) + 1 + len(value.encode())
    except UnicodeEncodeError:
        raise mistake(f"{name} is not UTF-8 text", "encode its value, for example with base64") from None
    if size > ENTRY_MAX_BYTES:
        raise mistake(
            f"{name} is {size} bytes with its name; Linux starts no program with more than {ENTRY_MAX_BYTES} in one"
            " environment variable (MAX_ARG_STRLEN)",
            f"put the value into a file of the folder and let {name} name the file",
        )


class Resolver:
    """Gives each reference of a task its text: run arguments, the run's env, the caller's environment."""

    def __init__(self, env: Mapping[str, str | None], caller: Mapping[str, str], run_args: str) -> None:
        self.env = env
        self.caller = caller
        self.run_args = run_args
        self.args_used = False

    def text(self, written: str) -> str:
        """`written` with its references replaced."""
        return interpolate(written, self._look_up)

    def environment(self) -> dict[str, str]:
        """The run's whole environment; InputError names every variable that has no value."""
        missing = [name for name, value in self.env.items() if value is None and name not in self.caller]
        if missing:
            raise _no_value(missing)
        found = {name: self._variable(name, ()) for name in self.env if name not in OURS}
        for name, value in found.items():
            try:
                _check_value(name, value)
            except Exception as error:
                context: Any = getattr(error, "context", None) or {}
                raise InputError(context.get("message"), hint=context.get("hint")) from None
        return found

    def _look_up(self, reference: str) -> str:
        return self._reference(reference, ())

    def _reference(self, reference: str, inside: tuple[str, ...]) -> str:
        if reference == RUN_ARGS:
            self.args_used = True
            return self.run_args
        return self._variable(reference[4:], inside)

    def _variable(self, name: str, inside: tuple[str, ...]) -> str:
        """`name` as the run sets it, else as the caller has it; inside its own value it is the caller's."""
        value = self.env.get(name)
        if value is None or (inside and inside[-1] == name):
            if name not in self.caller:
                raise _no_value([name])
            return self.caller[name]
        if name in inside:
            raise InputError(f"env: {' -> '.join((*inside, name))} goes in a circle")
        return interpolate(value, lambda reference: self._reference(reference, (*inside, name)))


def _no_value(names: list[str]) -> InputError:
    one = names[0]
    listed = ", ".join(names)
    return InputError(
        f"{listed} {'has' if len(names) == 1 else 'have'} no value: the task takes "
        f"{'it' if len(names) == 1 else 'them'} from the environment of the command",
        hint=f"export {one}=…, or add -e {one}=…",
        missing=names,
    )
