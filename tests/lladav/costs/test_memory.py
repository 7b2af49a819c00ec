"""The formula of a GPU's memory against what torch's allocator counts, on the CPU."""

from __future__ import annotations

import gc
from bisect import bisect_left, bisect_right
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest
from torch.profiler import ProfilerActivity, profile, record_function

from lladav.checkpoint import export
from lladav.config.loader import load
from lladav.config.schema import AdapterKind, Config, LanguageConfig, LoraConfig, ModelPart, Precision
from lladav.costs.memory import GIB, gpu_memory, parameter_counts
from lladav.diffusion.objective import Objective
from lladav.diffusion.training_batch import TrainingBatch
from lladav.inputs.images import ViewGeometry
from lladav.inputs.packing import pack
from lladav.inputs.samples import Sample
from tests.lladav.build import image_sample, text_sample, tiny_model
from tests.train.ranks import on_ranks
from tests.train.settings import settings

TOKENS = 640
STEPS, STEP = 4, "step"
VOCABULARY = "adapters and vocabulary"
PARTS = {
    "adapters of language": [ModelPart.language],
    VOCABULARY: [ModelPart.language],
    "adapters and projector": [ModelPart.language, ModelPart.projector],
    "everything": list(ModelPart),
}


def config_for(parts: str, folder: Path) -> Config:
    """A model in the proportions of the 8B model, in which each term of the formula counts."""
    config = settings(folder, trained=PARTS[parts], global_batch=1)
    config.model.language = LanguageConfig(
        vocab_size=4096, width=256, mlp_width=768, layers=6, heads=4, kv_heads=4, max_positions=4096
    )
    config.train.precision, config.train.loss_chunk = Precision.bf16, 128
    if parts != "everything":
        config.train.adapter = AdapterKind.lora
        config.train.lora = LoraConfig(rank=8, vocabulary=parts == VOCABULARY)
        config.model.weights.llada_v = str(folder / "base")
    return config


def batch_of(config: Config) -> TrainingBatch:
    geometry = ViewGeometry.of(config.model)
    samples: list[Sample] = [image_sample("image", geometry, [(60, 28)])]
    rest = TOKENS - len(pack(samples, geometry).token_ids_T)
    samples.append(text_sample("text", rest, supervised=rest // 2))
    objective = Objective(config.objective, config.model.tokens, seed=1, chunk=config.train.loss_chunk)
    return objective.batch(pack(samples, geometry), [each.id for each in samples], 0, [], scale=1.0)


def peak_of(config: Config) -> int:
    """Most bytes that torch has allocated at a time during a step: the least of several steps.

    Gloo's threads may hold buffers for longer than they are needed, so that a step has a higher peak.
    """
    from train.trainer.zero_engine import ZeroEngine

    batch = batch_of(config)
    gc.collect()  # what an earlier engine frees later would be subtracted
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        engine = ZeroEngine(config, 4, None)
        for step in range(STEPS):
            with record_function(STEP):
                engine.step([batch], step)
    assert recorded.profiler
    results: Any = recorded.profiler.kineto_results
    events = results.events()
    changes = sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]")
    times, held = [time for time, _ in changes], [*accumulate((change for _, change in changes), initial=0)]
    steps = [
        (each.start_ns(), each.start_ns() + each.duration_ns()) for each in events if each.name() == STEP
    ]
    assert len(steps) == STEPS
    # held[n] is what is allocated before change n
    return min(max(held[bisect_left(times, a) : bisect_right(times, b) + 1]) for a, b in steps[1:])


def measured_and_computed(folder: Path) -> dict[str, tuple[int, float]]:
    base = config_for("everything", folder).model
    export(tiny_model(base).bfloat16(), base, folder / "base")
    found = {}
    for parts in PARTS:
        config = config_for(parts, folder)
        views = len(batch_of(config).packed.views_NCHW)
        found[parts] = peak_of(config), gpu_memory(config, TOKENS, views).total
    return found


@pytest.mark.slow
def test_the_formula_gives_the_peak_of_a_step(tmp_path: Path) -> None:
    (found,) = on_ranks(1, measured_and_computed, tmp_path)
    for parts, (measured, computed) in found.items():
        assert computed == pytest.approx(measured, rel=0.1), (parts, found)
    assert found["everything"][0] > 2 * found["adapters of language"][0]


def test_adapters_are_counted_beside_frozen_weights() -> None:
    model = ["stage=si", "model=llada_v_8b", "data=llava"]
    whole = parameter_counts(load(model))
    counted = parameter_counts(load([*model, "train.adapter=lora", "stage.trained=[language]"]))
    inputs_and_outputs = 4 * (4096 + 4096) + 3 * (4096 + 12288)
    assert counted.trained == counted.exported == 32 * 16 * inputs_and_outputs
    assert counted.all == whole.all + counted.trained
    assert whole.exported == whole.all


ROWS = {
    "adapters of the language tower": ["train.adapter=lora", "stage.trained=[language]"],
    "the same, and the projector": ["train.adapter=lora", "stage.trained=[language,projector]"],
    "adapters of both towers, and the projector": ["train.adapter=lora"],
    "everything, without adapters": [],
}


def test_the_table_in_the_documentation_is_up_to_date(root: Path) -> None:
    page = (root / "docs" / "finetuning.md").read_text(encoding="utf-8")
    for what, settings_of_row in ROWS.items():
        cells = [
            f"{gib(settings_of_row, n, 2048):.1f} / {gib(settings_of_row, n, 8192):.1f}" for n in (1, 2, 4, 8)
        ]
        assert " | ".join(["", what, *cells, ""]).strip() in page


def gib(overrides: list[str], workers: int, tokens: int) -> float:
    """GiB of each GPU for the 8B model."""
    model = ["stage=si", "model=llada_v_8b", "data=llava", f"cluster.workers={workers}"]
    return gpu_memory(load([*model, *overrides]), tokens).total / GIB
