"""Sampling under an outline: most probable sequences by brute force, and frequencies of draws."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lladav.decoding.constraints import MaskedSlot, Opening, OpeningScores, StepConstraint, drawn_opening
from lladav.decoding.sampler import SamplerOutput, SamplingParams, sample
from lladav.decoding.token_limits import NO_LIMITS, TokenLimits
from lladav.structured.languages.automaton import TokenAutomaton
from lladav.structured.outline import Slot
from tests.lladav.build import TOKENS
from tests.lladav.decoding.outlines import PADDING, VOCABULARY, automata, fills, repeated, words

MASK = TOKENS.mask_id


def sampled(logits_MV: Tensor, *params: SamplingParams) -> SamplerOutput:
    """Sample from given logits, which reach the sampler in chunks of 16 ids."""
    head = [
        partial(lambda hidden, ids: hidden[:, ids], ids=ids) for ids in torch.arange(VOCABULARY).split(16)
    ]
    return sample(logits_MV, head, params)


def masked_slot(automaton: TokenAutomaton, tokens: Sequence[int], first_row: int = 0) -> MaskedSlot:
    """A slot all of whose masks are candidates."""
    tokens_N = np.array(tokens)
    (positions_R,) = np.nonzero(tokens_N == MASK)
    return MaskedSlot(automaton, tokens_N, tokens_N == MASK, positions_R, first_row)


def constrained(*slots: MaskedSlot, **settings: Any) -> SamplingParams:
    rows = sum(len(each.rows) for each in slots)
    generator = torch.Generator().manual_seed(0)
    return SamplingParams(
        rows, constraint=StepConstraint(PADDING, slots=slots), generator=generator, **settings
    )


def random_logits(rows: int, seed: int = 0) -> Tensor:
    return 3 * torch.randn((rows, VOCABULARY), generator=torch.Generator().manual_seed(seed))


def best_by_enumeration(slot: MaskedSlot, log_probability_RV: Tensor) -> list[int]:
    """The tokens of the candidates in the most probable value of all."""
    accepted = np.flatnonzero(slot.automaton.class_of_V).tolist()
    choices = [[*accepted, *PADDING] if token == MASK else [token] for token in slot.tokens_N.tolist()]
    whole = Slot(slot.automaton, len(slot.tokens_N))
    values = [value for value in product(*choices) if fills(whole, value)]
    free = [[value[position] for position in slot.positions_R] for value in values]
    return max(free, key=lambda own: sum(float(log_probability_RV[n, t]) for n, t in enumerate(own)))


@given(automata(), st.integers(0, 2), st.integers(0, 10**6), st.data())
@settings(deadline=None)
def test_tokens_are_those_of_the_most_probable_value(
    automaton: TokenAutomaton, spare: int, seed: int, data: st.DataObject
) -> None:
    """Any tokens of any value may be written already."""
    length = automaton.min_tokens + spare
    logits_NV = random_logits(length + 1, seed)
    empty = masked_slot(automaton, [MASK] * length)
    value = best_by_enumeration(empty, random_logits(length, seed + 1))
    written = data.draw(st.sets(st.integers(0, length - 1))) if length else set()
    slot = masked_slot(automaton, [t if n in written else MASK for n, t in enumerate(value)])
    if not len(slot.rows):
        return
    logits_RV = logits_NV[: len(slot.rows)]
    output = sampled(logits_RV, constrained(slot))
    log_probability_RV = logits_RV.log_softmax(-1)
    expected = best_by_enumeration(slot, log_probability_RV)
    assert output.tokens_M.tolist() == expected
    confidences = log_probability_RV.double().exp()[range(len(expected)), expected]
    torch.testing.assert_close(output.confidence_M, confidences, rtol=1e-5, atol=1e-9)


def test_rows_without_an_outline_do_not_change_by_a_bit() -> None:
    logits_MV = random_logits(9)
    free = [
        SamplingParams(2, entropy=True),
        SamplingParams(2, temperature=1.0, generator=torch.Generator().manual_seed(7)),
    ]
    slots = [masked_slot(repeated(1, 2, 3), [MASK] * 2), masked_slot(words((4, 5)), [MASK, 5, MASK], 2)]
    slots[1] = masked_slot(words((4, 5)), [MASK, MASK, MASK], 2)
    mixed = sampled(logits_MV, free[0], constrained(*slots, temperature=1.0), free[1])
    free[1] = SamplingParams(2, temperature=1.0, generator=torch.Generator().manual_seed(7))
    alone = sampled(logits_MV[[0, 1, 7, 8]], *free)
    assert torch.equal(mixed.tokens_M[[0, 1, 7, 8]], alone.tokens_M)
    assert torch.equal(mixed.confidence_M[[0, 1, 7, 8]], alone.confidence_M)


@pytest.mark.parametrize(
    "settings", [{}, {"temperature": 1.5}, {"temperature": 1.5, "limits": TokenLimits(top_p=0.7)}]
)
def test_slots_do_not_depend_on_other_requests(settings: dict[str, float]) -> None:
    logits_MV = random_logits(8)

    def request() -> SamplingParams:
        return constrained(
            masked_slot(repeated(1, 2, 3), [MASK, 2, MASK]),
            masked_slot(words((4, 5), (4, 6, 7), (8,)), [MASK] * 3, 2),
            **settings,
        )

    alone = sampled(logits_MV[3:], request())
    other = constrained(masked_slot(repeated(1, 2, 3), [MASK] * 3))
    together = sampled(logits_MV, other, request())
    assert torch.equal(together.tokens_M[3:], alone.tokens_M)
    assert torch.equal(together.confidence_M[3:], alone.confidence_M)


def test_one_position_is_drawn_from_the_distribution_over_its_language() -> None:
    """Perturb-and-MAP is exact for one position."""
    draws, temperature, accepted = 3000, 2.0, [3, 17, 33, TOKENS.eot, TOKENS.eos]
    logits_V = random_logits(1)[0]
    automaton = words((), (3,), (17,), (33,))
    slots = [masked_slot(automaton, [MASK], row) for row in range(draws)]
    output = sampled(logits_V.expand(draws, -1), constrained(*slots, temperature=temperature))
    expected = (logits_V[accepted] / temperature).softmax(0)
    for token, share in zip(accepted, expected.tolist(), strict=True):
        found = (output.tokens_M == token).double().mean().item()
        assert found == pytest.approx(share, abs=4 * (share * (1 - share) / draws) ** 0.5 + 1e-9)


def test_tokens_outside_the_nucleus_are_taken_only_where_no_others_are_accepted() -> None:
    logits_V = torch.zeros(VOCABULARY)
    logits_V[[5, 6]] = 10.0
    within, outside = masked_slot(words((5,), (7,)), [MASK]), masked_slot(words((7,), (8,)), [MASK], 1)
    for _ in range(20):
        output = sampled(
            logits_V.expand(2, -1),
            constrained(within, outside, temperature=5.0, limits=TokenLimits(top_p=0.1)),
        )
        assert output.tokens_M[0] == 5
        assert output.tokens_M[1] in (7, 8)


def test_the_score_of_an_opening_is_the_probability_of_all_its_first_tokens() -> None:
    logits_MV = random_logits(3)
    digits, maybe = Slot(repeated(1, 2, 3), 2), Slot(words((9, 1), (4,)), 2)
    openings = [Opening(0, 40), Opening(0, None), Opening(2, digits), Opening(2, maybe)]
    output = sampled(logits_MV, SamplingParams(3, constraint=StepConstraint(PADDING, openings=openings)))
    probability_MV = logits_MV.double().softmax(-1)
    sets = [(0, [40]), (0, PADDING), (2, [1, 2, 3, *PADDING]), (2, [9, 4])]
    expected = [probability_MV[row, list(ids)].sum().log().item() for row, ids in sets]
    (scores,) = output.openings
    np.testing.assert_allclose(scores.log_probability_O, expected, rtol=1e-5)
    assert not scores.noise_O.any()


def test_the_most_probable_opening_wins_and_the_first_of_equals() -> None:
    scores = OpeningScores(np.log([0.1, 0.3, 0.4, 0.3]), np.zeros(4))
    assert drawn_opening(scores, [0, 1, 2], 0.0, NO_LIMITS) == 2
    assert drawn_opening(scores, [3, 1, 0], 0.0, NO_LIMITS) == 3


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (2.0, 1.0), (1.0, 0.6)])
def test_openings_are_drawn_by_their_probability(temperature: float, top_p: float) -> None:
    draws, shares = 4000, np.array([0.1, 0.5, 0.2])
    rng = np.random.default_rng(0)
    counts = np.zeros(3)
    for _ in range(draws):
        scores = OpeningScores(np.log(shares), rng.gumbel(size=3))
        counts[drawn_opening(scores, [0, 1, 2], temperature, TokenLimits(top_p=top_p))] += 1
    expected = shares ** (1 / temperature) * ([0, 1, 0] if top_p < shares[1] / shares.sum() else [1, 1, 1])
    expected /= expected.sum()
    np.testing.assert_allclose(counts / draws, expected, atol=4 * 0.5 / draws**0.5)
