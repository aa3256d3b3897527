"""The table: results, the machine they were measured on, and their place in README."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import time

from benchmarks.row import Result

BEGIN, END = "<!-- bench -->", "<!-- /bench -->"


def markdown(results: list[Result]) -> str:
    """Every result as a row of a Markdown table, and below it when and on what machine."""
    lines = ["| what | pool | compared with | ratio | target | |", "|---|---|---|---|---|---|"]
    lines += [_line(result) for result in results]
    return "\n".join(lines) + "\n\n" + machine() + "\n"


def machine() -> str:
    """Date, CPUs, kernel, Python, OpenSSH: a number without them says nothing."""
    said = subprocess.run(["ssh", "-V"], capture_output=True, text=True, check=False).stderr
    openssh = re.split(r"[ ,]", said.removeprefix("OpenSSH_"))[0] or "none"
    return (
        f"{time.strftime('%Y-%m-%d')}, {os.cpu_count()} CPUs ({platform.machine()}), "
        f"Linux {platform.release()}, Python {platform.python_version()}, OpenSSH {openssh}; "
        f"medians of runs in turn, hosts and client on this one machine."
    )


def write_readme(path: str, table: str) -> None:
    """Put the table between the markers in the file `path`, or at its end where it has none, or into a new file."""
    block = f"{BEGIN}\n{table}{END}"
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
    except FileNotFoundError:
        text = ""
    if BEGIN in text and END in text:
        before, _, rest = text.partition(BEGIN)
        text = before + block + rest.partition(END)[2]
    else:
        text = f"{text.rstrip()}\n\n{block}\n".lstrip()
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


def _line(result: Result) -> str:
    if result.skipped:
        return f"| {result.what} | – | {result.skipped} | | | skipped |"
    peers = ", ".join(f"{name} {_number(value)} {result.unit}" for name, value in result.peers.items())
    ratio = f"{result.ratio:.2f} ×" if result.ratio is not None else ""
    target, verdict = "", ""
    if result.target:
        target = result.target.words(result.unit)
        verdict = "met" if result.target.met(result.ours, result.ratio) else "**missed**"
    return f"| {result.what} | {_number(result.ours)} {result.unit} | {peers} | {ratio} | {target} | {verdict} |"


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
