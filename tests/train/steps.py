"""Training steps of ranks without Ray and without a data set."""

from __future__ import annotations

import torch.distributed as dist

from lladav.config.schema import Config
from lladav.diffusion.objective import Objective
from lladav.diffusion.training_batch import TrainingBatch
from lladav.inputs.images import ViewGeometry
from lladav.inputs.packing import pack
from lladav.inputs.samples import Sample
from tests.lladav.build import image_sample, text_sample

STEPS, GLOBAL_BATCH = 4, 4


def samples_of(step: int, geometry: ViewGeometry) -> list[Sample]:
    """A global batch of samples with no image, one and several."""
    sizes = [[], [(28, 28)], [(60, 28), (28, 60)], []]
    return [
        image_sample(f"{step}-{i}", geometry, s, seed=i) if s else text_sample(f"{step}-{i}", 20, i, 8)
        for i, s in enumerate(sizes)
    ]


def micro_batches(config: Config, step: int) -> list[TrainingBatch]:
    """This rank's micro-batches of a step, with one sample each."""
    geometry = ViewGeometry.of(config.model)
    rank, workers = dist.get_rank(), dist.get_world_size()
    return [_training_batch(config, sample, geometry) for sample in samples_of(step, geometry)[rank::workers]]


def _training_batch(config: Config, sample: Sample, geometry: ViewGeometry) -> TrainingBatch:
    objective = Objective(config.objective, config.model.tokens, seed=1, chunk=8)
    return objective.batch(pack([sample], geometry), [sample.id], 0, [], scale=1.0)


def train(config: Config, first: int, last: int, save_after: int | None = None) -> list[float]:
    """Losses of the steps from ``first`` to ``last``, resumed from the newest checkpoint if there is one."""
    from train.checkpoints.run_folder import Run
    from train.trainer.checkpointing import resume, save
    from train.trainer.metrics import StepSums

    run = Run.of(config)
    engine, step = resume(run, config, STEPS, None)
    assert step == first
    losses = []
    for step in range(first, last):
        batches, sums = micro_batches(config, step), StepSums()
        for batch, entropy in zip(batches, engine.step(batches, step), strict=True):
            sums.add(batch, entropy, GLOBAL_BATCH)
        losses.append(sums.over_ranks().loss)
        if step + 1 == save_after:
            assert save(engine, run, config, step + 1, STEPS) is None
    return losses
