"""Plots: the form that all share, loss curves, and held-out questions with the model's answers."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from PIL import Image, ImageSequence

from train.evaluation.held_out import Answered

matplotlib.use("Agg")
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure

RIGHT, WRONG, MUTED = "#1a7f37", "#cf222e", "#57606a"
COLORS = ("#0969da", "#bc4c00", "#1a7f37", "#8250df", "#bf8700", MUTED)
SMOOTHING = 0.9


def new_axis(width: float = 6.4, height: float = 4.0) -> tuple[Figure, Axes]:
    """A figure with one plot; sizes are in inches."""
    figure, axes = new_axes(1, 1, width, height)
    return figure, axes[0][0]


def new_axes(
    rows: int, columns: int, width: float = 4.2, height: float = 2.8
) -> tuple[Figure, Sequence[Sequence[Axes]]]:
    """A figure with rows of plots; sizes are of one plot, in inches."""
    figure, axes = pyplot.subplots(rows, columns, figsize=(width * columns, height * rows), squeeze=False)
    for axis in axes.flat:
        axis.grid(alpha=0.2)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes.tolist()


def save(figure: Figure, file: Path) -> None:
    """Write the figure as a PNG file and release its memory."""
    figure.tight_layout()
    figure.savefig(file, dpi=150)
    pyplot.close(figure)


def draw_losses(steps_by_stage: Mapping[str, Sequence[dict[str, Any]]], file: Path) -> None:
    """Plot the loss of every stage side by side on a log scale: the objective and answer tokens alone."""
    figure, axes = pyplot.subplots(
        1, len(steps_by_stage), figsize=(3.2 * len(steps_by_stage), 3.4), sharey=True, squeeze=False
    )
    for axis, (stage, rows) in zip(axes[0], steps_by_stage.items(), strict=True):
        _draw_stage(axis, stage, rows)
    axes[0][0].set_ylabel("nats per token")
    axes[0][0].legend(frameon=False, fontsize=8)
    save(figure, file)


def _draw_stage(axis: Axes, stage: str, rows: Sequence[dict[str, Any]]) -> None:
    for key, label, color in (("loss", "objective", MUTED), ("loss_answer", "answer tokens", "#0969da")):
        points = [(row["step"], row[key]) for row in rows if row[key]]
        steps, values = [p[0] for p in points], [p[1] for p in points]
        axis.plot(steps, values, color=color, alpha=0.2, linewidth=0.8)
        axis.plot(steps, smoothed(values), color=color, linewidth=1.6, label=label)
    axis.set_yscale("log")
    axis.set_title(stage, fontsize=10, loc="left", fontweight="bold")
    axis.set_xlabel("step")
    axis.grid(alpha=0.2)
    axis.spines[["top", "right"]].set_visible(False)


def smoothed(values: Sequence[float]) -> list[float]:
    """Exponential moving average with bias correction, as in Adam."""
    mean, weight, result = 0.0, 0.0, []
    for value in values:
        mean = SMOOTHING * mean + (1 - SMOOTHING) * value
        weight = SMOOTHING * weight + (1 - SMOOTHING)
        result.append(mean / weight)
    return result


def draw_answers(answered: Sequence[Answered], file: Path, columns: int = 4) -> None:
    """Plot questions with their images, the model's answer, and the correct answer if it differs."""
    rows = -(-len(answered) // columns)
    figure, axes = pyplot.subplots(rows, columns, figsize=(3.4 * columns, 3.1 * rows), squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for axis, one in zip(axes.flat, answered, strict=False):
        _draw_answer(axis, one)
    figure.tight_layout(h_pad=2.5)
    figure.savefig(file, dpi=130)
    pyplot.close(figure)


def _draw_answer(axis: Axes, one: Answered) -> None:
    frames = [frame for path in one.question.media for frame in _frames(path)]
    if frames:
        axis.imshow(_side_by_side(frames))
    wrapped = textwrap.fill(one.question.text, 38)
    axis.set_title(f"{one.question.type}\n{wrapped}", fontsize=9, loc="left", color=MUTED)
    verdict = one.answer if one.correct else f"{one.answer}   (correct: {one.question.answer})"
    style = {"va": "top", "fontsize": 10, "fontweight": "bold", "color": RIGHT if one.correct else WRONG}
    axis.text(0, -0.06, textwrap.fill(verdict, 42), transform=axis.transAxes, **style)


def _frames(path: Path) -> list[Image.Image]:
    with Image.open(path) as image:
        return [frame.convert("RGB") for frame in ImageSequence.Iterator(image)]


def _side_by_side(frames: Sequence[Image.Image], gap: int = 4) -> np.ndarray:
    """The frames in a row, on a white canvas."""
    height = max(frame.height for frame in frames)
    width = sum(frame.width + gap for frame in frames) - gap
    canvas = Image.new("RGB", (width, height), "white")
    left = 0
    for frame in frames:
        canvas.paste(frame, (left, 0))
        left += frame.width + gap
    return np.asarray(canvas)
