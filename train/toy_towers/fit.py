"""The training loop of the towers and of the tiny model, without Ray.

Muon optimizes the matrices, AdamW the other parameters.

The batch of a step depends on its number alone, so two runs with the same settings give the same weights. A
process has one thread: several processes with a part of the batch each use more cores better than threads do.
Matrix products are computed in bfloat16 where the processor has instructions for it; weights stay float32.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from lladav.decoding.cpu_weights import fastest_dtype
from train.toy_towers.fit_state import FitState
from train.toy_towers.muon import Muon
from train.trainer.lr_schedule import lr_factor
from train.trainer.progress import format_seconds, report

WARMUP_RATIO = 0.03
WARMUP_STEPS = 50
"""Steps of the warm-up before constant learning rates."""
CLIP = 1.0
BETAS = (0.9, 0.98)
INTERVAL_SECONDS = 5.0
SAVE_EVERY = 100
"""Steps between two saved states."""


@dataclass(frozen=True)
class Fit:
    """Steps, samples per step, and the peak learning rates of the two optimizers."""

    steps: int
    batch: int
    adam_lr: float
    muon_lr: float
    weight_decay: float = 0.0
    decay: float | None = None
    """Share of the steps, at the end, in which the learning rates fall linearly to zero, after constant ones.
    None: they follow a cosine."""

    def lr_factor(self, step: int) -> float:
        """Factor for the learning rates at ``step``, counted from 0."""
        if self.decay is None:
            return lr_factor(step + 1, self.steps + 1, WARMUP_RATIO)
        return min(1.0, (step + 1) / WARMUP_STEPS, (self.steps - step) / (self.decay * self.steps))

    def scaled(self, scale: float) -> Fit:
        """The same settings with more or fewer steps; fewer steps, for tests, also have smaller batches."""
        steps, batch = max(1, round(self.steps * scale)), max(8, round(self.batch * min(1, scale)))
        return replace(self, steps=steps, batch=batch)


def fit(
    title: str,
    named: Iterable[tuple[str, nn.Parameter]],
    settings: Fit,
    loss_at: Callable[[int], Tensor],
    file: Path | None = None,
    save_every: int = SAVE_EVERY,
) -> float:
    """Minimize ``loss_at(step)`` and print the progress; return the seconds it took.

    The state is saved to ``file`` every ``save_every`` steps, and a fit begins with the state in the file.
    """
    trained = {name: parameter for name, parameter in named if parameter.requires_grad}
    optimizers = _optimizers(trained, settings)
    state = FitState(file, trained, optimizers) if file else None
    first = state.restore() if state else 0
    progress = _Progress(title, settings.steps, first)
    for step in range(first, settings.steps):
        progress.show(step + 1, _step(step, trained, optimizers, settings, loss_at))
        if state and (step + 1) % save_every == 0 and is_first_process():
            state.save(step + 1)
    return progress.seconds


def is_first_process() -> bool:
    """Whether this process reports and saves; the others of a fit do not."""
    return not dist.is_initialized() or dist.get_rank() == 0


def _step(
    step: int,
    trained: Mapping[str, nn.Parameter],
    optimizers: Sequence[torch.optim.Optimizer],
    settings: Fit,
    loss_at: Callable[[int], Tensor],
) -> Tensor:
    """One step; returns the loss before it."""
    factor = settings.lr_factor(step)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor
        optimizer.zero_grad(set_to_none=True)
    with fast_products():
        loss = loss_at(step)
    loss.backward()
    _average_gradients(list(trained.values()))
    nn.utils.clip_grad_norm_(trained.values(), CLIP)
    for optimizer in optimizers:
        optimizer.step()
    return loss.detach()


@contextmanager
def fast_products() -> Iterator[None]:
    """Compute matrix products in bfloat16 if the processor has instructions for it.

    Attention is then made of plain products: torch's fused backward pass in bfloat16 is several times slower.
    """
    if fastest_dtype("cpu") == "float32":
        yield
        return
    with torch.autocast("cpu", torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
        yield


def _average_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Replace the gradients by their means over the processes of the fit."""
    if not dist.is_initialized():
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    joined = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(joined)
    parts = joined.div_(dist.get_world_size()).split([gradient.numel() for gradient in gradients])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.view_as(gradient))


def shuffled(total: int, batch: int, step: int, seed: int) -> Tensor:
    """Indices of a step's samples. Each epoch has its own permutation, without an incomplete last batch."""
    per_epoch = max(1, total // batch)
    epoch, number = divmod(step, per_epoch)
    order = torch.randperm(total, generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch))
    return order[number * batch : (number + 1) * batch]


def _optimizers(trained: dict[str, nn.Parameter], settings: Fit) -> list[torch.optim.Optimizer]:
    # A list: a saved state names parameters by their order.
    matrices = [name for name, parameter in trained.items() if parameter.ndim == 2 and ".layers." in name]
    rest = [parameter for name, parameter in trained.items() if name not in matrices]
    found: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(rest, lr=settings.adam_lr, betas=BETAS, weight_decay=settings.weight_decay)
    ]
    if matrices:
        found.append(Muon([trained[name] for name in matrices], lr=settings.muon_lr))
    for optimizer in found:
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"]
    return found


class _Progress:
    """Prints a line every few seconds."""

    def __init__(self, title: str, steps: int, first: int) -> None:
        self._title, self._steps, self._first = title, steps, first
        self._begin = self._shown = time.monotonic()
        self._losses: list[float] = []

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._begin

    def show(self, step: int, loss: Tensor) -> None:
        self._losses.append(loss.item())
        now = time.monotonic()
        if not is_first_process() or (now - self._shown < INTERVAL_SECONDS and step < self._steps):
            return
        mean = sum(self._losses) / len(self._losses)
        left = self.seconds / (step - self._first) * (self._steps - step)
        report(f"{self._title} step {step:>4}/{self._steps}  loss {mean:6.3f}  ETA {format_seconds(left)}")
        self._shown, self._losses = now, []
