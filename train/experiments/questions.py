"""Measurements on held-out questions, shared by several kinds of experiments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from lladav.config.introspection import choices_hint
from lladav.errors import UserError
from lladav.storage.local_cache import local_model
from train.evaluate import answer_all, cache_key, stage_questions
from train.evaluation.held_out import Question
from train.experiments.kind import Measurement, Subject


@dataclass(frozen=True)
class QuestionOptions:
    """Which held-out questions are asked."""

    types: Sequence[str] = field(default_factory=tuple)
    """Types of questions; empty: all."""


def asked(subject: Subject) -> list[Question]:
    """The questions of a measurement; raises ``UserError`` if an option names a type that has none."""
    options: Any = subject.options
    questions = stage_questions(subject.config, subject.split)
    known = sorted({question.type for question in questions})
    for name in options.types:
        if name not in known:
            raise UserError(
                f"experiment.options.types: no questions of type {name}{choices_hint(name, known)}"
            )
    return [question for question in questions if not options.types or question.type in options.types]


def answer(subject: Subject) -> Measurement:
    """Answer the questions: ``answers`` with a row per question, and ``decoding_seconds``."""
    result = answer_all(local_model(subject.weights), subject.config, asked(subject), subject.trial.decoding)
    return {"answers": result["answers"], "decoding_seconds": result["seconds"]}


def questions_key(subject: Subject) -> str:
    """Hash of the questions, their images, the decoding settings and the code that answers and scores."""
    return cache_key(subject.config, 0, asked(subject), subject.trial.decoding)
