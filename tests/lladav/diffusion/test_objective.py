"""The kind of the objective decides what a batch predicts."""

from __future__ import annotations

import torch

from lladav.config.schema import ObjectiveConfig, Prediction
from lladav.diffusion.masking import Stratum, corrupt, draw_noises
from lladav.diffusion.next_token import shift
from lladav.diffusion.objective import Objective
from lladav.diffusion.training_batch import TrainingBatch
from lladav.inputs.packing import pack
from tests.lladav.build import TOKENS, text_sample, tiny_model

SAMPLES = [text_sample("a", 20, 1, supervised=12), text_sample("b", 9, 2, supervised=5)]
IDS, STRATA = ["a", "b"], [Stratum(0, 2), Stratum(1, 2)]
PACKED = pack(SAMPLES, tiny_model().geometry)


def batch(settings: ObjectiveConfig) -> TrainingBatch:
    return Objective(settings, TOKENS, seed=3, chunk=8).batch(PACKED, IDS, 1, STRATA, scale=0.5)


def assert_same(one: TrainingBatch, other: TrainingBatch) -> None:
    pairs = [
        (one.packed.token_ids_T, other.packed.token_ids_T),
        (one.predicted_M, other.predicted_M),
        (one.output_positions_M, other.output_positions_M),
        (one.rows.targets_M, other.rows.targets_M),
        (one.rows.weights_M, other.rows.weights_M),
    ]
    assert all(torch.equal(left, right) for left, right in pairs)
    assert one.levels_S == other.levels_S


def test_masked_draws_the_noise_of_the_settings() -> None:
    settings = ObjectiveConfig(stratified=True, min_mask_ratio=0.3, block_length=4)
    noises = draw_noises(PACKED, IDS, 3, 1, TOKENS.eos, 0.3, STRATA, 4)
    assert_same(batch(settings), corrupt(PACKED, noises, TOKENS.mask_id, 0.5, 8))


def test_strata_count_only_if_the_objective_is_stratified() -> None:
    noises = draw_noises(PACKED, IDS, 3, 1, TOKENS.eos)
    assert_same(batch(ObjectiveConfig()), corrupt(PACKED, noises, TOKENS.mask_id, 0.5, 8))


def test_next_token_masks_nothing() -> None:
    assert_same(batch(ObjectiveConfig(kind=Prediction.next_token)), shift(PACKED, 0.5, 8))
