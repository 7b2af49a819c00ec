"""A step does not depend on how its global batch is split.

If the workers do not divide it, some micro-batches are blank: they change nothing.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch.distributed as dist

from data.pipeline.microbatches import MicroBatch, to_batch, to_row
from data.pipeline.plan import BatchLayout, Plan
from lladav.config.schema import Config
from lladav.inputs.images import ViewGeometry
from lladav.inputs.samples import Sample
from tests.lladav.build import image_sample, text_sample
from tests.train.ranks import on_ranks
from tests.train.settings import settings

STEPS, GLOBAL_BATCH, SEED = 3, 3, 1
SIZES = [[], [(28, 28)], [(60, 28), (28, 60)], [], [(28, 28)], []]
ROUNDING = 1e-5
"""Relative difference of a loss or gradient when terms are summed in another order."""

COUNTED = ("samples", "visual_tokens", "answer_rows", "template_rows", "bucket_rows")
SUMMED = ("loss", "answer_entropy", "template_entropy", "bucket_entropy")


def samples_of(geometry: ViewGeometry) -> list[Sample]:
    """Samples with no image, one and several; two global batches per epoch."""
    return [
        image_sample(f"s{i}", geometry, sizes, seed=i) if sizes else text_sample(f"s{i}", 20 + i, i, 8)
        for i, sizes in enumerate(SIZES)
    ]


def batches_of(config: Config, step: int) -> list[MicroBatch]:
    """This rank's micro-batches of a step, as the data stream gives them."""
    geometry = ViewGeometry.of(config.model)
    samples, layout = samples_of(geometry), BatchLayout.of(config, dist.get_world_size())
    plan = Plan(np.array([len(s.text.input_ids) for s in samples]), SEED, GLOBAL_BATCH, STEPS)
    cells = [
        plan.micro_batch(step, slot, dist.get_rank(), layout) for slot in range(layout.accumulation_steps)
    ]
    rows = [to_row(cell, cell.positions.tolist(), [samples[row] for row in cell.rows], []) for cell in cells]
    return [to_batch(row, geometry.tile) for row in rows]


def steps(config: Config) -> list[dict[str, Any]]:
    """Metrics of each step, the gradient norm, and the number of blank micro-batches of this rank."""
    from train.trainer.job import Job
    from train.trainer.loop import Worker

    worker, measured = Worker(Job(config, "", STEPS, None), deadline=lambda: None), []
    for step in range(STEPS):
        batches = batches_of(config, step)
        sums = worker.step(step, iter(batches))
        blanks = [batch.is_blank for batch in batches]
        measured.append(asdict(sums) | {"norm": worker.engine.gradient_norm(), "blanks": sum(blanks)})
    return measured


@pytest.mark.slow
def test_blank_micro_batches_change_no_loss_and_no_gradient(tmp_path: Path) -> None:
    config = settings(tmp_path, global_batch=GLOBAL_BATCH)
    config.objective.stratified = True  # the noise then depends on the sample's position in the batch too
    (even,) = on_ranks(1, steps, config)
    first, second = on_ranks(2, steps, config)
    assert [step["blanks"] for step in even] == [0] * STEPS
    assert [step["blanks"] for step in first] == [0] * STEPS
    assert [step["blanks"] for step in second] == [1] * STEPS
    for uneven, expected in zip(first, even, strict=True):
        for name in COUNTED:
            np.testing.assert_array_equal(uneven[name], expected[name], name)
        for name in (*SUMMED, "norm"):
            np.testing.assert_allclose(uneven[name], expected[name], rtol=ROUNDING, err_msg=name)
