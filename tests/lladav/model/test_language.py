"""The language tower on packed samples, and its attention patterns."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from lladav.config.schema import Attention
from lladav.inputs.packing import pack
from lladav.inputs.samples import Sample
from lladav.model.attention import PackedAttention, attend_once, segment_mask
from lladav.model.llada_v import LLaDAV
from tests.lladav.build import (
    packed_logits,
    prompt_sample,
    text_of,
    text_sample,
    tiny_config,
    tiny_model,
    variant,
    with_repeated_keys_and_values,
)


def test_golden_logits(golden: Any, released: LLaDAV) -> None:
    rows = golden.tensors["lm.input_ids"]
    packed = pack([prompt_sample(row.tolist()) for row in rows], released.geometry)
    expected = golden.tensors["lm.logits"].flatten(0, 1)
    torch.testing.assert_close(packed_logits(released, packed), expected, atol=1e-4, rtol=0)


def test_golden_logits_without_padding(golden: Any, released: LLaDAV) -> None:
    kept = golden.tensors["lm_padded.attention_mask"].bool()
    rows = zip(golden.tensors["lm.input_ids"], kept, strict=True)
    packed = pack([prompt_sample(row[keep].tolist()) for row, keep in rows], released.geometry)
    expected = golden.tensors["lm_padded.logits"][kept]
    torch.testing.assert_close(packed_logits(released, packed), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("pattern", list(Attention))
def test_samples_do_not_attend_to_each_other(pattern: Attention) -> None:
    model = variant(tiny_model(), attention=pattern)
    left, changed = text_sample("left", 7, seed=1), text_sample("left", 7, seed=2)
    right = text_sample("right", 11, seed=3)
    before = packed_logits(model, pack([left, right], model.geometry))
    after = packed_logits(model, pack([changed, right], model.geometry))
    assert not torch.equal(before[:7], after[:7])
    assert torch.equal(before[7:], after[7:])


@pytest.mark.parametrize("pattern", list(Attention))
def test_positions_attend_as_the_pattern_allows(pattern: Attention) -> None:
    turns = [0, 0, 1, 1, 1, 2]
    allowed = {
        Attention.bidirectional: lambda *_: True,
        Attention.causal: lambda i, j: j <= i,
        Attention.dialogue_causal: lambda i, j: turns[j] <= turns[i],
    }[pattern]
    model = variant(tiny_model(), attention=pattern)
    ids = list(range(6))
    for j in ids:
        other = [i if i != j else 50 for i in ids]
        base, changed = (logits_of(model, Sample("s", text_of(x, turns=turns))) for x in (ids, other))
        for i in ids:
            assert torch.equal(base[i], changed[i]) is not allowed(i, j), (i, j)


def logits_of(model: LLaDAV, sample: Sample) -> Tensor:
    return packed_logits(model, pack([sample], model.geometry))


def test_dialogue_causal_attention_needs_turns() -> None:
    with pytest.raises(ValueError, match="needs the turn"):
        PackedAttention([3], Attention.dialogue_causal)


def test_bidirectional_attention_needs_no_mask() -> None:
    assert segment_mask(Attention.bidirectional, 5, torch.zeros(5)) is None


def test_bounds_are_copied_to_the_device_once_for_all_layers() -> None:
    attention = PackedAttention([3, 0, 2])
    bounds = attention.bounds(torch.device("cpu"))
    assert bounds.tolist() == [0, 3, 3, 5]
    assert bounds.dtype is torch.int32
    assert attention.bounds(torch.device("cpu")) is bounds


def test_grouped_heads_share_keys_and_values() -> None:
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(5, 4, 8, generator=generator)
    key, value = (torch.randn(5, 2, 8, generator=generator) for _ in range(2))
    expected = attend_once(query, key.repeat_interleave(2, dim=1), value.repeat_interleave(2, dim=1), None)
    torch.testing.assert_close(attend_once(query, key, value, None), expected)


def test_grouped_heads_equal_full_heads_with_repeated_weights() -> None:
    grouped = tiny_model(tiny_config(heads=4, kv_heads=2))
    full = tiny_model(tiny_config(heads=4, kv_heads=4))
    full.load_state_dict(with_repeated_keys_and_values(grouped, times=2))
    packed = pack([text_sample("a", 9), text_sample("b", 5)], full.geometry)
    torch.testing.assert_close(packed_logits(grouped, packed), packed_logits(full, packed))


def test_logits_do_not_depend_on_the_position_in_the_batch() -> None:
    model = tiny_model()
    sample, other = text_sample("a", 9, seed=1), text_sample("b", 6, seed=2)
    alone = packed_logits(model, pack([sample], model.geometry))
    behind = packed_logits(model, pack([other, sample], model.geometry))
    torch.testing.assert_close(behind[6:], alone)
