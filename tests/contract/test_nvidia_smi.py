"""The labs' stand-in for `nvidia-smi` answers as a real one: one on record, and this machine's own where it has one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from pool.lab import gpus
from tests.contract.nvidia_smi import CASES, RECORD, answers, shape

#: Of these, the values differ from card to card and from moment to moment: only their form is compared.
_BY_SHAPE = ("what changes",)
_REAL = ["recorded"] + (["live"] if shutil.which("nvidia-smi") else [])


@pytest.fixture(params=_REAL)
def real(request: pytest.FixtureRequest) -> dict[str, Any]:
    """What a real nvidia-smi answers."""
    if request.param == "live":
        return answers("nvidia-smi")
    found: dict[str, Any] = json.loads(RECORD.read_text())
    return found


@pytest.fixture
def stand_in(real: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the stand-in answers for the same card."""
    _, _, name, _, driver, _ = real["probe"]["out"].strip().split(", ")
    model = next(model for model, (reported, _, _) in gpus.MODELS.items() if reported == name)
    monkeypatch.setattr(gpus, "DRIVER", driver)
    gpus.write(str(tmp_path), 1, model)
    return answers(f"{tmp_path}/bin/nvidia-smi")


@pytest.mark.parametrize("case", CASES)
def test_the_same_answer(case: str, real: dict[str, Any], stand_in: dict[str, Any]) -> None:
    """Exit code and text, word for word."""
    if case in _BY_SHAPE:
        assert shape(stand_in[case]["out"]) == shape(real[case]["out"])
    else:
        assert stand_in[case] == real[case]
