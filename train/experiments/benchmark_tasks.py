"""Accuracy and speed at several refresh intervals on tasks of LMMs-Eval."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lladav.errors import UserError
from train.benchmarks.lmms_eval_runs import LMMsEvalRun, LoggedAnswer, run
from train.evaluate import cache_key
from train.experiments.kind import ANSWERS, Kind, Measurement, Subject
from train.experiments.refresh import SECONDS_PER_TOKEN, draw, tables

CORRECT = 0.5
"""Smallest score of an answer that counts as correct."""


@dataclass(frozen=True)
class TaskOptions:
    """The tasks, and how LMMs-Eval runs."""

    tasks: Sequence[str] = field(default_factory=tuple)
    """Names of tasks."""
    metric: str = ""
    """Name of the score that the task logs for each document."""
    python: str = ".venv-lmms-eval/bin/python"
    """Interpreter of the environment with LMMs-Eval."""
    include: str | None = None
    """Folder with more tasks."""
    limit: int | None = None
    """Documents of each task; null: all."""
    batch_size: int = 1
    """Requests that are decoded together."""
    settings: str | None = None
    """File of ``conf/evaluation`` with settings by task, as in ``released``."""

    def __post_init__(self) -> None:
        """Make paths absolute, for measurements in other folders."""
        for name in ("python", "include"):
            if (path := getattr(self, name)) is not None:
                object.__setattr__(self, name, str(Path(path).absolute()))


def measure(subject: Subject) -> Measurement:
    """Run LMMs-Eval with the trial's decoding settings: the answers, and the seconds per token.

    Raises ``UserError`` if an option is missing or LMMs-Eval fails.
    """
    options: TaskOptions = subject.options
    if not options.tasks:
        raise UserError("experiment.options.tasks=[]: name tasks of LMMs-Eval, as in [ai2d]")
    arguments = {"model": subject.weights, "settings": options.settings, **subject.trial.decoding}
    with tempfile.TemporaryDirectory() as folder:
        results = run(
            LMMsEvalRun(
                python=Path(options.python),
                tasks=options.tasks,
                output=Path(folder),
                model_args={name: value for name, value in arguments.items() if value is not None},
                batch_size=options.batch_size,
                include=Path(options.include) if options.include else None,
                limit=options.limit,
            )
        )
    if not results.tokens_per_second:
        raise UserError(f"tasks {', '.join(options.tasks)}: no token was decoded")
    rows = [_row(task, each, options.metric) for task, found in results.answers.items() for each in found]
    return {ANSWERS: rows, SECONDS_PER_TOKEN: 1 / results.tokens_per_second}


def _row(task: str, logged: LoggedAnswer, metric: str) -> dict[str, Any]:
    return {
        "id": f"{task}/{logged.document}",
        "type": task,
        "answer": logged.answer,
        "correct": score_of(logged.record, metric) >= CORRECT,
    }


def score_of(record: Mapping[str, Any], metric: str) -> float:
    """The score of a document: a number, or a mapping with a ``score``. Raises ``UserError`` without one."""
    scores = {
        name: value.get("score") if isinstance(value, dict) else value for name, value in record.items()
    }
    numbers = {name: float(value) for name, value in scores.items() if isinstance(value, int | float)}
    if metric not in numbers:
        known = ", ".join(name for name in numbers if name != "doc_id") or "none"
        raise UserError(f"experiment.options.metric={metric}: no such score; the task logs {known}")
    return numbers[metric]


def inputs(subject: Subject) -> str:
    """Hash of the code and the decoding settings; documents of tasks are not part of it."""
    return cache_key(subject.config, 0, [], subject.trial.decoding)


REFRESH_TASKS = Kind(measure, inputs, tables, draw, TaskOptions, timed=True)
