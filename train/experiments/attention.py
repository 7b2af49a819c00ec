"""Where a model attends: later positions, entropy and attention sinks (Table 7, Eq. 7-9 of the paper)."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.ticker import MaxNLocator

from lladav.config.introspection import choices_hint
from lladav.errors import UserError
from lladav.generation import DTYPES
from lladav.storage.local_cache import local_model
from train.evaluation.plots import COLORS, new_axes, save
from train.experiments.image_prompts import ImageOptions, image_questions, images_key
from train.experiments.kind import Kind, Measured, Measurement, Subject
from train.experiments.significance import Spread
from train.experiments.tables import accuracy_text, markdown_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from lladav.analysis.attention import AttentionMetrics

FUTURE, ENTROPY, SINK_SCORE = "future_looking", "entropy_bits", "sink_score"
POSITIONS, ALL, LAYERS = "positions", "all", "layers"
SINKS, SINK_SCORES, FIRST_IS_LARGEST = "sinks", "sink_scores", "first_is_largest"
PLOTTED_SIGMAS = np.linspace(0, 1, 201)


@dataclass(frozen=True)
class AttentionOptions(ImageOptions):
    """The images, the prompt, and the thresholds of a sink."""

    sigmas: Sequence[float] = (0.1, 0.6)
    """Thresholds in the table; the paper's are 0.1 for LLaDA-V and 0.6 for LLaMA3-V."""
    dtype: str = "float32"
    """Number format of the model; the attention weights are float32."""

    def __post_init__(self) -> None:
        """Raise ``UserError`` for an unknown number format."""
        super().__post_init__()
        if self.dtype not in DTYPES:
            raise UserError(
                f"experiment.options.dtype={self.dtype}: no such choice{choices_hint(self.dtype, DTYPES)}"
            )


def measure(subject: Subject) -> Measurement:
    """Measure one sequence at a time: an image, and the prompt in the chat template."""
    import torch

    from lladav.analysis.attention import AttentionMetrics, attention_metrics
    from lladav.checkpoint import open_model
    from lladav.inputs.chat import ChatTokenizer
    from lladav.inputs.packing import pack
    from train.evaluation.held_out import prompt

    options: AttentionOptions = subject.options
    weights, device = local_model(subject.weights), "cuda" if torch.cuda.is_available() else "cpu"
    model, tokenizer = open_model(weights, getattr(torch, options.dtype), device), ChatTokenizer.load(weights)
    lengths, parts = [], []
    for question in image_questions(subject):
        packed = pack([prompt(question, model, tokenizer)], model.geometry)
        lengths += packed.lengths
        parts.append(attention_metrics(model, packed.to(device)))
    return summary(AttentionMetrics.concatenate(parts), lengths, options.sigmas)


def summary(metrics: AttentionMetrics, lengths: Sequence[int], sigmas: Sequence[float]) -> Measurement:
    """Each metric over the sequences, as a whole and by layer; sinks in total and by sequence."""
    values = {
        FUTURE: metrics.future_looking_SK,
        ENTROPY: metrics.entropy_bits_SK,
        SINK_SCORE: metrics.sink_score_SK,
    }
    return {
        POSITIONS: asdict(Spread.of(lengths)),
        **{name: _by_layer(values_SK.double().numpy()) for name, values_SK in values.items()},
        SINKS: {f"{sigma:g}": int(metrics.sink_S(sigma).sum()) for sigma in sigmas},
        SINK_SCORES: metrics.sink_score_S.tolist(),
        FIRST_IS_LARGEST: metrics.first_is_largest_S.tolist(),
    }


def _by_layer(values_SK: np.ndarray) -> dict[str, Any]:
    layers = [asdict(Spread.of(column)) for column in values_SK.T]
    return {ALL: asdict(Spread.of(values_SK.mean(1))), LAYERS: layers}


def tables(trials: Sequence[Measured]) -> str:
    """A row per trial; a value is a mean with its standard deviation and its 95 % interval."""
    thresholds = list(trials[0].measurement[SINKS])
    header = [
        "mean ± standard deviation (95 % interval)",
        *("sequences", "positions", "future-looking, %", "entropy, bits", "sink score"),
        *(f"sinks at {sigma}, %" for sigma in thresholds),
    ]
    return markdown_table(header, [_row(each) for each in trials])


def _row(each: Measured) -> list[str]:
    found = each.measurement
    count = len(found[SINK_SCORES])
    return [
        each.trial.name,
        str(count),
        f"{found[POSITIONS]['mean']:.0f}",
        Spread(**found[FUTURE][ALL]).text(2, scale=100),
        Spread(**found[ENTROPY][ALL]).text(2),
        Spread(**found[SINK_SCORE][ALL]).text(3),
        *(accuracy_text(number, count) for number in found[SINKS].values()),
    ]


def draw(trials: Sequence[Measured], file: Path) -> None:
    """Curves over the layers with one standard deviation, and the share of sinks over the threshold."""
    figure, ((future, entropy), (score, share)) = new_axes(rows=2, columns=2)
    for color, each in zip(itertools.cycle(COLORS), trials):
        found, label = each.measurement, each.trial.name
        _draw_layers(future, found[FUTURE][LAYERS], color, label, scale=100)
        _draw_layers(entropy, found[ENTROPY][LAYERS], color, label)
        _draw_layers(score, found[SINK_SCORE][LAYERS], color, label)
        share.plot(PLOTTED_SIGMAS, 100 * sink_shares(found, PLOTTED_SIGMAS), color=color, label=label)
    for axis, name in ((future, "future-looking, %"), (entropy, "entropy, bits"), (score, "sink score")):
        axis.set_xlabel("layer")
        axis.set_ylabel(name)
        axis.set_ylim(bottom=-0.02 * axis.get_ylim()[1])  # a curve at 0 stays visible
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    share.set_xlabel("sink threshold")
    share.set_ylabel("sequences with a sink, %")
    share.set_ylim(-2, 102)
    future.legend(frameon=False, fontsize=8)
    save(figure, file)


def _draw_layers(
    axis: Axes, layers: Sequence[Mapping[str, float]], color: str, label: str, scale: float = 1
) -> None:
    numbers = np.arange(1, len(layers) + 1)
    mean = scale * np.array([layer["mean"] for layer in layers])
    deviation = scale * np.array([layer["deviation"] for layer in layers])
    axis.plot(numbers, mean, color=color, label=label, marker="." if len(layers) < 10 else None)
    axis.fill_between(numbers, mean - deviation, mean + deviation, color=color, alpha=0.15, linewidth=0)


def sink_shares(measurement: Measurement, sigmas: np.ndarray) -> np.ndarray:
    """Share of the sequences whose first position is a sink at each threshold."""
    scores, largest = np.array(measurement[SINK_SCORES]), np.array(measurement[FIRST_IS_LARGEST])
    return (largest & (scores > sigmas[:, None])).mean(1)


ATTENTION = Kind(measure, images_key, tables, draw, AttentionOptions)
