"""Repetition and length of long answers against decoding settings and the EOS tail of training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from data.digits.descriptions import covered_share, describe, true_share
from lladav.analysis.repetition import diversity, repeated_share, words
from lladav.storage.local_cache import local_model
from train.evaluate import BATCH, decoding_options
from train.evaluation.plots import COLORS, MUTED, new_axes, save
from train.experiments.image_prompts import ImageOptions, image_questions, images_key
from train.experiments.kind import Kind, Measured, Measurement, Subject
from train.experiments.significance import Spread
from train.experiments.tables import accuracy_text, markdown_table

if TYPE_CHECKING:
    from lladav.decoding.results import Decoded
    from train.evaluation.held_out import Question

TEXTS, REFERENCES = "texts", "references"
Row = Mapping[str, Any]
"""An answer: id, text, tokens, stopped, and with known digits ``true`` and ``covered``."""

DESCRIBED = ("read",)
"""Types of held-out questions whose answer is all digits of the image."""

FOUR_GRAMS = "repeated 4-grams, %"
MEASURES: dict[str, Callable[[str], float]] = {
    "repeated pairs, %": lambda text: 100 * repeated_share(words(text), 2),
    FOUR_GRAMS: lambda text: 100 * repeated_share(words(text), 4),
    "diversity, %": lambda text: 100 * diversity(words(text)),
}


@dataclass(frozen=True)
class RepetitionOptions(ImageOptions):
    """The images and the prompt; without a folder, the answers are compared with the digits."""

    sequences: int = 8


def measure(subject: Subject) -> Measurement:
    """The answers, and correct texts if the digits of the images are known."""
    import torch

    from lladav.checkpoint import open_model
    from lladav.decoding.engine import decode
    from lladav.inputs.chat import ChatTokenizer
    from train.evaluation.held_out import prompt

    weights, device = local_model(subject.weights), "cuda" if torch.cuda.is_available() else "cpu"
    model, tokenizer = open_model(weights, torch.float32, device), ChatTokenizer.load(weights)
    options = decoding_options(subject.config, tokenizer.ids, subject.trial.decoding)
    rows, questions = [], asked(subject)
    for start in range(0, len(questions), BATCH):
        part = questions[start : start + BATCH]
        answers = decode(model, [prompt(question, model, tokenizer) for question in part], options)
        rows += [_row(q, a, tokenizer.decode(a.tokens)) for q, a in zip(part, answers, strict=True)]
    return {TEXTS: rows, REFERENCES: references(questions)}


def asked(subject: Subject) -> list[Question]:
    """The prompt about each image; ``answer`` has the digits of a built-in image."""
    return image_questions(subject, DESCRIBED)


def _row(question: Question, answer: Decoded, text: str) -> Row:
    row = {"id": question.id, "text": text, "tokens": len(answer.tokens), "stopped": answer.stopped}
    digits = [int(digit) for digit in question.answer]
    if not digits:
        return row
    return {**row, "true": true_share(text, digits), "covered": covered_share(text, digits)}


def references(questions: Sequence[Question]) -> list[str]:
    """A correct description of each image whose digits are known."""
    known = [[int(digit) for digit in question.answer] for question in questions if question.answer]
    return [describe(digits, np.random.default_rng(number))[1] for number, digits in enumerate(known)]


def tables(trials: Sequence[Measured]) -> str:
    """A row per trial, and one for correct texts; a value is a mean with its 95 % interval."""
    checked = "true" in trials[0].measurement[TEXTS][0]
    header = ["mean (95 % interval)", "answers", "tokens", "ended before the canvas, %", *MEASURES]
    header += ["true sentences, %", "of the expected ones, %"] if checked else []
    rows = [_cells(each, checked) for each in trials]
    if correct := trials[0].measurement[REFERENCES]:
        shown = [_mean(measured(correct, name)) for name in MEASURES]
        rows.append(["correct texts", str(len(correct)), "", "", *shown, "100", "100"])
    return markdown_table(header, rows)


def _cells(each: Measured, checked: bool) -> list[str]:
    rows = each.measurement[TEXTS]
    texts = [row["text"] for row in rows]
    quality = [_mean([100 * row[name] for row in rows]) for name in ("true", "covered") if checked]
    return [
        each.trial.name,
        str(len(rows)),
        _mean([row["tokens"] for row in rows]),
        accuracy_text(sum(row["stopped"] for row in rows), len(rows)),
        *(_mean(measured(texts, name)) for name in MEASURES),
        *quality,
    ]


def measured(texts: Sequence[str], name: str) -> list[float]:
    """One of ``MEASURES`` of each text."""
    return [MEASURES[name](text) for text in texts]


def _mean(values: Sequence[float]) -> str:
    spread = Spread.of(values)
    return f"{spread.mean:.1f} ({spread.low:.0f}-{spread.high:.0f})"


def draw(trials: Sequence[Measured], file: Path) -> None:
    """Bars per trial with 95 % intervals: repeated 4-grams, and tokens; the line marks correct texts."""
    figure, ((repeated, length),) = new_axes(1, 2, height=1.2 + 0.28 * len(trials))
    correct = trials[0].measurement[REFERENCES]
    if correct:
        repeated.axvline(float(np.mean(measured(correct, FOUR_GRAMS))), color=MUTED, linestyle="--")
    for place, each in enumerate(trials):
        rows = each.measurement[TEXTS]
        values = measured([row["text"] for row in rows], FOUR_GRAMS), [row["tokens"] for row in rows]
        for axis, spread in zip((repeated, length), map(Spread.of, values), strict=True):
            half = spread.high - spread.mean
            axis.barh(place, spread.mean, xerr=half, color=COLORS[0], ecolor=MUTED, capsize=2)
    repeated.set_yticks(range(len(trials)), [each.trial.name for each in trials], fontsize=7)
    length.set_yticks(range(len(trials)), [])
    for axis, name in ((repeated, FOUR_GRAMS), (length, "tokens of an answer")):
        axis.invert_yaxis()
        axis.set_xlim(left=0)
        axis.set_xlabel(name)
    save(figure, file)


REPETITION = Kind(measure, images_key, tables, draw, RepetitionOptions)
