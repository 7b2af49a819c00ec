"""The forward process: noise as a pure function of seed, epoch and sample id."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from lladav.diffusion.masking import (
    AnswerSpan,
    Blocks,
    Noise,
    Stratum,
    answer_spans,
    corrupt,
    draw_noise,
    supervised_counts,
)
from lladav.inputs.images import ViewGeometry
from lladav.inputs.packing import pack
from lladav.inputs.samples import IGNORED
from tests.lladav.build import TOKENS, text_sample, tiny_config

GEOMETRY = ViewGeometry.of(tiny_config())


def test_noise_is_a_function_of_seed_epoch_and_sample() -> None:
    first = draw_noise(1, 2, "sample", 50)
    again = draw_noise(1, 2, "sample", 50)
    assert first.level == again.level
    assert np.array_equal(first.masked, again.masked)


@pytest.mark.parametrize("other", [(2, 2, "sample"), (1, 3, "sample"), (1, 2, "simple"), (12, 2, "sample")])
def test_noise_differs_by_seed_epoch_and_sample(other: tuple[int, int, str]) -> None:
    assert draw_noise(*other, 50).level != draw_noise(1, 2, "sample", 50).level


def test_noise_does_not_touch_the_global_generators() -> None:
    np.random.seed(0)
    torch.manual_seed(0)
    expected = np.random.rand(), torch.rand(1)
    np.random.seed(0)
    torch.manual_seed(0)
    draw_noise(0, 0, "sample", 10)
    assert (np.random.rand(), torch.rand(1)) == expected


def test_noise_of_known_samples_never_changes() -> None:
    """A run that a newer version resumes must continue with the same noise."""
    levels = [draw_noise(42, 0, name, 3).level for name in ("a", "b")]
    assert levels == pytest.approx([0.01347743369772858, 0.06682441269152306], abs=1e-15)


def test_levels_are_uniform() -> None:
    levels = np.sort([draw_noise(0, 0, str(n), 0).level for n in range(2000)])
    distance = np.abs(levels - (np.arange(2000) + 0.5) / 2000).max()
    assert distance < 1.63 / 2000**0.5  # Kolmogorov-Smirnov at 1 %


def test_mask_ratio_follows_the_level() -> None:
    for n in range(20):
        noise = draw_noise(0, 0, str(n), 4000, min_mask_ratio=0.01)
        assert noise.ratio == pytest.approx(0.99 * noise.level + 0.01)
        deviation = (noise.ratio * (1 - noise.ratio) / 4000) ** 0.5
        assert noise.masked.mean() == pytest.approx(noise.ratio, abs=4 * deviation)


def test_strata_spread_the_noise_levels_of_a_global_batch() -> None:
    levels = [draw_noise(0, 0, str(n), 0, stratum=Stratum(n, 8)).level for n in range(8)]
    assert [int(level * 8) for level in levels] == list(range(8))


def test_only_supervised_positions_are_masked() -> None:
    samples = [text_sample("a", 6, seed=1, supervised=3), text_sample("b", 5, seed=2, supervised=2)]
    packed = pack(samples, GEOMETRY)
    noises = [all_masked(0.5, 3), Noise(0.25, 0.25, np.array([False, True]))]
    batch = corrupt(packed, noises, TOKENS.mask_id, scale=0.5, chunk=8)
    assert supervised_counts(packed) == [3, 2]
    assert batch.predicted_M.tolist() == [3, 4, 5, 10]
    assert batch.sample_M.tolist() == [0, 0, 0, 1]
    assert (batch.packed.token_ids_T == TOKENS.mask_id).nonzero().flatten().tolist() == [3, 4, 5, 10]
    assert batch.rows.targets_M.tolist() == packed.labels_T[[3, 4, 5, 10]].tolist()


def test_rows_are_weighted_by_ratio_and_supervised_positions() -> None:
    packed = pack([text_sample("a", 6, supervised=3), text_sample("b", 5, supervised=2)], GEOMETRY)
    batch = corrupt(packed, [all_masked(0.5, 3), all_masked(0.25, 2)], TOKENS.mask_id, scale=0.5, chunk=8)
    expected = [0.5 / (0.5 * 3)] * 3 + [0.5 / (0.25 * 2)] * 2
    assert batch.rows.weights_M.tolist() == pytest.approx(expected)


def test_corruption_does_not_change_the_clean_batch() -> None:
    packed = pack([text_sample("a", 6, supervised=3)], GEOMETRY)
    before = packed.token_ids_T.clone()
    corrupt(packed, [all_masked(1.0, 3)], TOKENS.mask_id, scale=1.0, chunk=8)
    assert torch.equal(packed.token_ids_T, before)


def test_sample_without_supervision_has_no_masked_rows() -> None:
    packed = pack([text_sample("a", 6)], GEOMETRY)
    assert set(packed.labels_T.tolist()) == {IGNORED}
    batch = corrupt(packed, [draw_noise(0, 0, "a", 0)], TOKENS.mask_id, scale=1.0, chunk=8)
    assert len(batch.predicted_M) == 0


def test_blockwise_noise_is_a_state_of_blockwise_decoding() -> None:
    """Positions are clean before the active block of each answer, noisy in it, and masked behind it."""
    answers, seen = [AnswerSpan(11, 0), AnswerSpan(9, 5)], Counter()
    for name in map(str, range(400)):
        noise = draw_noise(0, 0, name, 20, 0.3, blocks=Blocks(answers, 4))
        assert noise.active is not None
        for start, end in ((0, 11), (11, 20)):
            active = np.flatnonzero(noise.active[start:end])
            first, last = active[0], active[-1]
            assert active.tolist() == list(range(first, last + 1))
            assert not noise.masked[start : start + first].any()
            assert noise.masked[start + last + 1 : end].all()
            seen[start, int(first)] += 1
        assert np.array_equal(noise.predicted, noise.masked & noise.active)
        assert noise.weight == pytest.approx(1 / (noise.ratio * noise.active.sum()))
    assert set(seen) == {*((0, first) for first in range(11)), (11, 0)}
    assert min(seen[0, 0], seen[0, 4]) > 2 * max(seen[0, first] for first in (1, 2, 3, 5, 6, 7))


def test_only_active_rows_are_predicted() -> None:
    packed = pack([text_sample("a", 6, supervised=4)], GEOMETRY)
    noise = Noise(0.5, 0.5, np.array([False, True, True, True]), np.array([True, True, False, False]))
    batch = corrupt(packed, [noise], TOKENS.mask_id, scale=1.0, chunk=8)
    assert batch.predicted_M.tolist() == [3]
    assert (batch.packed.token_ids_T == TOKENS.mask_id).nonzero().flatten().tolist() == [3, 4, 5]
    assert batch.rows.weights_M.tolist() == pytest.approx([1 / (0.5 * 2)])


def test_answer_spans_are_counted_by_turn_with_their_eos_tails() -> None:
    sample = text_sample("a", 8, supervised=6)
    sample.text.turns[:] = [0, 0, 0, 0, 0, 1, 1, 1]
    sample.text.labels[:] = [IGNORED, IGNORED, 9, 9, TOKENS.eot, 9, TOKENS.eos, TOKENS.eos]
    plain = text_sample("b", 4)
    assert answer_spans(pack([sample, plain], GEOMETRY), TOKENS.eos) == [
        [AnswerSpan(3, 0), AnswerSpan(3, 2)],
        [],
    ]


def all_masked(ratio: float, count: int) -> Noise:
    return Noise(ratio, ratio, np.ones(count, bool))
