"""Validations during training: the loss on held-out samples, the best step so far, and the early end.

Every rank takes part with equally many micro-batches, and all ranks get the same result.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from data.manifest.quarantine import Quarantine
from data.pipeline.microbatches import blank_sample
from data.pipeline.validation import HeldOutBatch, ValidationSet
from lladav.config.schema import Config
from lladav.diffusion.likelihood import AnswerLikelihood, answer_nats
from lladav.diffusion.masking import Stratum
from lladav.diffusion.training_batch import TrainingBatch
from lladav.inputs.images import ViewGeometry
from lladav.inputs.samples import Sample
from train.checkpoints.best import BestValidation
from train.trainer.answering import ValidationQuestions
from train.trainer.collectives import all_gather_values, sum_over_ranks
from train.trainer.tracking.tracker import ValidationAnswer
from train.trainer.zero_engine import ZeroEngine


@dataclass(frozen=True)
class ValidationResult:
    """The loss in nats per answer token, the samples that it was measured on, and answers to questions."""

    loss: float
    samples: int
    seconds: float
    answers: Sequence[ValidationAnswer] = ()

    @property
    def row(self) -> dict[str, Any]:
        """The numbers as a part of a step's row in the log."""
        numbers: dict[str, Any] = {"loss": self.loss, "samples": self.samples, "seconds": self.seconds}
        if self.answers:
            correct = sum(answer.is_correct for answer in self.answers)
            numbers["exact_match"] = correct / len(self.answers)
        return {f"validation_{name}": value for name, value in numbers.items()}


class HeldOutLoss:
    """Measures the loss on the held-out samples of this rank and of the others."""

    def __init__(self, config: Config, held_out: ValidationSet, rank: int, workers: int) -> None:
        self._held_out, self._draws = held_out, config.data.validation.draws
        self._place = config.train.micro_batch, rank, workers
        self._likelihood = AnswerLikelihood(
            config.objective.kind,
            config.model.tokens,
            ViewGeometry.of(config.model),
            config.train.loss_chunk,
        )

    def measure(self, engine: ZeroEngine, quarantine: Quarantine) -> ValidationResult:
        """Collective: the loss of the present weights. Samples that cannot be read go to ``quarantine``."""
        begin = time.monotonic()
        nats = tokens = samples = 0
        with engine.evaluating() as evaluate:
            for batch in self._held_out.batches(*self._place):
                quarantine.add(batch.rejected)
                samples += len(batch.samples)
                for draw in range(self._draws):
                    more = self._estimate(batch, draw, evaluate, engine.device)
                    nats, tokens = nats + more[0], tokens + more[1]
        nats, tokens, samples = sum_over_ranks([nats, tokens, samples])
        loss = nats / tokens if tokens else float("nan")
        return ValidationResult(loss, int(samples), time.monotonic() - begin)

    def _estimate(
        self,
        batch: HeldOutBatch,
        draw: int,
        evaluate: Callable[[TrainingBatch], Any],
        device: torch.device,
    ) -> tuple[float, int]:
        """Nats and tokens of a micro-batch under one draw of the noise."""
        count = self._draws * len(self._held_out)
        strata = [Stratum(draw * len(self._held_out) + position, count) for position in batch.positions]
        noised = self._likelihood.batch(
            batch.samples or [blank_sample()], strata or [Stratum(0, count)], draw
        )
        _, entropy_M = evaluate(noised.to(device))
        return answer_nats(noised, entropy_M)


def asked_samples(held_out: ValidationSet, questions: int, rank: int) -> list[Sample]:
    """Collective: the first samples of a set without those that cannot be read; rank 0 reads them for all."""
    positions = range(min(questions, len(held_out)))
    return all_gather_values(held_out.read(positions).samples if rank == 0 else [])[0]


class Validation:
    """When a run is validated, its best step, and whether it ends early."""

    def __init__(
        self, config: Config, held_out: ValidationSet, ranks: tuple[int, int], best: BestValidation | None
    ) -> None:
        """Collective. ``ranks`` are this rank and the number of ranks; ``best`` is that of the checkpoint
        from which the run resumes."""
        self._every, self._patience = config.train.validate_every, config.train.patience
        self._loss = HeldOutLoss(config, held_out, *ranks)
        samples = asked_samples(held_out, config.data.validation.questions, ranks[0])
        self._questions = ValidationQuestions(config, samples) if samples else None
        self.best = best

    def after(self, step: int, engine: ZeroEngine, quarantine: Quarantine) -> ValidationResult | None:
        """Collective: validate after ``step`` if it is time to."""
        if step % self._every and step < engine.total_steps:
            return None
        result = self._loss.measure(engine, quarantine)
        if self._questions:
            result = replace(result, answers=self._questions.answers(engine))
        self.best = self.best.after(step, result.loss) if self.best else BestValidation(step, result.loss)
        return result

    @property
    def is_over(self) -> bool:
        """Whether the run ends: too many validations have brought no lower loss."""
        return self._patience is not None and self.best is not None and self.best.later >= self._patience
