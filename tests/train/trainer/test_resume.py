"""A killed run, started again, gives at each step the loss of a run that nothing interrupts."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.train.trainings import Trainings, reference_losses, train_workers
from tests.waiting import wait_for

STEPS, EVERY = 6, 2
SETTINGS = (
    *("stage.global_batch=4", "train.micro_batch=2"),
    *(f"train.max_steps={STEPS}", f"train.checkpoint_every={EVERY}"),
)


@pytest.mark.slow
@pytest.mark.ray
def test_a_killed_worker_and_a_killed_ray_change_no_loss(root: Path, tmp_path: Path) -> None:
    """``max_failures=0`` still allows a failure after a new checkpoint."""
    trainings = Trainings(root, tmp_path, *SETTINGS)
    with trainings.begun("killed", "cluster.max_failures=0") as process:
        wait_for(lambda: trainings.committed("killed") >= EVERY, "the first checkpoint")
        (worker,) = train_workers(process)
        worker.kill()
        wait_for(lambda: trainings.committed("killed") >= 2 * EVERY, "the checkpoint after the restart")
    trainings.finish("killed")
    assert trainings.losses("killed") == reference_losses(trainings.overrides("reference"), STEPS)
