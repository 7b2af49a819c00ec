"""Exact match over the number of training samples, one curve per model (Figures 3 and 5 of the paper)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from train.evaluate import scores
from train.evaluation.plots import COLORS, new_axis, save
from train.experiments.accuracy import bars
from train.experiments.kind import ANSWERS, Kind, Measured, Measurement, Subject
from train.experiments.questions import QuestionOptions, answer, questions_key
from train.experiments.tables import accuracy_table, accuracy_text, markdown_table

SAMPLES = "samples"


class CurvePoint(NamedTuple):
    """A trial on a curve: training samples, and counts of all questions."""

    samples: int
    correct: int
    questions: int


def measure(subject: Subject) -> Measurement:
    """The answers, and the number of samples that the run trained on."""
    return {**answer(subject), SAMPLES: training_samples(subject)}


def training_samples(subject: Subject) -> int:
    """Samples of an epoch of the trial's run, after ``data.fraction``."""
    from data.manifest.manifest import open_manifest
    from data.pipeline.plan import Plan

    return Plan.of(open_manifest(subject.config), subject.config).samples


def curves(trials: Sequence[Measured]) -> dict[str, list[CurvePoint]]:
    """The points of each model's curve, by ascending number of samples."""
    found: dict[str, list[CurvePoint]] = defaultdict(list)
    for each in trials:
        total = scores(each.measurement[ANSWERS])["all"]
        point = CurvePoint(each.measurement[SAMPLES], total.correct, total.questions)
        found[each.trial.config().model.name].append(point)
    return {model: sorted(points) for model, points in found.items()}


def tables(trials: Sequence[Measured]) -> str:
    """Exact match of all questions by model and number of samples, then by type of question."""
    by_model = curves(trials)
    sizes = sorted({point.samples for points in by_model.values() for point in points})
    rows = [[f"{size:,}", *(_cell(points, size) for points in by_model.values())] for size in sizes]
    header = ["training samples", *(f"{model}, %" for model in by_model)]
    return f"{markdown_table(header, rows)}\n\n{accuracy_table(trials)}"


def _cell(points: Sequence[CurvePoint], samples: int) -> str:
    return next((accuracy_text(p.correct, p.questions) for p in points if p.samples == samples), "-")


def draw(trials: Sequence[Measured], file: Path) -> None:
    """One curve per model with 95 % intervals; the number of samples is on a log scale."""
    figure, axis = new_axis()
    for color, (model, points) in zip(COLORS, curves(trials).items(), strict=False):
        values, errors = bars([(point.correct, point.questions) for point in points])
        sizes = [point.samples for point in points]
        axis.errorbar(sizes, values, yerr=errors, color=color, label=model, marker="o", capsize=3)
    axis.set_xscale("log")
    ticks = sorted({point.samples for points in curves(trials).values() for point in points})
    axis.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axis.minorticks_off()
    axis.set_xlabel("training samples")
    axis.set_ylabel("exact match, %")
    axis.set_ylim(0, 100)
    axis.legend(frameon=False)
    save(figure, file)


SCALING = Kind(measure, questions_key, tables, draw, QuestionOptions)
