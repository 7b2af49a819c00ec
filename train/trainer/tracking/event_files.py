"""TensorBoard: event files in the run's folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from lladav.config import loader
from train.trainer.tracking.tracker import TrackedRun, Tracker, ValidationAnswer

BOARD = "tensorboard"
"""Folder of the event files."""


class EventFiles(Tracker):
    """Writes event files."""

    def __init__(self, run: TrackedRun) -> None:
        from torch.utils.tensorboard import SummaryWriter  # slow to import

        self._writer = SummaryWriter(str(run.folder / BOARD), purge_step=run.first_step + 1)
        if run.first_step == 0:
            self._writer.add_text("settings", f"```\n{loader.to_yaml(run.config)}\n```", 0)

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        for name, value in numbers.items():
            self._writer.add_scalar(name, value, step)

    def show(self, step: int, answers: Sequence[ValidationAnswer]) -> None:
        for number, answer in enumerate(answers):
            self._writer.add_text(f"validation/{number}", answer.text, step)
            if answer.pictures:
                picture = np.concatenate(answer.pictures, axis=2)
                self._writer.add_image(f"validation/{number}", picture, step)

    def close(self) -> None:
        self._writer.close()
