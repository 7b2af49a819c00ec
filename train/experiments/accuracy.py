"""Exact match on held-out questions: a table by type of question, and bars with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from train.evaluate import scores
from train.evaluation.plots import COLORS, new_axis, save
from train.experiments.kind import ANSWERS, Kind, Measured
from train.experiments.questions import QuestionOptions, answer, questions_key
from train.experiments.significance import wilson_interval
from train.experiments.tables import accuracy_table


def draw(trials: Sequence[Measured], file: Path) -> None:
    """Bars of exact match by type of question, one color per trial, with 95 % intervals."""
    by_trial = {each.trial.name: scores(each.measurement[ANSWERS]) for each in trials}
    kinds = list(next(iter(by_trial.values())))
    figure, axis = new_axis(width=max(6.4, 1.1 * len(kinds)))
    width = 0.8 / len(by_trial)
    for number, (name, found) in enumerate(by_trial.items()):
        places = np.arange(len(kinds)) + (number - (len(by_trial) - 1) / 2) * width
        values, errors = bars([(found[kind].correct, found[kind].questions) for kind in kinds])
        color = COLORS[number % len(COLORS)]
        axis.bar(places, values, width, yerr=errors, color=color, label=name, ecolor="#57606a", capsize=2)
    axis.set_xticks(range(len(kinds)), kinds)
    axis.set_ylabel("exact match, %")
    axis.set_ylim(0, 100)
    axis.legend(frameon=False, ncols=len(by_trial), loc="lower center", bbox_to_anchor=(0.5, 1))
    save(figure, file)


def bars(counts: Sequence[tuple[int, int]]) -> tuple[list[float], np.ndarray]:
    """Percentages, and the distances (2, N) to the ends of their intervals, of pairs (correct, questions)."""
    values = [100 * correct / questions for correct, questions in counts]
    ends = 100 * np.array([wilson_interval(*pair) for pair in counts]).T
    return values, np.abs(ends - np.array(values))


ACCURACY = Kind(answer, questions_key, accuracy_table, draw, QuestionOptions)
