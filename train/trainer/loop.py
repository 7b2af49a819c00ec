"""The training loop of one rank.

A rank never returns alone. When the run has to end early (no space for a checkpoint, too many bad samples, a
preempted node), all ranks agree on it at the same step and return. Any other problem is raised, so that Ray
Train ends the ranks that wait for this one in a collective.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import ray.train
import torch
import torch.distributed as dist

from data.manifest.manifest import manifest_in
from data.manifest.quarantine import Quarantine
from data.pipeline.microbatches import MicroBatch
from data.pipeline.plan import BatchLayout
from data.pipeline.train_data import micro_batches, quarantine_of
from lladav.costs.flops import micro_batch_flops, peak_flops
from lladav.diffusion.masking import Stratum
from lladav.diffusion.objective import Objective
from lladav.diffusion.training_batch import TrainingBatch
from lladav.inputs.images import ViewGeometry
from lladav.inputs.packing import pack
from train.checkpoints.run_folder import QUARANTINE, Run
from train.trainer.checkpointing import checkpoint_space_error, resume, save
from train.trainer.collectives import all_gather_values
from train.trainer.failures import raise_as_rank_error
from train.trainer.job import DATASET, Job, TrainOutcome
from train.trainer.metrics import StepSums, step_row
from train.trainer.preemption import preemption_deadline
from train.trainer.step_log import StepLog
from train.trainer.tracking.opening import open_trackers, tracker_variables
from train.trainer.tracking.tracker import TrackedRun, Tracker
from train.trainer.validation import Validation, ValidationResult


def train_rank(job: Job) -> TrainOutcome:
    """Collective: train to the last step, or until the ranks agree to end. Raises ``RankError``."""
    if job.config.cluster.threads_per_worker:
        torch.set_num_threads(job.config.cluster.threads_per_worker)
    with raise_as_rank_error(dist.get_rank()):
        return Worker(job).run()


class Worker:
    """One rank of a run."""

    def __init__(
        self,
        job: Job,
        deadline: Callable[[], float | None] = preemption_deadline,
        report: Callable[[dict[str, Any]], None] = ray.train.report,
    ) -> None:
        """Collective: build the model and load its state.

        ``deadline`` is called after each step, and ``report`` after each checkpoint.
        """
        self._deadline, self._report = deadline, report
        self.job, self.config = job, job.config
        self.rank, self.workers = dist.get_rank(), dist.get_world_size()
        self.accumulation_steps = BatchLayout.of(self.config, self.workers).accumulation_steps
        self.geometry = ViewGeometry.of(self.config.model)
        train = self.config.train
        self.objective = Objective(
            self.config.objective, self.config.model.tokens, train.seed, train.loss_chunk
        )
        self.store = replace(Run.of(self.config), token=job.token)
        self.engine, self.first_step = resume(self.store, self.config, job.total_steps, job.start_from)
        self.validation = self._validation()
        self.peak = peak_flops(self.engine.device)
        self.save_seconds = 0.0
        """Duration of the last save; 0 before the first."""
        self.step_seconds = 0.0
        """Duration of the last step."""

    def _validation(self) -> Validation | None:
        if self.job.held_out is None:
            return None
        latest = self.store.latest()
        ranks, best = (self.rank, self.workers), latest.best if latest else None
        return Validation(self.config, self.job.held_out, ranks, best)

    def run(self) -> TrainOutcome:
        """Collective: train every step that is not committed yet."""
        every = self.config.train.checkpoint_every
        next_checkpoint = min((self.first_step // every + 1) * every, self.job.total_steps)
        if failure := checkpoint_space_error(self.engine, self.store, next_checkpoint):
            return TrainOutcome(failure)
        with ExitStack() as stack:
            is_writer = self.rank == 0
            log = stack.enter_context(self.open_log()) if is_writer else None
            manifest = manifest_in(self.job.manifest)
            quarantine = quarantine_of(manifest, self.store.path / QUARANTINE, self.rank)
            stack.enter_context(quarantine)
            shard = ray.train.get_dataset_shard(DATASET)
            assert shard is not None
            source = micro_batches(shard, self.config, self.rank, self.workers, self.first_step, quarantine)
            return self.train(source, log, quarantine)

    def open_log(self) -> StepLog:
        """The log of the run with its trackers; rank 0 alone writes it."""

        def trackers(folder: Path) -> list[Tracker]:
            variables = {**self.job.tracker_variables, **tracker_variables(os.environ)}
            os.environ.update(variables)
            return open_trackers(TrackedRun(self.config, folder, self.first_step, variables))

        return StepLog(self.store.path, self.first_step, trackers)

    def train(
        self, source: Iterator[MicroBatch], log: StepLog | None, quarantine: Quarantine
    ) -> TrainOutcome:
        """Collective: train on the micro-batches of this rank, from the first step that is not committed."""
        for step in range(self.first_step, self.job.total_steps):
            sums = self.step(step, source)
            validated = self.validation and self.validation.after(step + 1, self.engine, quarantine)
            if log:
                self._log(step + 1, sums, validated, log)
            outcome = self._bad_sample_outcome(sums, quarantine)
            outcome = outcome or self._checkpoint(step + 1, sums, log, quarantine)
            if outcome:
                return outcome
        return TrainOutcome()

    def step(self, step: int, source: Iterator[MicroBatch]) -> StepSums:
        """Collective: one optimizer step on this rank's next micro-batches. Returns sums over all ranks."""
        begin = time.perf_counter()
        micro = list(islice(source, self.accumulation_steps))
        waited = time.perf_counter() - begin
        batches = [self._training_batch(batch) for batch in micro]
        entropies = self.engine.step(batches, step)
        sums = StepSums(
            samples=sum(len(batch.samples) for batch in micro if not batch.is_blank),
            rejected=sum(len(batch.rejected) for batch in micro),
            wait_seconds=waited,
            preempted_ranks=float(self._is_preempted()),
        )
        for batch, entropy in zip(batches, entropies, strict=True):
            sums.add(batch, entropy, self.accumulation_steps * self.workers)
            sums.flops += micro_batch_flops(batch, self.config)
        sums = sums.over_ranks()
        self.step_seconds = time.perf_counter() - begin
        return sums

    def _log(self, done: int, sums: StepSums, validated: ValidationResult | None, log: StepLog) -> None:
        """Write the row of a step. Rank 0 alone calls it: nothing in it may be a collective."""
        if done % self.config.train.log_every and not validated:
            return
        more = {f"lr_{part}": rate for part, rate in self.engine.learning_rates().items()}
        more |= {"gradient_norm": self.engine.gradient_norm(), **(validated.row if validated else {})}
        log.write(step_row(done, sums, self.step_seconds, self.workers, self.peak, **more))
        if validated and validated.answers:
            log.show(done, validated.answers)

    def _bad_sample_outcome(self, sums: StepSums, quarantine: Quarantine) -> TrainOutcome | None:
        """Collective: the end of the run if there are more bad samples than the budget allows."""
        if not sums.rejected:  # a sum over ranks: all of them return here, or none
            return None
        found = all_gather_values(quarantine.found)
        line = quarantine.over_budget(self.config.data.bad_sample_budget, found)
        return TrainOutcome(line) if line else None

    def _is_preempted(self) -> bool:
        """Whether a node of the run is taken away soon and there is time to save a checkpoint before."""
        deadline = self._deadline()
        return deadline is not None and time.time() + self.save_seconds < deadline

    def _training_batch(self, micro: MicroBatch) -> TrainingBatch:
        """Pack a micro-batch and mark what the loss predicts.

        Its weights are scaled so that DeepSpeed's averages over micro-batches and ranks give the mean loss of
        the global batch.
        """
        batch = self.objective.batch(
            pack(micro.samples, self.geometry),
            [sample.id for sample in micro.samples],
            micro.epoch,
            [Stratum(int(index), micro.global_samples) for index in micro.positions],
            scale=self.accumulation_steps * self.workers / micro.global_samples,
        )
        return batch.to(self.engine.device)

    def _checkpoint(
        self, done: int, sums: StepSums, log: StepLog | None, quarantine: Quarantine
    ) -> TrainOutcome | None:
        """Collective: save every ``checkpoint_every`` steps, after the best step so far, after the last one,
        and before a preemption. The last step is also one after which the validation ends the run."""
        is_over = self.validation is not None and self.validation.is_over
        steps = done if is_over else self.job.total_steps
        best = self.validation.best if self.validation else None
        last, preempted = done >= steps, sums.preempted_ranks > 0
        is_best = best is not None and best.step == done
        if done % self.config.train.checkpoint_every and not (last or preempted or is_best):
            return None
        begin = time.monotonic()
        quarantine.save()
        if log:
            log.upload()  # before the commit: a committed step is never missing in the log
        failure = save(self.engine, self.store, self.config, done, steps, best)
        self.save_seconds = time.monotonic() - begin
        if failure:
            return TrainOutcome(failure)
        self._report({"step": done})
        return TrainOutcome(preempted=not last) if last or preempted else None
