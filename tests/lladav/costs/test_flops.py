"""FLOPs of the language tower under the attention patterns."""

from __future__ import annotations

import pytest

from lladav.config.schema import AdapterKind, Attention, Config, ModelPart, StageConfig
from lladav.costs.flops import language_flops, projector_flops, training_flops
from lladav.model.attention import segment_mask
from tests.lladav.build import tiny_config

LENGTHS = [5, 12]


@pytest.mark.parametrize("pattern", [Attention.bidirectional, Attention.causal])
def test_attention_counts_the_pairs_of_the_mask(pattern: Attention) -> None:
    """Two products of width W for each pair of positions, two FLOPs for a multiply-add."""
    config = tiny_config().language
    masks = [segment_mask(pattern, length, None) for length in LENGTHS]
    pairs = sum(
        length**2 if mask is None else int(mask.sum()) for mask, length in zip(masks, LENGTHS, strict=True)
    )
    without = config.layers * sum(LENGTHS) * 2 * (4 * config.width**2 + 3 * config.width * config.mlp_width)
    counted = language_flops(LENGTHS, config, causal=pattern is Attention.causal)
    assert counted == without + config.layers * 4 * config.width * pairs


def test_a_causal_model_counts_fewer_pairs() -> None:
    both = frozen(), frozen()
    both[1].model.attention = Attention.causal
    full, causal = (training_flops(LENGTHS, 4, 1, config) for config in both)
    language = [language_flops(LENGTHS, both[0].model.language, causal=flag) for flag in (False, True)]
    assert full - causal == language[0] - language[1] > 0


def frozen() -> Config:
    """Settings of the tiny model that train nothing."""
    return Config(model=tiny_config(), stage=StageConfig(trained=[]))


def test_adapters_need_the_gradients_of_inputs_but_not_those_of_weights() -> None:
    config = frozen()
    forward = training_flops(LENGTHS, 4, 1, config)
    config.stage.trained = [ModelPart.language, ModelPart.vision]
    config.train.adapter = AdapterKind.lora
    projector = projector_flops(1, config.model)
    assert training_flops(LENGTHS, 4, 1, config) == 2 * forward
    config.train.adapter = None
    assert training_flops(LENGTHS, 4, 1, config) == 3 * forward - projector
