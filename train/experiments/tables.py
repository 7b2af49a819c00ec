"""Markdown tables, and the table of exact match by type of question."""

from __future__ import annotations

from collections.abc import Sequence

from train.evaluate import scores
from train.experiments.kind import ANSWERS, Measured
from train.experiments.significance import wilson_interval


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table with aligned columns; the first is text, the others are numbers."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    rule = [":" + "-" * (widths[0] - 1), *("-" * (width - 1) + ":" for width in widths[1:])]
    lines = [_line(header, widths), "| " + " | ".join(rule) + " |"]
    return "\n".join([*lines, *(_line(row, widths) for row in rows)])


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    first, *rest = [
        cell.rjust(width) if number else cell.ljust(width)
        for number, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ]
    return "| " + " | ".join([first, *rest]) + " |"


def accuracy_text(correct: int, questions: int) -> str:
    """An accuracy with its 95 % interval in percent, as in ``81.7 (74-88)``."""
    low, high = wilson_interval(correct, questions)
    return f"{100 * correct / questions:.1f} ({100 * low:.0f}-{100 * high:.0f})"


def accuracy_table(trials: Sequence[Measured]) -> str:
    """Exact match in percent with 95 % intervals: a row per type of question, a column per trial."""
    by_trial = [scores(each.measurement[ANSWERS]) for each in trials]
    kinds = list(by_trial[0]) if by_trial else []
    rows = [
        [kind, str(by_trial[0][kind].questions)]
        + [accuracy_text(found[kind].correct, found[kind].questions) for found in by_trial]
        for kind in kinds
    ]
    header = ["exact match, % (95 % interval)", "questions", *(each.trial.name for each in trials)]
    return markdown_table(header, rows)
