"""The forward process: which supervised positions of a sample are masked, and what that makes of a batch.

Noise is a pure function of (seed, epoch, sample id): it does not depend on the rank, the batch or the number
of workers that a sample happens to meet, so a resumed or resized run sees the same noise.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from lladav.diffusion.loss import TargetRows
from lladav.packing import PackedBatch
from lladav.samples import IGNORED


@dataclass(frozen=True)
class Stratum:
    """A sample's place in its global batch: the ``index``-th of ``count`` equal parts of [0, 1)."""

    index: int
    count: int


@dataclass(frozen=True)
class Noise:
    """Noise level t in [0, 1), mask ratio p, and which of the sample's supervised positions are masked."""

    level: float
    ratio: float
    masked: np.ndarray


def draw_noise(
    seed: int,
    epoch: int,
    sample_id: str,
    supervised: int,
    min_mask_ratio: float = 1e-3,
    stratum: Stratum | None = None,
) -> Noise:
    """Noise of one sample: t ~ U[0, 1), each supervised position masked with p = (1 - e) t + e (Eq. 6)."""
    random = _generator(seed, epoch, sample_id)
    level = random.random()
    if stratum is not None:
        level = (stratum.index + level) / stratum.count
    ratio = (1 - min_mask_ratio) * level + min_mask_ratio
    return Noise(level, ratio, random.random(supervised) < ratio)


def _generator(seed: int, epoch: int, sample_id: str) -> np.random.Generator:
    digest = hashlib.blake2b(f"{seed}/{epoch}/{sample_id}".encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))


@dataclass(frozen=True)
class NoisyBatch:
    """A packed batch with M positions replaced by the mask id, and what is to be predicted there.

    ``sample_M`` tells which sample of the batch each masked row belongs to.
    """

    packed: PackedBatch
    masked_M: Tensor
    sample_M: Tensor
    rows: TargetRows

    def to(self, device: torch.device | str) -> NoisyBatch:
        """The batch with its tensors on ``device``."""
        return NoisyBatch(
            self.packed.to(device), self.masked_M.to(device), self.sample_M.to(device), self.rows.to(device)
        )


def corrupt(
    packed: PackedBatch, noises: Sequence[Noise], mask_id: int, scale: float, chunk: int
) -> NoisyBatch:
    """Mask the batch.

    A masked row of a sample with n supervised positions weighs scale / (p n); with scale = 1 / samples of the
    global batch the weighted sum of cross-entropies is that batch's loss (Eq. 6). ``chunk`` rows meet the
    vocabulary at a time.
    """
    supervised = torch.nonzero(packed.labels_T != IGNORED).flatten()
    sample_S = _sample_of_position(packed)[supervised]
    kept = torch.from_numpy(np.concatenate([noise.masked for noise in noises]))
    masked_M, sample_M = supervised[kept], sample_S[kept]
    per_sample = torch.tensor(
        [scale / (n.ratio * max(1, len(n.masked))) for n in noises], dtype=torch.float32
    )
    token_ids = packed.token_ids_T.clone()
    token_ids[masked_M] = mask_id
    rows = TargetRows(packed.labels_T[masked_M], per_sample[sample_M], chunk)
    return NoisyBatch(replace(packed, token_ids_T=token_ids), masked_M, sample_M, rows)


def supervised_counts(packed: PackedBatch) -> list[int]:
    """Supervised positions of each sample."""
    return [int((labels != IGNORED).sum()) for labels in packed.labels_T.split(packed.lengths)]


def _sample_of_position(packed: PackedBatch) -> Tensor:
    return torch.repeat_interleave(torch.arange(len(packed.lengths)), torch.tensor(packed.lengths))
