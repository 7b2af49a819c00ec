"""Accuracy and speed of the built-in toy model at several refresh intervals.

    python tests/bench/bench_refresh_interval.py
    python tests/bench/bench_refresh_interval.py --intervals 1 8 --timed 32 --out intervals.png

The model that ``make demo`` trained answers all held-out questions at each interval, on a canvas of one
block. Speed is measured with ``--together`` questions at a time, over ``--timed`` questions of all types;
each round runs the intervals in turn. A fit gives seconds per token as a + b / r. The plot shows accuracy
over tokens/s.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:1] = [str(ROOT), str(ROOT / "platform")]

import matplotlib as mpl  # noqa: E402 - the path comes first
import numpy as np  # noqa: E402
import torch  # noqa: E402

from lladav.checkpoint import open_model  # noqa: E402
from lladav.config.loader import load  # noqa: E402
from lladav.decoding.engine import Engine, EngineConfig  # noqa: E402
from lladav.decoding.params import DecodingOptions  # noqa: E402
from lladav.inputs.chat import ChatTokenizer  # noqa: E402
from lladav.inputs.samples import Sample  # noqa: E402
from lladav.storage.local_cache import local_copy  # noqa: E402
from tests.bench.reporting import report, table  # noqa: E402
from train.checkpoints.run_folder import WEIGHTS, Run  # noqa: E402
from train.demo import SETTINGS  # noqa: E402
from train.evaluate import BATCH, scores, stage_questions  # noqa: E402
from train.evaluation.held_out import answer_questions, prompt  # noqa: E402

mpl.use("Agg")
from matplotlib import pyplot  # noqa: E402

MAX_TOKENS = 48
MEMORY = 2**26
STEPWISE = "arithmetic"
"""The question type whose answers are long enough for the refresh interval to matter."""


@dataclass(frozen=True)
class Point:
    """One interval: exact match of all questions and of stepwise ones, and seconds per token."""

    interval: int
    accuracy: float
    stepwise: float
    seconds: float


@dataclass(frozen=True)
class Fit:
    """Seconds per token = ``cached`` + ``refresh`` / r."""

    cached: float
    refresh: float
    worst: float
    """Largest relative difference from a measurement."""

    @classmethod
    def of(cls, points: Sequence[Point]) -> Fit:
        measured = np.array([point.seconds for point in points])
        terms = np.array([[1.0, 1 / point.interval] for point in points])
        (cached, refresh), *_ = np.linalg.lstsq(terms, measured, rcond=None)
        fitted = terms @ np.array([cached, refresh])
        return cls(cached, refresh, float(np.abs(fitted / measured - 1).max()))


def main() -> None:
    arguments = parse_arguments()
    config = load(["stage=ov_vw", *SETTINGS])
    latest = Run.of(config).latest()
    if latest is None:
        print("skipped: there is no trained model here; make one with: make demo")
        return
    weights = local_copy(latest.path / WEIGHTS)
    model, tokenizer = open_model(weights, torch.float32), ChatTokenizer.load(weights)
    questions = stage_questions(config)
    options_of = {
        interval: DecodingOptions.for_chat(tokenizer.ids, max_tokens=MAX_TOKENS, refresh_interval=interval)
        for interval in arguments.intervals
    }
    timed = [prompt(each, model, tokenizer) for each in questions[:: -(-len(questions) // arguments.timed)]]
    engine = Engine(model, EngineConfig(MEMORY))
    run(engine, timed, options_of[arguments.intervals[0]], arguments.together)
    seconds = {interval: [] for interval in arguments.intervals}
    for _ in range(arguments.rounds):
        for interval, options in options_of.items():
            seconds[interval].append(run(engine, timed, options, arguments.together))
    points = []
    for interval, options in options_of.items():
        answers = answer_questions(model, tokenizer, questions, options, BATCH)
        right = scores([{"type": each.question.type, "correct": each.correct} for each in answers])
        points.append(
            Point(
                interval,
                right["all"].accuracy,
                right[STEPWISE].accuracy,
                statistics.median(seconds[interval]),
            )
        )
    present(points, len(timed), arguments)


def run(engine: Engine, prompts: Sequence[Sample], options: DecodingOptions, together: int) -> float:
    """Seconds per unmasked token with ``together`` prompts at a time."""
    begin, tokens = time.perf_counter(), 0
    for start in range(0, len(prompts), together):
        for each in prompts[start : start + together]:
            engine.submit(each, options)
        while engine.busy:
            tokens += sum(len(update.unmasked.tokens) for update in engine.step())
    return (time.perf_counter() - begin) / tokens


def present(points: Sequence[Point], timed: int, arguments: argparse.Namespace) -> None:
    """Print the table, the results and the path of the plot."""
    fit = Fit.of(points)
    table(
        ["refresh interval", "all", STEPWISE, "tokens/s"],
        [[str(p.interval), f"{p.accuracy:.1%}", f"{p.stepwise:.1%}", f"{1 / p.seconds:.0f}"] for p in points],
    )
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    draw(points, arguments.together, arguments.out)
    print(f"plot: {arguments.out}")
    for point in points:
        report(
            f"refresh interval {point.interval}",
            round(point.accuracy, 4),
            "exact match",
            f"{1 / point.seconds:.0f} tokens/s, {arguments.together} questions at a time",
            stepwise=round(point.stepwise, 4),
            questions_timed=timed,
            rounds=arguments.rounds,
        )
    report(
        "seconds per token = a + b / r",
        round(fit.refresh / fit.cached, 3),
        "b / a",
        f"a {1e3 * fit.cached:.2f} ms, b {1e3 * fit.refresh:.2f} ms, within {fit.worst:.1%}",
    )


def draw(points: Sequence[Point], together: int, file: Path) -> None:
    """Plot accuracy over tokens/s, of all questions and of stepwise ones."""
    figure, axis = pyplot.subplots(figsize=(6.4, 4))
    speeds = [1 / point.seconds for point in points]
    for label, color, values in (
        ("all questions", "#0969da", [point.accuracy for point in points]),
        ("arithmetic in steps", "#bc4c00", [point.stepwise for point in points]),
    ):
        shares = [100 * value for value in values]
        axis.plot(speeds, shares, "o", color=color, markersize=5, label=label)
        for n, (point, speed, share) in enumerate(zip(points, speeds, shares, strict=True)):
            above_or_below = 0, (-13, 7)[n % 2]
            axis.annotate(
                f"{point.interval}",
                (speed, share),
                above_or_below,
                textcoords="offset points",
                ha="center",
                fontsize=8,
            )
    axis.set_xlabel(f"tokens/s, {together} question{'s' * (together > 1)} at a time")
    axis.set_ylabel("exact match, %")
    axis.set_title("refresh intervals from exact to once per answer", fontsize=10, loc="left")
    axis.set_ylim(0, 100)
    axis.grid(alpha=0.2)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, loc="lower left")
    figure.tight_layout()
    figure.savefig(file, dpi=150)
    pyplot.close(figure)


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("--intervals", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32, 48])
    parser.add_argument("--timed", type=int, default=96, help="questions that are timed, default 96")
    parser.add_argument("--together", type=int, default=32, help="questions at a time, default 32")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("runs/demo/refresh_interval.png"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
