"""The loop of one Ray Train worker.

A rank never returns alone. What ends a run early on purpose (no space for a checkpoint, too many bad samples,
a node that is about to be taken away) is agreed on by all ranks at the same step and returned. Everything
else is raised, so that Ray Train ends the ranks that wait for this one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from itertools import islice

import ray.train
import torch
import torch.distributed as dist

from data.manifest.manifest import manifest_in
from data.manifest.quarantine import Quarantine
from data.pipeline.microbatches import MicroBatch
from data.pipeline.plan import BatchLayout
from data.pipeline.train_data import micro_batches, quarantine_of
from lladav.diffusion.masking import Noise, NoisyBatch, Stratum, corrupt, draw_noises
from lladav.inputs.images import ViewGeometry
from lladav.inputs.packing import PackedBatch, pack
from train.checkpoints.run_folder import QUARANTINE, Run
from train.trainer.checkpointing import no_room, resume, save
from train.trainer.collectives import gathered_objects
from train.trainer.failures import raised_by
from train.trainer.flops import micro_batch_flops, peak_flops
from train.trainer.job import DATASET, Ended, Job
from train.trainer.metrics import StepSums, step_row
from train.trainer.preemption import preemption_deadline
from train.trainer.step_log import StepLog


def work(job: Job) -> Ended:
    """Train the job until its last step or until the ranks agree to end; raises ``RankError``."""
    if job.config.cluster.threads_per_worker:
        torch.set_num_threads(job.config.cluster.threads_per_worker)
    with raised_by(dist.get_rank()):
        return Worker(job).run()


class Worker:
    """One rank's share of a run."""

    def __init__(self, job: Job, deadline: Callable[[], float | None] = preemption_deadline) -> None:
        """``deadline`` is asked after each step until when the rank may stay."""
        self._deadline = deadline
        self.job, self.config = job, job.config
        self.rank, self.workers = dist.get_rank(), dist.get_world_size()
        self.slots = BatchLayout.of(self.config, self.workers).slots
        self.geometry = ViewGeometry.of(self.config.model)
        self.store = replace(Run.of(self.config), token=job.token)
        self.engine, self.first_step = resume(self.store, self.config, job.total_steps, job.start_from)
        self.peak = peak_flops(self.engine.device)
        self.save_seconds = 0.0
        """What the last checkpoint took, 0 before the first."""

    def run(self) -> Ended:
        """Every step from the first that is not committed yet."""
        if failure := no_room(self.engine, self.store, self._next_checkpoint()):
            return Ended(failure)
        with ExitStack() as stack:
            writes = self.rank == 0
            log = stack.enter_context(StepLog(self.store.place, self.first_step)) if writes else None
            quarantine = stack.enter_context(self._quarantine())
            shard = ray.train.get_dataset_shard(DATASET)
            assert shard is not None
            source = micro_batches(shard, self.config, self.rank, self.workers, self.first_step, quarantine)
            for step in range(self.first_step, self.job.total_steps):
                sums = self.step(step, source, log)
                ended = self._over_budget(sums, quarantine)
                ended = ended or self._checkpoint(step + 1, sums, log, quarantine)
                if ended:
                    return ended
        return Ended()

    def step(self, step: int, source: Iterator[MicroBatch], log: StepLog | None) -> StepSums:
        """One optimizer step over this rank's next micro-batches; what was measured, over all ranks."""
        begin = time.perf_counter()
        micro = list(islice(source, self.slots))
        waited = time.perf_counter() - begin
        noisy = [self._noisy(batch) for batch in micro]
        entropies = self.engine.step([batch for batch, _ in noisy], step)
        sums = StepSums(
            samples=sum(len(batch.samples) for batch in micro if not batch.is_blank),
            rejected=sum(len(batch.rejected) for batch in micro),
            wait_seconds=waited,
            leaving=float(self._has_to_leave()),
        )
        for (batch, noises), entropy in zip(noisy, entropies, strict=True):
            sums.add(batch, noises, entropy, self.slots * self.workers)
            sums.flops += micro_batch_flops(batch, self.config.model, self.config.stage.trained)
        sums = sums.over_ranks()
        self._record(step + 1, sums, time.perf_counter() - begin, log)
        return sums

    def _quarantine(self) -> Quarantine:
        return quarantine_of(manifest_in(self.job.manifest), self.store.place / QUARANTINE, self.rank)

    def _over_budget(self, sums: StepSums, quarantine: Quarantine) -> Ended | None:
        """The end of the run, on every rank, once more samples are bad than the budget allows."""
        if not sums.rejected:
            return None
        found = gathered_objects(quarantine.found)
        line = quarantine.over_budget(self.config.data.bad_sample_budget, found)
        return Ended(line) if line else None

    def _has_to_leave(self) -> bool:
        """Whether a node of the run is taken away soon, with time left to save a checkpoint before."""
        deadline = self._deadline()
        return deadline is not None and time.time() + self.save_seconds < deadline

    def _noisy(self, micro: MicroBatch) -> tuple[NoisyBatch, list[Noise]]:
        """The micro-batch masked, weighted so that DeepSpeed's averages give the global batch's mean loss."""
        packed = pack(micro.samples, self.geometry)
        noises = self._noises(micro, packed)
        scale = self.slots * self.workers / micro.global_samples
        noisy = corrupt(packed, noises, self.config.model.tokens.mask, scale, self.config.train.loss_chunk)
        return noisy.to(self.engine.device), noises

    def _noises(self, micro: MicroBatch, packed: PackedBatch) -> list[Noise]:
        objective = self.config.objective
        strata = [Stratum(int(index), micro.global_samples) for index in micro.indices]
        return draw_noises(
            packed,
            [sample.id for sample in micro.samples],
            self.config.train.seed,
            micro.epoch,
            self.config.model.tokens.eos,
            objective.min_mask_ratio,
            strata if objective.stratified else None,
            objective.block_length,
        )

    def _record(self, done: int, sums: StepSums, seconds: float, log: StepLog | None) -> None:
        if log and done % self.config.train.log_every == 0:
            rates = {f"lr_{part}": rate for part, rate in self.engine.rates().items()}
            norm = self.engine.gradient_norm()
            log.write(step_row(done, sums, seconds, self.workers, self.peak, gradient_norm=norm, **rates))

    def _next_checkpoint(self) -> int:
        """The step after which the next regular checkpoint is saved."""
        every = self.config.train.checkpoint_every
        return min((self.first_step // every + 1) * every, self.job.total_steps)

    def _checkpoint(
        self, done: int, sums: StepSums, log: StepLog | None, quarantine: Quarantine
    ) -> Ended | None:
        """Save after every ``checkpoint_every`` steps, after the last, and before a node is taken away."""
        last, leaving = done >= self.job.total_steps, sums.leaving > 0
        if done % self.config.train.checkpoint_every and not last and not leaving:
            return None
        begin = time.monotonic()
        quarantine.save()
        failure = save(self.engine, self.store, self.config, done, self.job.total_steps)
        self.save_seconds = time.monotonic() - begin
        if failure:
            return Ended(failure)
        if log:
            log.upload()
        ray.train.report({"step": done})
        return Ended(preempted=True) if leaving and not last else None
