"""`${{ run.args }}` and `${{ env.NAME }}` in the texts of a task; `$${{` stands for the characters `${{`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from pool.task.mistake import mistake

_OPENING = re.compile(r"\$(\$?)\{\{")
_ENV_NAME = re.compile(r"env\.([A-Za-z_][A-Za-z0-9_]*)")

ALLOWED = "write ${{ run.args }} or ${{ env.NAME }}; $${{ stands for the characters ${{"
RUN_ARGS = "run.args"


def references(text: str) -> Iterator[str]:
    """Every reference in `text`, such as `run.args` or `env.HOME`; a mistake for anything else inside `${{ }}`."""
    for name, _ in _pieces(text):
        if name is not None:
            yield name


def env_references(text: str) -> Iterator[str]:
    """The NAME of every `${{ env.NAME }}` in `text`."""
    for name in references(text):
        if name.startswith("env."):
            yield name[4:]


def interpolate(text: str, look_up: Callable[[str], str]) -> str:
    """`text` with every reference replaced by `look_up(reference)`."""
    if "{{" not in text:
        return text
    return "".join(literal if name is None else look_up(name) for name, literal in _pieces(text))


def _pieces(text: str) -> Iterator[tuple[str | None, str]]:
    """(None, literal) and (reference, "") in order."""
    start = 0
    for opening in _OPENING.finditer(text):
        if opening.start() < start:
            continue
        yield None, text[start : opening.start()]
        start = opening.end()
        if opening[1]:
            yield None, "${{"
            continue
        end = text.find("}}", start)
        if end < 0:
            raise mistake("${{ is not closed by }}", ALLOWED)
        name = text[start:end].strip()
        if name != RUN_ARGS and not _ENV_NAME.fullmatch(name):
            raise mistake(f"${{{{ {name[:60]} }}}} is not something a task can refer to", ALLOWED)
        yield name, ""
        start = end + 2
    yield None, text[start:]
