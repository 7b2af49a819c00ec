"""The terminal shows the newest step and every validation, also those between two looks at the log."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from train.trainer.progress import Progress
from train.trainer.step_log import LOG


def row(step: int, **more: Any) -> dict[str, Any]:
    rates = {"samples_per_second": 2.0, "text_tokens_per_second": 30.0, "visual_tokens_per_second": 10.0}
    return {"step": step, "loss": 1.5, "loss_answer": None, "seconds": 1.0, **rates, **more}


def validated(step: int, loss: float) -> dict[str, Any]:
    return row(step, validation_loss=loss, validation_samples=7, validation_seconds=61.0)


def test_validations_have_lines_of_their_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [validated(2, 3.0), row(3), validated(4, 2.5), row(5), validated(6, 2.25), row(7)]
    with Progress(tmp_path, "si", 2, 10):
        (tmp_path / LOG).write_text("".join(json.dumps(each) + "\n" for each in rows))
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:4] for line in lines] == [
        ["si", "step", "4/10", "validation"],
        ["si", "step", "6/10", "validation"],
        ["si", "step", "7/10", "loss"],
    ]
    assert lines[0].endswith("validation loss 2.5000 nats/token  7 samples in 1:01")
    assert "loss  1.500" in lines[2]
