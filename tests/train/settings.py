"""Settings of a tiny model that trains in a second."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lladav.config.schema import Config, LearningRates, Precision, StageConfig, TrainConfig
from tests.lladav.build import tiny_config

LEARNING = LearningRates(language=1e-3, projector=1e-3, vision=1e-3)


def settings(storage: Path, **stage: Any) -> Config:
    """Settings of the tiny model, with micro-batches of one sample."""
    config = Config(
        stage=StageConfig(name="si", lr=LEARNING, **stage),
        model=tiny_config(),
        train=TrainConfig(
            run="test",
            storage=str(storage),
            precision=Precision.float32,
            persistence_threshold=300,
            micro_batch=1,
        ),
    )
    config.model.tokenizer = str(Path(__file__).parents[1] / "golden" / "tokenizer")
    return config
