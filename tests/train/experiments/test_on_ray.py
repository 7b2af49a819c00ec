"""An experiment on Ray from the command line: a trial that trains, and one that fails."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.digits import shared_digits


@pytest.mark.proof
@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("takes_minutes")
def test_the_command_trains_measures_and_reports_a_failed_trial(root: Path, tmp_path: Path) -> None:
    digits = shared_digits()
    done = subprocess.run(
        [
            *(sys.executable, "train/experiment.py", "experiment=scaling", "stage.starts_from=null"),
            *(f"data.root={digits}", f"model.tokenizer={digits}/tokenizer", f"train.storage={tmp_path}"),
            *("model.weights.language=null", "model.weights.vision=null", "experiment.grid.model=[tiny]"),
            *("experiment.grid.data.fraction=[0.2]", "experiment.grid.train.init=[null,nowhere]"),
            *("stage.global_batch=4", "train.micro_batch=4", "train.max_steps=2"),
            *("cluster.threads_per_worker=1", "experiment.options.types=[parity]"),
        ],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    folder = tmp_path / "experiments" / "scaling"
    trained, failed = json.loads((folder / "results.json").read_text())["trials"]
    assert trained["samples"] == 20  # a fifth of the 100 samples of the shortened set
    assert trained["scores"]["all"]["questions"] == 60
    assert trained["train_seconds"] > 0
    assert failed["error"].startswith(f"train.init={root}/nowhere: no such weights")
    assert "1 of 2 trials failed" in done.stdout
    assert "| 20 " in (folder / "table.md").read_text()
    assert (folder / "plot.png").stat().st_size > 0
