"""Commands become one shell script, for bash and for any POSIX sh.

Each command is an `eval` of its own text, so that a comment, a `;`, a `&`, a heredoc or several lines in one cannot
reach the next; `cd` and `export` carry over, since all run in one shell. After each the status is looked at in a
statement of its own: `eval … || exit` would switch a user's `set -e` off inside the eval.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence

#: Ends the script with the status of the command before it, unless that is 0.
_CHECK = "case $? in 0) ;; *) exit ;; esac"

#: `conda activate` is a function of an interactive shell; a script has to ask conda for it.
_CONDA = """\
if [ -n "${BASH_VERSION-}" ] && [ "$(type -t conda)" != function ]; then
  for conda in "${CONDA_EXE-}" "$(command -v conda)" "$HOME/miniforge3/bin/conda" "$HOME/miniconda3/bin/conda" \\
    "$HOME/anaconda3/bin/conda" /opt/conda/bin/conda /opt/miniforge3/bin/conda; do
    if [ -x "$conda" ]; then eval "$("$conda" shell.bash hook)"; break; fi
  done
  unset conda
fi"""
_USES_CONDA = re.compile(r"\b(conda|mamba)\s+activate\b")

#: The default image sets its Python up in ~/.bashrc.
_BASHRC = 'if [ -n "${BASH_VERSION-}" ] && [ -r ~/.bashrc ]; then . ~/.bashrc; fi'

#: Keeps a dev-environment up; ends with the signal that stops the run.
STAY = "while :; do sleep 3600; done"


def build_script(commands: Sequence[str], *, bashrc: bool = False) -> str | None:
    """`commands` as one script; None without any. It exits with the status of the first command that fails."""
    if not commands:
        return None
    lines = []
    if bashrc:
        lines.append(_BASHRC)
    if any(_USES_CONDA.search(command) for command in commands):
        lines.append(_CONDA)
    for command in commands:
        # bash 5.2 reads on past an eval that ends in a continued line: give it an empty line to continue with.
        end = "\n\n" if command.endswith("\\") else "\n"
        lines += [f"eval {shlex.quote(command + end)}", _CHECK]
    return "\n".join(lines) + "\n"
