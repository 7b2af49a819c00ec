"""The forward process: draws which supervised positions of a sample are masked, and masks a batch.

Noise is a pure function of (seed, epoch, sample id). It does not depend on rank, batch or number of workers,
so a resumed or resized run sees the same noise.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from lladav.diffusion.loss import TargetRows
from lladav.diffusion.training_batch import TrainingBatch, sample_of_positions
from lladav.inputs.packing import PackedBatch
from lladav.inputs.samples import IGNORED


@dataclass(frozen=True)
class Stratum:
    """The ``index``-th of ``count`` equal parts of [0, 1), from which a sample's noise level is drawn."""

    index: int
    count: int


@dataclass(frozen=True)
class AnswerSpan:
    """The number of supervised positions of a turn, and how many of them are EOS behind the last eot."""

    tokens: int
    tail: int


@dataclass(frozen=True)
class Blocks:
    """The answers of a sample in blocks of ``length`` tokens, for the states of semi-autoregressive decoding
    (Blockwise SFT, arXiv 2508.19529).

    One block of each answer is active. Positions before it are clean, and positions behind it are masked. In
    half of the answers longer than a block, the active block starts at any token: decoding reaches such a
    state after it has unmasked the left part of a block. Aligned blocks alone rarely show a step of a
    calculation whose operands are visible and whose result is masked.
    """

    answers: Sequence[AnswerSpan]
    length: int

    def from_active(self, random: np.random.Generator) -> np.ndarray:
        """Draw active blocks; return the block of each supervised position relative to the active one."""
        starts = [self._start(answer.tokens - answer.tail, random) for answer in self.answers]
        counts = [
            (np.arange(answer.tokens) - start) // self.length
            for answer, start in zip(self.answers, starts, strict=True)
        ]
        return np.concatenate([np.empty(0, int), *counts])

    def _start(self, tokens: int, random: np.random.Generator) -> int:
        """Draw the start of the active block of an answer with ``tokens`` tokens."""
        if tokens <= self.length:
            return 0
        start = int(random.integers(tokens))
        return start if random.random() < 0.5 else start - start % self.length


@dataclass(frozen=True)
class Noise:
    """Noise level t in [0, 1), mask ratio p, and the masked supervised positions of a sample.

    ``active`` marks the supervised positions that can be predicted; None for all. Masked active positions are
    predicted.
    """

    level: float
    ratio: float
    masked: np.ndarray
    active: np.ndarray | None = None

    @property
    def predicted(self) -> np.ndarray:
        return self.masked if self.active is None else self.masked & self.active

    @property
    def weight(self) -> float:
        """Weight of the cross-entropy of a predicted position: 1 / (p n) for n active positions."""
        active = len(self.masked) if self.active is None else int(self.active.sum())
        return 1 / (self.ratio * max(1, active))


def draw_noise(
    seed: int,
    epoch: int,
    sample_id: str,
    supervised: int,
    min_mask_ratio: float = 1e-3,
    stratum: Stratum | None = None,
    blocks: Blocks | None = None,
) -> Noise:
    """Draw the noise of one sample: t ~ U[0, 1), and each supervised position is masked with probability
    p = (1 - e) t + e (Eq. 6). With ``blocks``, this applies to the active positions.
    """
    random = _generator(seed, epoch, sample_id)
    level = random.random()
    if stratum is not None:
        level = (stratum.index + level) / stratum.count
    ratio = (1 - min_mask_ratio) * level + min_mask_ratio
    masked = random.random(supervised) < ratio
    if blocks is None:
        return Noise(level, ratio, masked)
    block = blocks.from_active(random)
    return Noise(level, ratio, masked & (block == 0) | (block > 0), block == 0)


def draw_noises(
    packed: PackedBatch,
    sample_ids: Sequence[str],
    seed: int,
    epoch: int,
    eos_id: int,
    min_mask_ratio: float = 1e-3,
    strata: Sequence[Stratum] | None = None,
    block_length: int | None = None,
) -> list[Noise]:
    """Draw the noise of each sample of a batch; with ``block_length``, for one block of each answer."""
    counts = supervised_counts(packed)
    none = [None] * len(counts)
    blocks = (
        [Blocks(answers, block_length) for answers in answer_spans(packed, eos_id)] if block_length else none
    )
    return [
        draw_noise(seed, epoch, sample_id, count, min_mask_ratio, stratum, block)
        for sample_id, count, stratum, block in zip(sample_ids, counts, strata or none, blocks, strict=True)
    ]


def _generator(seed: int, epoch: int, sample_id: str) -> np.random.Generator:
    digest = hashlib.blake2b(f"{seed}/{epoch}/{sample_id}".encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))


def corrupt(
    packed: PackedBatch, noises: Sequence[Noise], mask_id: int, scale: float, chunk: int
) -> TrainingBatch:
    """Replace the masked positions of a batch by ``mask_id``.

    The weight of a predicted row is scale / (p n) for n active positions of its sample. With scale = 1 /
    samples of the global batch, the weighted sum of cross-entropies is the loss of the global batch (Eq. 6).
    ``chunk`` rows are projected to the vocabulary at a time.
    """
    supervised = torch.nonzero(packed.labels_T != IGNORED).flatten()
    sample_S = sample_of_positions(packed)[supervised]
    hidden_S = torch.from_numpy(np.concatenate([noise.masked for noise in noises]))
    predicted_S = torch.from_numpy(np.concatenate([noise.predicted for noise in noises]))
    predicted_M, sample_M = supervised[predicted_S], sample_S[predicted_S]
    per_sample = torch.tensor([scale * noise.weight for noise in noises], dtype=torch.float32)
    token_ids = packed.token_ids_T.clone()
    token_ids[supervised[hidden_S]] = mask_id
    rows = TargetRows(packed.labels_T[predicted_M], per_sample[sample_M], chunk)
    levels = tuple(noise.level for noise in noises)
    return TrainingBatch(replace(packed, token_ids_T=token_ids), predicted_M, sample_M, rows, levels_S=levels)


def supervised_counts(packed: PackedBatch) -> list[int]:
    """Return the number of supervised positions of each sample."""
    return [int((labels != IGNORED).sum()) for labels in packed.labels_T.split(packed.lengths)]


def answer_spans(packed: PackedBatch, eos_id: int) -> list[list[AnswerSpan]]:
    """Return the supervised positions of each sample by turn."""
    samples = zip(packed.labels_T.split(packed.lengths), packed.turns_T.split(packed.lengths), strict=True)
    return [_answers(labels.numpy(), turns.numpy(), eos_id) for labels, turns in samples]


def _answers(labels: np.ndarray, turns: np.ndarray, eos_id: int) -> list[AnswerSpan]:
    turns, labels = turns[labels != IGNORED], labels[labels != IGNORED]
    starts = np.flatnonzero(np.diff(turns, prepend=-1))
    parts = np.split(labels, starts[1:]) if len(labels) else []
    return [AnswerSpan(len(part), _tail(part == eos_id)) for part in parts]


def _tail(is_eos: np.ndarray) -> int:
    """Number of EOS ids at the end."""
    return len(is_eos) if is_eos.all() else int(np.argmin(is_eos[::-1]))
