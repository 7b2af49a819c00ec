"""Counts of a stage's data: sources, kinds, rejects, lengths, views, and the steps of a run."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from data.manifest.manifest import Manifest
from data.manifest.quarantine import Reject, read_rejects
from data.pipeline.contents import epoch_contents
from data.pipeline.plan import Plan
from data.records.record import Reason
from lladav.config.schema import Config, Prediction
from lladav.costs.flops import USUAL_MFU, training_flops, training_hours
from lladav.costs.memory import gpu_memory
from lladav.inputs.samples import VisualKind

EXAMPLES = 3
"""Rejects of each reason that are shown."""
BAR = 40
"""Characters of the longest bar in the terminal."""
TEXT = "text"
"""The kind of a sample without images and videos."""


@dataclass(frozen=True)
class Histogram:
    """Counts of values from ``edges[n]`` to below ``edges[n + 1]``."""

    title: str
    edges: list[int]
    counts: list[int]

    @classmethod
    def of(cls, title: str, values: np.ndarray) -> Histogram:
        """Bins whose width doubles, from the smallest to the largest value."""
        first, last = (int(math.log2(max(1, int(bound)))) for bound in (values.min(), values.max()))
        edges = ([0] if values.min() == 0 else []) + [2**power for power in range(first, last + 2)]
        counts, _ = np.histogram(values, np.array(edges))
        return cls(title, edges, counts.tolist())

    def bins(self) -> Iterator[tuple[str, int]]:
        """The range and the count of each bin."""
        for low, end, count in zip(self.edges, self.edges[1:], self.counts, strict=False):
            yield (f"{low:,}" if end == low + 1 else f"{low:,} to {end - 1:,}"), count

    def lines(self) -> Iterator[str]:
        """The histogram for the terminal."""
        yield self.title
        most, width = max(self.counts), max(len(label) for label, _ in self.bins())
        for label, count in self.bins():
            yield f"  {label:>{width}}  {count:>9,}  {'#' * math.ceil(BAR * count / most)}".rstrip()


@dataclass(frozen=True)
class Overview:
    """What is known about a stage's data before training."""

    plan: Plan
    contents: list[str]
    """A line for each source: the samples of an epoch."""
    kinds: dict[str, dict[str, int]]
    """By source: samples of each kind, and the rejected records."""
    rejects: dict[str, list[Reject]]
    """Rejects by reason."""
    histograms: list[Histogram]
    limits: list[str]
    """Lines about what ``stage.max_length`` cuts, the steps of a run, and the hours and memory of GPUs."""

    def lines(self) -> Iterator[str]:
        """The overview for the terminal."""
        yield from self.contents
        for source, counts in self.kinds.items():
            yield f"{source}: " + ", ".join(f"{count:,} {kind}" for kind, count in counts.items())
        for histogram in self.histograms:
            yield from histogram.lines()
        yield from self.limits
        for reason, rejects in self.rejects.items():
            yield f"{len(rejects):,} records are rejected as {reason}"
            yield from (f"  {reject.where}: {reject.detail}" for reject in rejects[:EXAMPLES])


def overview(config: Config, manifest: Manifest) -> Overview:
    """The overview of a stage's data."""
    rejects = read_rejects(manifest.quarantine)
    plan, views = Plan.of(manifest, config), _sums(manifest.table["views"])
    histograms = [
        Histogram.of("Tokens of a sample, visual tokens included", manifest.lengths),
        Histogram.of("Views of a sample (base views, tiles and frames)", views),
    ]
    return Overview(
        plan,
        list(epoch_contents(config, manifest)),
        _kinds(config.stage.sources, manifest, rejects),
        _by_reason(rejects),
        histograms,
        [*_limits(config, manifest, plan), *_costs(config, manifest, plan, views)],
    )


def _kinds(
    sources: Sequence[str], manifest: Manifest, rejects: Sequence[Reject]
) -> dict[str, dict[str, int]]:
    first = manifest.table["kind"].to_pylist()
    kinds = [VisualKind(each[0]).name if each else TEXT for each in first]
    counted = Counter(zip(manifest.sources.tolist(), kinds, strict=True))
    rejected = Counter(reject.source for reject in rejects)
    return {
        name: {kind: count for (source, kind), count in sorted(counted.items()) if source == number}
        | {"rejected": rejected[name]}
        for number, name in enumerate(sources)
    }


def _by_reason(rejects: Sequence[Reject]) -> dict[str, list[Reject]]:
    by_reason: dict[str, list[Reject]] = {}
    for reject in rejects:
        by_reason.setdefault(reject.reason, []).append(reject)
    return dict(sorted(by_reason.items(), key=lambda item: -len(item[1])))


def _sums(lists: pa.ChunkedArray) -> np.ndarray:
    """The sum of each list of a column."""
    return np.array([sum(each) for each in lists.to_pylist()], np.int64)


def _limits(config: Config, manifest: Manifest, plan: Plan) -> Iterator[str]:
    summary, longest = manifest.summary, config.stage.max_length
    whole = summary.reasons.get(Reason.answer_cut, 0)
    cut = f"stage.max_length={longest} cuts {summary.cut:,} samples"
    yield f"{cut}; {whole:,} more would lose every answer and are rejected"
    batch = config.stage.global_batch
    yield f"an epoch has {plan.samples:,} samples: {plan.steps_per_epoch:,} steps of {batch} samples"
    yield f"a run has {plan.steps:,} steps"


def _costs(config: Config, manifest: Manifest, plan: Plan, views: np.ndarray) -> Iterator[str]:
    """Lines about the GPUs of the configured cluster, if it has any."""
    if config.cluster.gpus_per_worker:
        gpus = config.cluster.workers
        hours = training_hours(_run_flops(config, manifest, plan, views), gpus)
        terms = ", ".join(f"{name} {each:,.1f}" for name, each in hours.items())
        yield f"hours of a run with {gpus} GPUs at {USUAL_MFU:.0%} of their peak, estimated: {terms}"
        yield str(gpu_memory(config))


def _run_flops(config: Config, manifest: Manifest, plan: Plan, views: np.ndarray) -> float:
    """FLOPs of a run, from the samples of its first epoch; ``views`` are those of each manifest row."""
    numbers = np.concatenate([plan.global_batch(step) for step in range(plan.steps_per_epoch)])
    rows = numbers % len(manifest)  # copies of a row have other numbers
    supervised = int(manifest.table["supervised"].to_numpy()[rows].sum())
    # Noise levels are uniform, so half of the tokens are masked on average.
    predicted = supervised / 2 if config.objective.kind is Prediction.masked else supervised
    epoch = training_flops(manifest.lengths[rows].tolist(), predicted, int(views[rows].sum()), config)
    return epoch * plan.steps / plan.steps_per_epoch
