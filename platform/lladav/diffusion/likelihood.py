"""The negative log-likelihood of answers: an upper bound of masked diffusion, the exact value of next-token
prediction.

The bound of LLaDA (arXiv 2502.09992, Eq. 3 and 4): for a noise level t and masks that hide each token of the
answer with probability t, the expected sum of the cross-entropies of the masked tokens, times 1 / t. It is
estimated as the released trainer does: t ~ U[0, 1), mask ratio (1 - 1e-3) t + 1e-3. Nothing of the training
objective changes the estimate (supervised template ids, EOS tails, the smallest mask ratio, blocks), so it
compares runs with different objectives. The noise is fixed: it depends on the id of a sample and the number
of the draw.

Shapes: M predicted positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from lladav.config.schema import ObjectiveConfig, Prediction, TokenIds
from lladav.diffusion.masking import Stratum, supervised_counts
from lladav.diffusion.objective import Objective
from lladav.diffusion.training_batch import TrainingBatch
from lladav.inputs.images import ViewGeometry
from lladav.inputs.packing import pack
from lladav.inputs.samples import IGNORED, Encoded, Sample

SEED = 0
"""Of the noise; a constant, so that runs with different seeds can be compared."""


class AnswerLikelihood:
    """Makes the batches whose weighted cross-entropies estimate the negative log-likelihood."""

    def __init__(self, kind: Prediction, tokens: TokenIds, geometry: ViewGeometry, chunk: int) -> None:
        """``chunk`` rows are projected to the vocabulary at a time."""
        released = ObjectiveConfig(kind=kind, stratified=True)
        self._objective = Objective(released, tokens, SEED, chunk)
        self._eos, self._geometry = tokens.eos, geometry

    def batch(self, samples: Sequence[Sample], strata: Sequence[Stratum], draw: int) -> TrainingBatch:
        """The answers of the samples under the noise with number ``draw``, with a noise level of each
        sample's stratum."""
        alone = [replace(sample, text=answers_alone(sample.text, self._eos)) for sample in samples]
        packed = pack(alone, self._geometry)
        return self._objective.batch(packed, [sample.id for sample in samples], draw, strata, scale=1.0)


def answers_alone(text: Encoded, eos: int) -> Encoded:
    """A training text with loss on the tokens of its answers alone, without EOS behind the last answer."""
    is_tail = text.answer & (text.input_ids == eos)
    end = len(is_tail) - int(np.argmin(is_tail[::-1]))
    kept = text.part(0, end)
    return replace(kept, labels=np.where(kept.answer, kept.labels, IGNORED).astype(np.int32))


def answer_nats(batch: TrainingBatch, entropy_M: Tensor) -> tuple[float, int]:
    """The estimate for all samples of a batch together in nats, and the number of their answer tokens.

    ``entropy_M`` are the cross-entropies of the predicted positions.
    """
    counts = torch.tensor(supervised_counts(batch.packed))
    # A weight is 1 / (mask ratio x tokens of the sample), or 1 / tokens without masks.
    weights_M = batch.rows.weights_M.double().cpu() * counts[batch.sample_M.cpu()]
    return float((weights_M * entropy_M.double().cpu()).sum()), int(counts.sum())
