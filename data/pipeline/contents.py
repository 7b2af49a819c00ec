"""The contents of an epoch as text: the samples of each source."""

from __future__ import annotations

from collections.abc import Iterator

from data.pipeline.plan import HasLengths, training_sources
from data.pipeline.selection import Selection, SourceCounts
from lladav.config.schema import Config

UNKNOWN = "counted by the first run"


def epoch_contents(config: Config, manifest: HasLengths | None) -> Iterator[str]:
    """A line for each source of the stage; ``manifest`` is None if its samples are not counted yet."""
    selection = Selection.of(config)
    counts = selection.counts(training_sources(manifest, selection.held_out)) if manifest else []
    total = sum(count.in_epoch for count in counts)
    for number, name in enumerate(config.stage.sources):
        sampling = f"{config.data.sources[name].sample or 'all'}, fraction {config.data.fraction:g}"
        used = _used(counts[number], config.data.sources[name].repeat, total) if counts else UNKNOWN
        yield f"{name}: {used} ({sampling})"


def _used(count: SourceCounts, repeat: float, total: int) -> str:
    taken = f"{count.taken:,} of {count.available:,} samples"
    repeated = f" x {repeat:g} = {count.in_epoch:,}" if repeat != 1 else ""
    share = f", {count.in_epoch / total:.0%} of an epoch" if 0 < count.in_epoch < total else ""
    return f"{taken}{repeated}{share}"
