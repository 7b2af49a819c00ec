"""The page: one HTML file without references to other files."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from data.look.overview import EXAMPLES, Histogram, Overview
from data.look.samples import sections
from data.manifest.manifest import Manifest
from data.pipeline.plan import Plan
from data.pipeline.reading import open_reader
from data.records.record import BadSample
from lladav.config.schema import Config
from lladav.inputs.samples import Sample

LEGEND = (
    "As the model receives them: views, then tokens. A tiled image is one view as a whole, then its tiles "
    "row by row. <span class=s>Green</span> tokens are supervised, <span class=m>&nbsp;</span> is a mask."
)
STYLE = """
:root { color-scheme: light dark; --line: #8886; --bar: #4a7dcf; --learned: #2f7d3266; --masked: #888; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 75rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; }
td, th { border: 1px solid var(--line); padding: .2rem .6rem; text-align: left; }
td.n { text-align: right; } .bar { background: var(--bar); height: .8rem; min-width: 1px; }
section { border-top: 1px solid var(--line); margin-top: 1.5rem; overflow-wrap: anywhere; }
figure { margin: .5rem 0; } figure img { width: 9rem; border: 1px solid var(--line); margin-right: .3rem; }
.tokens { font-family: ui-monospace, monospace; font-size: 13px; white-space: pre-wrap; }
.tokens span { border-right: 1px solid var(--line); } .s { background: var(--learned); }
.m, .tokens .m { background: var(--masked); border-color: Canvas; padding: 0 .3rem; }
.v { border: 1px dashed; padding: 0 .3rem; }
summary { cursor: pointer; }
"""


def page(config: Config, manifest: Manifest, found: Overview, samples: int) -> str:
    """The HTML page of a stage's data with the first ``samples`` samples of a run."""
    title = f"{escape(config.data.name)}, stage {escape(config.stage.name)}"
    return "\n".join(
        [
            f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>',
            f"<style>{STYLE}</style></head><body><h1>{title}</h1>",
            *_overview(found),
            f"<h2>Samples</h2><p>{LEGEND}</p>",
            *sections(config, _first_samples(found.plan, manifest, samples)),
            "</body></html>",
        ]
    )


def _overview(found: Overview) -> Iterator[str]:
    yield "<h2>Samples of an epoch</h2><ul>"
    yield from (f"<li>{escape(line)}</li>" for line in (*found.contents, *found.limits))
    yield "</ul><table><tr><th>source<th>kind<th>records</tr>"
    for source, counts in found.kinds.items():
        for kind, count in counts.items():
            yield f"<tr><td>{escape(source)}<td>{kind}<td class=n>{count:,}</tr>"
    yield "</table>"
    for histogram in found.histograms:
        yield from _histogram(histogram)
    if found.rejects:
        yield "<h2>Rejected records</h2><table><tr><th>reason<th>records<th>examples</tr>"
    for reason, rejects in found.rejects.items():
        examples = "<br>".join(escape(f"{each.where}: {each.detail}") for each in rejects[:EXAMPLES])
        yield f"<tr><td>{escape(reason)}<td class=n>{len(rejects):,}<td>{examples}</tr>"
    yield "</table>" if found.rejects else ""


def _histogram(histogram: Histogram) -> Iterator[str]:
    yield f"<h2>{escape(histogram.title)}</h2><table>"
    most = max(histogram.counts)
    for label, count in histogram.bins():
        bar = f'<div class=bar style="width: {20 * count / most:.2f}rem"></div>' if count else ""
        yield f"<tr><td class=n>{label}<td class=n>{count:,}<td>{bar}</tr>"
    yield "</table>"


def _first_samples(plan: Plan, manifest: Manifest, count: int) -> list[Sample]:
    """The first samples of a run that can be read."""
    reader, samples = open_reader(str(manifest.folder)), []
    for step in range(plan.steps_per_epoch):
        for row in plan.global_batch(step).tolist():
            if len(samples) == count:
                return samples
            try:
                samples.append(reader.read(row))
            except BadSample:
                continue  # the run counts it
    return samples
