"""The overview of a stage's data, and its page."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.look.__main__ import look, main
from data.look.overview import Histogram, overview
from data.look.page import page
from data.manifest.manifest import Manifest, open_manifest
from data.pipeline.plan import Plan
from data.pipeline.reading import read_samples
from lladav.config.schema import Config
from lladav.costs.flops import training_flops
from lladav.costs.memory import gpu_memory
from lladav.inputs.samples import IMAGE_PLACEHOLDER
from tests.data import build

REMARK = "<b>bold</b> & more"
BAD = [build.record("missing", "none.png"), {"id": "empty"}, {"id": "empty too"}]


@pytest.fixture
def config(tmp_path: Path, tokenizer: Path) -> Config:
    """Records of all kinds and three that are rejected, in steps of four samples."""
    records = [*build.RECORDS, build.record("marked up", answer=REMARK), *BAD]
    source = build.json_source(tmp_path, records, build.IMAGES)
    return build.settings(tmp_path, tokenizer, {"s": source})


@pytest.fixture
def manifest(config: Config) -> Manifest:
    return open_manifest(config)


class Page(HTMLParser):
    """Collects what images and links refer to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.references: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: ARG002 -- as in the base
        self.references += [value or "" for key, value in attrs if key in ("src", "href")]


def kinds_of_tokens(paragraph: str) -> list[str]:
    """The class of each token: supervised, masked, another text token, or visual tokens."""
    return re.findall(r"<span class=(\w)>", paragraph)


def test_the_overview_counts_kinds_rejects_and_steps(config: Config, manifest: Manifest) -> None:
    found = overview(config, manifest)
    assert found.kinds == {"s": {"padded": 1, "text": 2, "tiled": 1, "video": 1, "rejected": 3}}
    assert {reason: len(rejects) for reason, rejects in found.rejects.items()} == {
        "bad_record": 2,
        "missing_file": 1,
    }
    assert [sum(histogram.counts) for histogram in found.histograms] == [5, 5]
    lines = "\n".join(found.lines())
    assert "an epoch has 5 samples: 2 steps of 4 samples" in lines
    assert re.search(r"records\.json, byte \d+: none\.png is not in ", lines)


def test_samples_that_max_length_cuts_are_counted(config: Config) -> None:
    config.stage.max_length = int(open_manifest(config).lengths.min()) + 1
    manifest = open_manifest(config)
    (line,) = [line for line in overview(config, manifest).lines() if line.startswith("stage.max_length")]
    cut, lost = manifest.summary.cut, manifest.summary.reasons.get("answer_cut", 0)
    assert cut + lost == 4
    assert f" cuts {cut} samples; {lost} more would lose every answer" in line


@pytest.mark.parametrize("repeat", [1.0, 2.0])
def test_hours_follow_from_the_flops_of_every_sample(
    config: Config, manifest: Manifest, repeat: float
) -> None:
    config.data.sources["s"].repeat = repeat
    assert not any("GPU" in line for line in overview(config, manifest).limits)
    config.cluster.gpus_per_worker, config.cluster.workers, config.train.max_steps = 1, 2, 10**12
    plan, flops = Plan.of(manifest, config), 0.0
    for step in range(plan.steps_per_epoch):
        for row in map(manifest.row, (plan.global_batch(step) % len(manifest)).tolist()):
            flops += training_flops([row["length"]], row["supervised"] / 2, sum(row["views"]), config)
    hours = flops * plan.steps / plan.steps_per_epoch / (2 * 989e12 * 0.35 * 3600)
    limits = overview(config, manifest).limits
    assert hours > 1
    assert limits[-2].startswith("hours of a run with 2 GPUs at 35% of their peak, estimated: A100 ")
    assert f"H100 {hours:,.1f}" in limits[-2]
    assert limits[-1] == str(gpu_memory(config))


@given(st.lists(st.integers(0, 5000), min_size=1, max_size=50))
def test_a_histogram_counts_every_value_once(values: list[int]) -> None:
    histogram = Histogram.of("x", np.array(values))
    assert sum(histogram.counts) == len(values)
    for low, end, count in zip(histogram.edges, histogram.edges[1:], histogram.counts, strict=False):
        assert count == sum(low <= value < end for value in values)


def test_the_page_has_the_samples_as_a_run_reads_them(config: Config, manifest: Manifest) -> None:
    text = page(config, manifest, overview(config, manifest), samples=2)
    samples = list(read_samples(manifest, Plan.of(manifest, config).global_batch(0)[:2]))
    references = Page(text).references
    assert len(references) == sum(len(visual.views) for sample in samples for visual in sample.visuals)
    assert all(reference.startswith("data:image/png;base64,") for reference in references)
    sections = text.split("<section>")[1:]
    for section, sample in zip(sections, samples, strict=True):
        assert f"<h3>{sample.id}</h3>" in section
        plain, *masked = re.findall("<p class=tokens>(.*?)</p>", section, re.DOTALL)
        assert len(masked) == 3
        supervised = ["s" if each else "t" for each in sample.text.supervised]
        visual = sample.text.input_ids == IMAGE_PLACEHOLDER
        assert kinds_of_tokens(plain) == np.where(visual, "v", supervised).tolist()
        levels = re.findall(r"noise level (0\.\d+): (\d+) of (\d+) masked", section)
        assert [int(3 * float(level)) for level, _, _ in levels] == [0, 1, 2]
        assert [kinds_of_tokens(each).count("m") for each in masked] == [int(count) for _, count, _ in levels]
        assert {int(total) for *_, total in levels} == {supervised.count("s")}


def test_texts_of_records_are_escaped(config: Config, manifest: Manifest) -> None:
    text = page(config, manifest, overview(config, manifest), samples=5)
    assert "<b>" not in text
    assert "<script" not in text


def test_the_command_writes_the_page(config: Config, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    config.data.bad_sample_budget = 0.0
    look(config, tmp_path / "page.html", samples=1)
    assert (tmp_path / "page.html").read_text().count("<h3>") == 1
    assert f"page: {tmp_path / 'page.html'}" in capsys.readouterr().out


def test_a_wrong_number_of_samples_is_one_line(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        main(["stage=si", "samples=many"])
    assert capsys.readouterr().err == "error: samples=many: must be a whole number\n"
