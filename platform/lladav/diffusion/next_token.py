"""The autoregressive objective: each supervised token is predicted from the position before it.

Nothing is masked and nothing is random. As in ``transformers``, the first position of a sample has no
position before it and carries no loss, whatever its label.
"""

from __future__ import annotations

import torch

from lladav.diffusion.loss import TargetRows
from lladav.diffusion.training_batch import TrainingBatch, sample_of_positions
from lladav.inputs.packing import PackedBatch
from lladav.inputs.samples import IGNORED


def shift(packed: PackedBatch, scale: float, chunk: int) -> TrainingBatch:
    """Return a batch that predicts every supervised position from the one before it.

    The weight of a row is scale / n for n predicted positions of its sample. With scale = 1 / samples of the
    global batch, the weighted sum of cross-entropies is the mean over samples of the mean over tokens, which
    does not depend on how the batch is cut into micro-batches. ``chunk`` rows are projected to the vocabulary
    at a time.
    """
    predicted_T = packed.labels_T != IGNORED
    first_S = torch.tensor([0, *packed.lengths[:-1]]).cumsum(0)
    predicted_T[first_S] = False
    predicted_M = torch.nonzero(predicted_T).flatten()
    sample_M = sample_of_positions(packed)[predicted_M]
    count_S = torch.bincount(sample_M, minlength=len(packed.lengths))
    rows = TargetRows(packed.labels_T[predicted_M], scale / count_S[sample_M].float(), chunk)
    return TrainingBatch(packed, predicted_M, sample_M, rows, offset=1)
