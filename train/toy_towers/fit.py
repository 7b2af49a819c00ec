"""The training loop of both towers: one process, no Ray; Muon for matrices, AdamW for other parameters.

The batch of a step depends on its number alone, so two runs with the same settings give the same tower.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from train.toy_towers.muon import Muon
from train.trainer.lr_schedule import lr_factor
from train.trainer.progress import format_seconds, report

WARMUP_RATIO = 0.03
CLIP = 1.0
BETAS = (0.9, 0.98)
INTERVAL_SECONDS = 5.0


@dataclass(frozen=True)
class Fit:
    """Steps, samples per step, and the peak learning rates of the two optimizers."""

    steps: int
    batch: int
    adam_lr: float
    muon_lr: float
    weight_decay: float = 0.0
    all_cores_from: int | None = None
    """Step from which the fit uses all cores: the other tower is finished by then."""

    def scaled(self, scale: float) -> Fit:
        """The same settings with fewer steps and smaller batches, for tests."""
        all_cores_from = None if self.all_cores_from is None else round(self.all_cores_from * scale)
        steps, batch = max(1, round(self.steps * scale)), max(8, round(self.batch * scale))
        return replace(self, steps=steps, batch=batch, all_cores_from=all_cores_from)


def fit(
    title: str, named: Iterable[tuple[str, nn.Parameter]], settings: Fit, loss_at: Callable[[int], Tensor]
) -> float:
    """Minimize ``loss_at(step)`` and print the progress; return the seconds it took."""
    trained = {name: parameter for name, parameter in named if parameter.requires_grad}
    optimizers = _optimizers(trained, settings)
    progress = _Progress(title, settings.steps)
    for step in range(settings.steps):
        if step == settings.all_cores_from:
            torch.set_num_threads(os.cpu_count() or 1)
        factor = lr_factor(step + 1, settings.steps + 1, WARMUP_RATIO)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] * factor
            optimizer.zero_grad(set_to_none=True)
        loss = loss_at(step)
        loss.backward()
        nn.utils.clip_grad_norm_(trained.values(), CLIP)
        for optimizer in optimizers:
            optimizer.step()
        progress.show(step + 1, loss)
    return progress.seconds


def shuffled(total: int, batch: int, step: int, seed: int) -> Tensor:
    """Indices of a step's samples. Each epoch has its own permutation, without an incomplete last batch."""
    per_epoch = max(1, total // batch)
    epoch, number = divmod(step, per_epoch)
    order = torch.randperm(total, generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch))
    return order[number * batch : (number + 1) * batch]


def _optimizers(trained: dict[str, nn.Parameter], settings: Fit) -> list[torch.optim.Optimizer]:
    matrices = {name for name, parameter in trained.items() if parameter.ndim == 2 and ".layers." in name}
    rest = [parameter for name, parameter in trained.items() if name not in matrices]
    adam = torch.optim.AdamW(rest, lr=settings.adam_lr, betas=BETAS, weight_decay=settings.weight_decay)
    muon = Muon([trained[name] for name in matrices], lr=settings.muon_lr)
    for optimizer in (adam, muon):
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"]
    return [adam, muon]


class _Progress:
    """Prints a line every few seconds."""

    def __init__(self, title: str, steps: int) -> None:
        self._title, self._steps = title, steps
        self._begin = self._shown = time.monotonic()
        self._losses: list[float] = []

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._begin

    def show(self, step: int, loss: Tensor) -> None:
        self._losses.append(loss.item())
        now = time.monotonic()
        if now - self._shown < INTERVAL_SECONDS and step < self._steps:
            return
        mean = sum(self._losses) / len(self._losses)
        left = self.seconds / step * (self._steps - step)
        report(f"{self._title} step {step:>4}/{self._steps}  loss {mean:6.3f}  ETA {format_seconds(left)}")
        self._shown, self._losses = now, []
