"""A run of an untrained tiny model."""

from __future__ import annotations

import json
from pathlib import Path

from data.digits.questions import Split
from lladav.checkpoint import export
from lladav.config.loader import load
from lladav.config.schema import Config
from lladav.model.initialization import initialize
from lladav.model.llada_v import LLaDAV
from lladav.storage import local_path
from tests.digits import copy_digits
from train.checkpoints.run_folder import WEIGHTS, Run


def untrained_run(folder: Path, split: Split, stage: str = "si") -> Config:
    """A run with one checkpoint, and two held-out questions of one half; all in ``folder``."""
    data = folder / "digits" if (folder / "digits").is_dir() else copy_digits(folder)
    questions = data / "held_out" / "questions.jsonl"
    rows = [json.loads(line) for line in questions.read_text().splitlines()[:2]]
    questions.write_text("".join(f"{json.dumps({**row, 'split': split})}\n" for row in rows))
    folders = [f"data.root={data}", f"model.tokenizer={data}/tokenizer", f"train.storage={folder}/runs"]
    config = load([f"stage={stage}", "model=tiny", "data=digits", *folders])
    model = LLaDAV(config.model)
    initialize(model, seed=0)
    checkpoint = local_path(Run.of(config).checkpoint_path(1))
    assert checkpoint is not None
    export(model, config.model, checkpoint / WEIGHTS, tokenizer=config.model.tokenizer)
    Run.of(config).commit(1, 1, 1)
    return config
