"""The metrics of a step for both kinds of objective."""

from __future__ import annotations

import pytest
import torch

from lladav.config.schema import ObjectiveConfig, Prediction
from lladav.diffusion.masking import Stratum
from lladav.diffusion.objective import Objective
from lladav.diffusion.training_batch import TrainingBatch
from lladav.inputs.packing import pack
from tests.lladav.build import TOKENS, text_sample, tiny_model
from train.trainer.metrics import BUCKETS, StepSums, step_row

SAMPLES = [text_sample("a", 20, 1, supervised=12), text_sample("b", 9, 2, supervised=5)]


def batch(kind: Prediction) -> TrainingBatch:
    """Two samples of a global batch of four, on two ranks with two micro-batches each."""
    objective = Objective(ObjectiveConfig(kind=kind), TOKENS, seed=3, chunk=8)
    packed = pack(SAMPLES, tiny_model().geometry)
    return objective.batch(packed, ["a", "b"], 0, [Stratum(0, 2), Stratum(1, 2)], scale=1.0)


def sums(made: TrainingBatch) -> StepSums:
    total = StepSums(samples=2)
    total.add(made, torch.full((len(made.predicted_M),), 2.0), scale=4)
    return total


@pytest.mark.parametrize("kind", list(Prediction))
def test_the_loss_is_weighted_and_entropies_are_means_over_tokens(kind: Prediction) -> None:
    made = batch(kind)
    row = step_row(1, sums(made), seconds=1.0, workers=1, peak=None)
    assert row["loss"] == pytest.approx(2.0 * float(made.rows.weights_M.sum()) / 4)
    assert (row["loss_answer"], row["loss_template"]) == (2.0, None)
    assert row["text_tokens_per_second"] == 29


def test_the_loss_by_noise_level_counts_each_predicted_token_once() -> None:
    made = batch(Prediction.masked)
    assert sums(made).bucket_rows.sum() == len(made.predicted_M)


def test_next_token_prediction_has_no_noise_level() -> None:
    row = step_row(1, sums(batch(Prediction.next_token)), seconds=1.0, workers=1, peak=None)
    assert [row[f"loss_t{i / BUCKETS:.1f}"] for i in range(BUCKETS)] == [None] * BUCKETS
    assert row["loss"] == pytest.approx(2.0 * 2 / 4), "each sample weighs the same"
