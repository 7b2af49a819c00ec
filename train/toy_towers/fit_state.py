"""The state of an unfinished fit in a file, so that a command that is killed can resume.

The file holds tensors and numbers only, and is read as such.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import nn


class FitState:
    """Weights, optimizers and the number of finished steps."""

    def __init__(
        self, file: Path, trained: Mapping[str, nn.Parameter], optimizers: Sequence[torch.optim.Optimizer]
    ) -> None:
        self._file, self._trained, self._optimizers = file, trained, optimizers

    def restore(self) -> int:
        """Read the file if there is one; return the number of finished steps."""
        if not self._file.is_file():
            return 0
        state = torch.load(self._file, weights_only=True)
        with torch.no_grad():
            for name, parameter in self._trained.items():
                parameter.copy_(state["weights"][name])
        for optimizer, saved in zip(self._optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        return state["step"]

    def save(self, step: int) -> None:
        """Replace the file."""
        self._file.parent.mkdir(parents=True, exist_ok=True)
        partial = self._file.with_suffix(".partial")
        weights = {name: parameter.detach() for name, parameter in self._trained.items()}
        states = [optimizer.state_dict() for optimizer in self._optimizers]
        torch.save({"step": step, "weights": weights, "optimizers": states}, partial)
        partial.replace(self._file)
