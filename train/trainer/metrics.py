"""The metrics of a step, summed over micro-batches and ranks.

All metrics are sums in one float64 vector: a step needs a single small all-reduce, and every rank has the
same totals.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
from torch import Tensor

from lladav.diffusion.training_batch import TrainingBatch
from train.trainer.collectives import sum_over_ranks

BUCKETS = 5
"""The masked-diffusion loss is logged for this many equal parts of the noise level's range [0, 1)."""


@dataclass
class StepSums:
    """Sums over a step. Entropies are nats of predicted tokens, unweighted; ``loss`` is the objective."""

    loss: float = 0.0
    samples: float = 0.0
    rejected: float = 0.0
    text_tokens: float = 0.0
    visual_tokens: float = 0.0
    flops: float = 0.0
    wait_seconds: float = 0.0
    preempted_ranks: float = 0.0
    """Ranks that have been notified that a node of the run is taken away soon."""
    template_entropy: float = 0.0
    template_rows: float = 0.0
    answer_entropy: float = 0.0
    answer_rows: float = 0.0
    bucket_entropy: np.ndarray = field(default_factory=lambda: np.zeros(BUCKETS))
    bucket_rows: np.ndarray = field(default_factory=lambda: np.zeros(BUCKETS))

    def add(self, batch: TrainingBatch, entropy_M: Tensor, scale: float) -> None:
        """Add a micro-batch. ``scale`` is the factor in its weights that offsets DeepSpeed's averaging."""
        entropy = entropy_M.double().cpu()
        answer = batch.packed.answer_T[batch.predicted_M].cpu()
        self.loss += float((entropy * batch.rows.weights_M.double().cpu()).sum()) / scale
        visual = len(batch.packed.visual_positions_V)
        self.visual_tokens += visual
        self.text_tokens += len(batch.packed.token_ids_T) - visual
        self.answer_entropy += float(entropy[answer].sum())
        self.answer_rows += int(answer.sum())
        self.template_entropy += float(entropy[~answer].sum())
        self.template_rows += int((~answer).sum())
        if batch.levels_S is not None:
            self._add_buckets(np.array(batch.levels_S)[batch.sample_M.cpu().numpy()], entropy.numpy())

    def _add_buckets(self, level_M: np.ndarray, entropy_M: np.ndarray) -> None:
        bucket_M = np.minimum((level_M * BUCKETS).astype(int), BUCKETS - 1)
        self.bucket_entropy = self.bucket_entropy + np.bincount(bucket_M, entropy_M, BUCKETS)
        self.bucket_rows = self.bucket_rows + np.bincount(bucket_M, minlength=BUCKETS)

    def over_ranks(self) -> StepSums:
        """Collective: the sums over all ranks."""
        values = [
            np.broadcast_to(getattr(self, f.name), BUCKETS if f.name.startswith("bucket") else 1)
            for f in fields(self)
        ]
        totals = np.array(sum_over_ranks(np.concatenate(values).tolist()))
        parts = np.split(totals, np.cumsum([len(v) for v in values])[:-1])
        values = (part if len(part) > 1 else float(part[0]) for part in parts)
        return StepSums(*values)  # pyright: ignore[reportArgumentType]


def step_row(
    step: int, sums: StepSums, seconds: float, workers: int, peak: float | None, **more: Any
) -> dict[str, Any]:
    """The step as a row of the log. ``peak`` is the FLOP/s of one worker's device, None if unknown."""
    buckets = zip(sums.bucket_entropy, sums.bucket_rows, strict=True)
    return {
        "step": step,
        "loss": sums.loss,
        "loss_answer": _mean(sums.answer_entropy, sums.answer_rows),
        "loss_template": _mean(sums.template_entropy, sums.template_rows),
        **{f"loss_t{i / BUCKETS:.1f}": _mean(entropy, rows) for i, (entropy, rows) in enumerate(buckets)},
        "samples": int(sums.samples),
        "rejected": int(sums.rejected),
        "seconds": seconds,
        "data_wait_seconds": sums.wait_seconds / workers,
        "samples_per_second": sums.samples / seconds,
        "text_tokens_per_second": sums.text_tokens / seconds,
        "visual_tokens_per_second": sums.visual_tokens / seconds,
        "mfu": sums.flops / (seconds * peak * workers) if peak else None,
        **more,
    }


def _mean(total: float, count: float) -> float | None:
    return float(total / count) if count else None
