"""Accuracy and speed at several refresh intervals (Table 8 of the paper).

The accuracy of each interval is compared with the smallest interval on the same questions by McNemar's exact
test. Speeds are fitted by seconds per token = a + b / r.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lladav.storage.local_cache import local_model
from train.evaluate import decoding_options, scores
from train.evaluation.plots import COLORS, new_axis, save
from train.experiments.accuracy import bars
from train.experiments.kind import ANSWERS, Kind, Measured, Measurement, Subject
from train.experiments.questions import QuestionOptions, answer, asked, questions_key
from train.experiments.significance import IntervalFit, PairedComparison
from train.experiments.tables import accuracy_table, accuracy_text, markdown_table

if TYPE_CHECKING:
    from lladav.decoding.engine import Engine
    from lladav.decoding.params import DecodingOptions
    from lladav.inputs.samples import Sample

INTERVAL, SECONDS_PER_TOKEN = "refresh_interval", "seconds_per_token"
MEMORY = 2**26
"""Bytes of the engine's KV cache."""


@dataclass(frozen=True)
class RefreshOptions(QuestionOptions):
    """The questions, and how speed is measured."""

    timed: int = 96
    """Questions over which speed is measured, evenly spread over the types."""
    together: int = 32
    """Questions that are decoded at the same time."""
    rounds: int = 3
    """Repetitions, of which the median counts."""


def measure(subject: Subject) -> Measurement:
    """The answers, and the seconds per token."""
    return {**answer(subject), SECONDS_PER_TOKEN: seconds_per_token(subject)}


def seconds_per_token(subject: Subject) -> float:
    """Median over the rounds of seconds per unmasked token, after a round that is not timed."""
    import torch

    from lladav.checkpoint import open_model
    from lladav.decoding.engine import Engine, EngineConfig
    from lladav.inputs.chat import ChatTokenizer
    from train.evaluation.held_out import prompt

    options: RefreshOptions = subject.options
    weights, questions = local_model(subject.weights), asked(subject)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model, tokenizer = open_model(weights, torch.float32, device), ChatTokenizer.load(weights)
    prompts = [prompt(each, model, tokenizer) for each in questions[:: -(-len(questions) // options.timed)]]
    decoding = decoding_options(subject.config, tokenizer.ids, subject.trial.decoding)
    engine = Engine(model, EngineConfig(MEMORY))
    decode_timed(engine, prompts, decoding, options.together)
    rounds = [decode_timed(engine, prompts, decoding, options.together) for _ in range(options.rounds)]
    return statistics.median(rounds)


def decode_timed(engine: Engine, prompts: Sequence[Sample], options: DecodingOptions, together: int) -> float:
    """Seconds per unmasked token with ``together`` prompts at a time."""
    begin, tokens = time.perf_counter(), 0
    for start in range(0, len(prompts), together):
        for each in prompts[start : start + together]:
            engine.submit(each, options)
        while engine.busy:
            tokens += sum(len(update.unmasked.tokens) for update in engine.step())
    return (time.perf_counter() - begin) / tokens


def by_interval(trials: Sequence[Measured]) -> dict[int, Measurement]:
    """The measurements by refresh interval, ascending."""
    return dict(sorted((int(each.trial.decoding.get(INTERVAL, 1)), each.measurement) for each in trials))


def tables(trials: Sequence[Measured]) -> str:
    """Accuracy, significance and speed by interval, the fit, then accuracy by type of question."""
    found = by_interval(trials)
    fit = IntervalFit.of(list(found), [each[SECONDS_PER_TOKEN] for each in found.values()])
    first = right(next(iter(found.values())))
    rows = [_row(interval, each, first) for interval, each in found.items()]
    header = ["refresh interval", "exact match, %", "gained", "lost", "p (McNemar)", "tokens/s"]
    return f"{markdown_table(header, rows)}\n\n{fit_text(fit)}\n\n{accuracy_table(trials)}"


def _row(interval: int, each: Measurement, first: Mapping[str, bool]) -> list[str]:
    total, paired = scores(each[ANSWERS])["all"], PairedComparison.of(first, right(each))
    return [
        str(interval),
        accuracy_text(total.correct, total.questions),
        str(paired.only_second),
        str(paired.only_first),
        f"{paired.p_value:.3f}",
        f"{1 / each[SECONDS_PER_TOKEN]:.0f}",
    ]


def right(measurement: Measurement) -> dict[str, bool]:
    """Whether each question, by its id, is answered correctly."""
    return {row["id"]: row["correct"] for row in measurement[ANSWERS]}


def fit_text(fit: IntervalFit) -> str:
    """The fit in words."""
    return (
        f"Seconds per token = a + b / r with a = {1e3 * fit.cached:.2f} ms and "
        f"b = {1e3 * fit.refresh:.2f} ms; largest difference from a measurement {100 * fit.worst:.0f} %."
    )


def draw(trials: Sequence[Measured], file: Path) -> None:
    """Exact match with 95 % intervals, and tokens/s on the right axis, over the refresh interval."""
    found = by_interval(trials)
    totals = [scores(each[ANSWERS])["all"] for each in found.values()]
    values, errors = bars([(total.correct, total.questions) for total in totals])
    speeds = [1 / each[SECONDS_PER_TOKEN] for each in found.values()]
    figure, axis = new_axis()
    axis.errorbar(list(found), values, yerr=errors, fmt="o-", color=COLORS[0], capsize=3)
    axis.set_xscale("log", base=2)
    axis.set_xticks(list(found), [str(interval) for interval in found])
    axis.set_xlabel("refresh interval")
    axis.set_ylabel("exact match, %", color=COLORS[0])
    axis.set_ylim(0, 100)
    right_axis = axis.twinx()
    right_axis.plot(list(found), speeds, "s--", color=COLORS[1])
    right_axis.set_ylabel("tokens/s", color=COLORS[1])
    right_axis.set_ylim(0, 1.1 * max(speeds))
    save(figure, file)


REFRESH = Kind(measure, questions_key, tables, draw, RefreshOptions, timed=True)
