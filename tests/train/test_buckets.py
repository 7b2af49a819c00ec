"""A stage in a bucket: a worker is killed, then all of Ray; fewer workers resume it, and no loss changes.

Data, tokenizer, weights and run are in the bucket.
"""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from data.manifest.quarantine import read_rejects
from lladav.checkpoint import export
from lladav.config.loader import load
from lladav.model.initialization import initialize
from lladav.model.llada_v import LLaDAV
from lladav.storage import files_in, location, upload
from tests.buckets import BUCKET, S3Server
from tests.digits import copy_digits
from tests.train.trainings import begun, finish, reference_losses, train_workers
from tests.waiting import wait_for
from train.checkpoints.run_folder import QUARANTINE, WEIGHTS, Run
from train.trainer.step_log import LOG

HOME = f"s3://{BUCKET}/whole"
STEPS, EVERY = 10, 2


def settings(folder: Path | str) -> list[str]:
    """Settings whose data and runs are in a local folder or under a URI."""
    return [
        *("stage=si", "model=tiny", "data=digits"),
        *("model.weights.language=null", "model.weights.vision=null"),
        *(f"data.root={folder}/digits", f"model.tokenizer={folder}/digits/tokenizer"),
        *(f"train.storage={folder}/runs", "stage.global_batch=4", "cluster.threads_per_worker=1"),
        *(f"train.max_steps={STEPS}", f"train.checkpoint_every={EVERY}", "train.keep_checkpoints=99"),
        "data.bad_sample_budget=0.6",
    ]


@dataclass(frozen=True)
class Stored:
    """The same data and weights in a local folder and in the bucket."""

    local: Path
    environment: dict[str, str]
    """Environment in which commands reach the bucket."""

    @property
    def weights(self) -> Path:
        return self.local / "pretrain" / WEIGHTS


@pytest.fixture
def stored(tmp_path: Path, s3_server: S3Server) -> Iterator[Stored]:
    """The data set, with every third image damaged, and the finished run of the stage before."""
    damage(copy_digits(tmp_path) / "mammoth_si")
    with pytest.MonkeyPatch.context() as patched, s3_server.reached():
        patched.setenv("LLADAV_CACHE", str(tmp_path / "cache"))
        found = Stored(tmp_path, dict(os.environ))
        upload(tmp_path / "digits", location(HOME) / "digits")
        config = load([*settings(tmp_path), "stage=pretrain"])
        model = LLaDAV(config.model)
        initialize(model, seed=1)
        export(model, config.model, found.weights, tokenizer=config.model.tokenizer)
        before = Run(f"{HOME}/runs", "pretrain-tiny-digits")
        upload(found.weights.parent, before.checkpoint_path(1))
        before.commit(1, 1, 1)
        yield found


def damage(folder: Path) -> None:
    """Keep the header of every third image in the folder's archives and clear the rest of it."""
    for archive in sorted(folder.glob("*.tar")):
        with tarfile.open(archive) as tar:
            members = [member for member in tar if member.isreg()][::3]
        with archive.open("r+b") as stream:
            for member in members:
                stream.seek(member.offset_data + member.size // 3)
                stream.write(bytes(member.size - member.size // 3))


def quarantined(run: Run) -> list[str]:
    """Ids of the samples in the run's quarantine."""
    folder = run.path / QUARANTINE
    return [reject.sample for name in files_in(folder) for reject in read_rejects(folder / name)]


def logged(run: Run) -> list[dict[str, Any]]:
    """Rows of the run's log."""
    return [json.loads(line) for line in (run.path / LOG).read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.ray
def test_a_killed_worker_a_killed_ray_and_fewer_workers_change_no_loss(root: Path, stored: Stored) -> None:
    """``max_failures=0`` still allows a failure after a new checkpoint."""
    run = Run(f"{HOME}/runs", "si-tiny-digits")
    two_workers = [*settings(HOME), "cluster.workers=2", "train.micro_batch=1", "cluster.max_failures=0"]
    output = stored.local / "killed.txt"
    with begun(root, two_workers, stored.environment, output) as process:

        def wait_for_checkpoint(step: int) -> None:
            wait_for(lambda: run.committed_step() >= step or process.poll() is not None, "a checkpoint", 0.5)
            assert process.poll() is None, output.read_text()

        wait_for_checkpoint(EVERY)
        assert len(logged(run)) >= EVERY
        train_workers(process)[0].kill()
        wait_for(lambda: "resumes after step" in output.read_text(), output.read_text, pause=0.2)
        wait_for_checkpoint(run.committed_step() + EVERY)
    committed = run.committed_step()
    assert {checkpoint.workers for checkpoint in run.checkpoints()} == {2}

    printed = finish(root, [*settings(HOME), "train.micro_batch=2"], stored.environment)
    assert f"resumes after step {committed}" in printed
    workers = [checkpoint.workers for checkpoint in run.checkpoints()]
    assert workers == [2] * (committed // EVERY) + [1] * ((STEPS - committed) // EVERY)
    rows = logged(run)
    losses = {row["step"]: row["loss"] for row in rows}
    assert len(losses) == len(rows)
    local = [*settings(stored.local), "train.micro_batch=4"]
    assert losses == pytest.approx(reference_losses(local, STEPS, str(stored.weights)), rel=1e-4)
    bad = quarantined(run)
    assert bad
    assert len(set(bad)) == len(bad)
