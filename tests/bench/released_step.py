"""The training loss as the released trainer computes it: the reference of the training benchmark.

Samples are padded to the longest of the batch and attend to the padding. The LM head is applied to every
position, and the logits are cast to float32 before those of masked positions are selected. The layers are
those of the model under test: only layout, LM head and loss differ.

Shapes: B samples, L positions of the longest, W width, V vocabulary, H heads, D head width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, scaled_dot_product_attention
from torch.nn.utils.rnn import pad_sequence

from lladav.diffusion.masking import Noise, supervised_counts
from lladav.diffusion.training_batch import TrainingBatch
from lladav.inputs.samples import IGNORED
from lladav.model.language import rotary_factors
from lladav.model.llada_v import LLaDAV


def released_loss(
    model: LLaDAV, batch: TrainingBatch, noises: Sequence[Noise], attend_to_padding: bool = True
) -> Tensor:
    """Mean over samples of Eq. 6, computed from the logits of all positions.

    Without ``attend_to_padding`` the padding is masked out, and the loss is that of the packed batch.
    """
    packed = batch.packed
    labels_BL = padded(packed.labels_T, packed.lengths, IGNORED)
    masked_T = torch.zeros_like(packed.labels_T, dtype=torch.bool).index_fill_(0, batch.predicted_M, True)
    masked_BL = padded(masked_T, packed.lengths)
    ratio_B1 = torch.tensor([[noise.ratio] for noise in noises])
    supervised_B1 = torch.tensor([[count] for count in supervised_counts(packed)])
    weight_BL = (1 / (ratio_B1 * supervised_B1)).expand(labels_BL.shape)
    logits_BLV = model.language.lm_head(dense_hidden(model, batch, attend_to_padding)).float()
    entropy_M = cross_entropy(logits_BLV[masked_BL], labels_BL[masked_BL], reduction="none")
    return (entropy_M * weight_BL[masked_BL]).sum() / len(noises)


def dense_hidden(model: LLaDAV, batch: TrainingBatch, attend_to_padding: bool) -> Tensor:
    """Final hidden states (B, L, W); padding enters as zero embeddings."""
    packed = batch.packed
    embeddings_BLW = padded(model.embed(packed), packed.lengths)
    count, longest, _ = embeddings_BLW.shape
    rotary = rotary_factors(torch.arange(longest).repeat(count), model.config.language)
    attend = DenseAttention(packed.lengths, attend_to_padding)
    return model.language(embeddings_BLW.flatten(0, 1), rotary, attend).unflatten(0, (count, longest))


class DenseAttention:
    """Bidirectional attention over padded samples that lie end to end."""

    def __init__(self, lengths: Sequence[int], attend_to_padding: bool) -> None:
        self.shape = len(lengths), max(lengths)
        real_BL = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
        self.mask = None if attend_to_padding else real_BL[:, None, None, :]

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:  # noqa: ARG002
        heads = (x.unflatten(0, self.shape).transpose(1, 2) for x in (query, key, value))
        mixed_BHLD = scaled_dot_product_attention(*heads, attn_mask=self.mask)
        return mixed_BHLD.transpose(1, 2).flatten(0, 1)


def padded(packed_T: Tensor, lengths: Sequence[int], value: float = 0) -> Tensor:
    """Samples that lie end to end as (B, L, ...), each padded with ``value``."""
    return pad_sequence(list(packed_T.split(list(lengths))), batch_first=True, padding_value=value)
