"""Rows of different adapters and of the base in one step: each answer is that of the merged model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lladav.config.schema import LoraTarget, ModelPart
from lladav.decoding import cpu_weights
from lladav.decoding.adapters import BASE, MultiLoraLinear, PositionAdapters
from lladav.decoding.cpu_weights import DecodingWeights, PrepackedLinear
from lladav.decoding.engine import Engine, EngineConfig, decode
from lladav.decoding.kv_cache import kv_block_bytes
from lladav.decoding.params import Cache, DecodingOptions
from lladav.decoding.results import Decoded
from lladav.errors import UserError
from lladav.inputs.samples import Sample
from lladav.model.llada_v import LLaDAV
from lladav.model.lora import LoraLinear
from tests.lladav.adapted import RandomAdapter, adapted, merged
from tests.lladav.build import image_sample, text_sample, tiny_model
from tests.lladav.decoding.outlines import RECORDS
from tests.lladav.decoding.test_engine import NEXT_TOKEN_MODEL

MODEL = tiny_model()
CPU = torch.device("cpu")
ATTENTION = LoraTarget.q_proj, LoraTarget.k_proj, LoraTarget.v_proj
ADAPTERS = {
    "all": RandomAdapter(rank=4, seed=1),
    "attention": RandomAdapter(rank=2, alpha=3, targets=ATTENTION, seed=2),
    "vision": RandomAdapter(rank=3, alpha=5, towers=[ModelPart.vision], seed=3),
    "projector": RandomAdapter(rank=1, targets=[LoraTarget.down_proj], projector=True, seed=4),
}
"""Different ranks, scalings, layers and parts."""
ADAPTED = {name: adapted(MODEL, each) for name, each in ADAPTERS.items()}
MERGED = {None: MODEL, **{name: merged(each) for name, each in ADAPTED.items()}}
OPTIONS = {
    "every step refreshed": DecodingOptions(max_tokens=12, block_length=4),
    "interval 4": DecodingOptions(max_tokens=12, block_length=6, refresh_interval=4),
    "both caches": DecodingOptions(max_tokens=12, block_length=4, cache=Cache.dual, refresh_interval=4),
    "guidance": DecodingOptions(max_tokens=8, guidance=1.0, refresh_interval=4),
    "drawn": DecodingOptions(max_tokens=12, temperature=0.8, seed=3, refresh_interval=4),
    "outline": DecodingOptions(max_tokens=25, outline=RECORDS, refresh_interval=4),
    "outline, every step refreshed": DecodingOptions(max_tokens=25, outline=RECORDS),
}


def engine_of(model: LLaDAV, adapters: Mapping[str, LLaDAV], **limits: Any) -> Engine:
    memory = 100 * kv_block_bytes(model.config.language, torch.float32, 8)
    return Engine(model, EngineConfig(memory + 2**20, block_size=8, prompt_bytes=2**20, **limits), adapters)


def prompts() -> list[Sample]:
    """A text, an image, and a longer text."""
    image = image_sample("image", MODEL.geometry, [(40, 30)])
    return [text_sample("short", 3, seed=1), image, text_sample("long", 17, seed=2)]


def answers(engine: Engine) -> dict[str, Decoded]:
    """Answers of all queued requests."""
    found: dict[str, Decoded] = {}
    while engine.busy:
        for update in engine.step():
            assert update.error is None
            found |= {update.id: update.answer} if update.answer else {}
    return found


def check_against_merged(
    engine: Engine, options: DecodingOptions, names: Mapping[str | None, LLaDAV]
) -> None:
    """Compare a batch of each prompt with each adapter with what the merged models answer alone."""
    for name in names:
        for prompt in prompts():
            engine.submit(prompt, options, f"{name}/{prompt.id}", adapter=name)
    found = answers(engine)
    for name, model in names.items():
        for prompt, expected in zip(prompts(), decode(model, prompts(), options), strict=True):
            assert found[f"{name}/{prompt.id}"].tokens == expected.tokens, (name, prompt.id)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
def test_a_mixed_batch_equals_the_merged_models(options: DecodingOptions) -> None:
    check_against_merged(engine_of(MODEL, ADAPTED), options, MERGED)


def test_the_adapters_of_the_test_answer_differently() -> None:
    texts = [
        {
            name: tuple(decode(model, [prompt], OPTIONS["interval 4"])[0].tokens)
            for name, model in MERGED.items()
        }
        for prompt in prompts()
    ]
    assert len({*texts[1].values()}) == len(MERGED)
    assert texts[0][None] == texts[0]["vision"] != texts[0]["all"]


def test_a_model_that_predicts_the_next_token_has_adapters() -> None:
    own = {"all": adapted(NEXT_TOKEN_MODEL, ADAPTERS["all"])}
    names = {None: NEXT_TOKEN_MODEL, "all": merged(own["all"])}
    check_against_merged(engine_of(NEXT_TOKEN_MODEL, own), DecodingOptions(max_tokens=8), names)


def test_rows_join_and_leave_in_any_step() -> None:
    engine, options = engine_of(MODEL, ADAPTED, max_rows=2, refresh_positions=30), OPTIONS["interval 4"]
    check_against_merged(engine, replace(options, stop=((3,), (9,))), MERGED)


def test_prepacked_layers_have_adapters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_weights, "MIN_PREPACKED_BYTES", 0)
    engine = engine_of(MODEL, ADAPTED)
    layer = DecodingWeights(engine._adapters.tower).tower.layers[0].get_submodule("mlp.up_proj")
    assert isinstance(layer.layer, PrepackedLinear)
    check_against_merged(engine, OPTIONS["interval 4"], MERGED)


def test_without_adapters_the_engine_runs_the_tower_of_the_model() -> None:
    engine = engine_of(MODEL, {}, prepack_limit=0)
    assert engine._runner._weights.tower is MODEL.language
    assert engine._runner._adapters is None


def test_rows_of_the_base_are_not_changed_by_those_of_adapters() -> None:
    layer, current = nn.Linear(6, 5), PositionAdapters(CPU)
    lora = LoraLinear(layer, rank=2, alpha=3)
    several = MultiLoraLinear(layer, {0: lora}, current)
    inputs = torch.randn(4, 6)
    current.select([BASE, 0], [3, 1])
    assert torch.equal(several(inputs)[:3], layer(inputs)[:3])
    current.select([BASE, BASE], [3, 1])
    assert torch.equal(several(inputs), layer(inputs))


@given(st.data())
@settings(max_examples=50)
def test_each_position_gets_the_merged_matrix_of_its_adapter(data: st.DataObject) -> None:
    """Any ranks and scalings, any adapters without this layer, any order of rows."""
    torch.manual_seed(data.draw(st.integers(0, 100)))
    layer, count = nn.Linear(6, 5, bias=data.draw(st.booleans())), data.draw(st.integers(1, 4))
    own = data.draw(st.lists(st.integers(0, count - 1), unique=True, min_size=1))
    loras = {
        number: LoraLinear(layer, data.draw(st.integers(1, 7)), data.draw(st.sampled_from([0.5, 2.0, 16.0])))
        for number in own
    }
    current = PositionAdapters(CPU)
    several = MultiLoraLinear(layer, loras, current)
    numbers = data.draw(st.lists(st.integers(BASE, count - 1), min_size=1, max_size=5))
    lengths = data.draw(st.lists(st.integers(1, 4), min_size=len(numbers), max_size=len(numbers)))
    current.select(numbers, lengths, [1] * len(numbers))
    inputs = torch.randn(sum(lengths), 6)
    for number, rows, outputs in zip(
        numbers, inputs.split(lengths), several(inputs).split(lengths), strict=True
    ):
        expected = loras[number](rows) if number in loras else layer(rows)
        torch.testing.assert_close(outputs, expected)


def test_visual_tokens_are_cached_by_adapter_if_it_changes_them() -> None:
    engine = engine_of(MODEL, ADAPTED)
    encoder = engine.prompt_encoder
    assert encoder._visual_models.keys() == {"vision", "projector"}
    image = prompts()[1]
    for name in (*MERGED, *MERGED):
        tokens, _ = encoder.encode(image, name)
        expected, _ = engine_of(MERGED[name], {}).prompt_encoder.encode(image)
        torch.testing.assert_close(tokens, expected)
    assert (encoder.hits, encoder.misses) == (7, 3)


def test_the_models_of_images_keep_no_matrices_of_the_language_tower() -> None:
    visual = engine_of(MODEL, ADAPTED)._adapters.visual_models["projector"]
    assert {*visual.language.parameters()} == {*MODEL.language.parameters()}


def test_an_unknown_adapter_is_refused_before_the_request_is_queued() -> None:
    engine = engine_of(MODEL, {"all": ADAPTED["all"]})
    with pytest.raises(UserError, match="adapter none: not in this engine, which has all"):
        engine.submit(text_sample("p", 3), OPTIONS["drawn"], adapter="none")
    assert not engine.busy
