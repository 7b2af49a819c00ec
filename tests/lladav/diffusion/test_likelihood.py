"""The validation loss: the bound of LLaDA for masked diffusion, the log-likelihood for next-token prediction.

The bound is the mean, over all orders of the answer's tokens, of the log-likelihood when the model predicts
the tokens in this order (arXiv 2502.09992, appendix on any-order autoregressive models).
"""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
import torch

from lladav.config.schema import Prediction
from lladav.diffusion.likelihood import AnswerLikelihood, answer_nats, answers_alone
from lladav.diffusion.masking import Stratum
from lladav.diffusion.training_batch import TrainingBatch
from lladav.inputs.chat import ChatTokenizer, Message, encode_chat
from lladav.inputs.packing import pack
from lladav.inputs.samples import IGNORED, Sample
from lladav.model.llada_v import LLaDAV
from tests.conftest import Golden
from tests.lladav.build import TOKENS, packed_logits, text_sample, tiny_ar_config, tiny_config, tiny_model

ANSWER = 3
DRAWS = 2000


def likelihood_of(model: LLaDAV) -> AnswerLikelihood:
    return AnswerLikelihood(model.config.prediction, TOKENS, model.geometry, chunk=512)


def entropy_of(model: LLaDAV, batch: TrainingBatch) -> torch.Tensor:
    with torch.no_grad():
        return model(batch)[1]


def log_probability(model: LLaDAV, sample: Sample, position: int, hidden: list[int]) -> float:
    """Of the token at ``position`` while the tokens at ``hidden`` are masked."""
    ids = sample.text.input_ids.copy()
    ids[hidden] = TOKENS.mask_id
    shown = replace(sample, text=replace(sample.text, input_ids=ids))
    logits = packed_logits(model, pack([shown], model.geometry))[position]
    return float(logits.double().log_softmax(-1)[int(sample.text.input_ids[position])])


def bound(model: LLaDAV, sample: Sample) -> float:
    """Mean negative log-likelihood of the answer over all orders of its tokens."""
    end = len(sample.text.input_ids)
    orders = list(permutations(range(end - ANSWER, end)))
    known: dict[tuple[int, frozenset[int]], float] = {}
    total = 0.0
    for order in orders:
        for number, position in enumerate(order):
            state = position, frozenset(order[number:])
            if state not in known:
                known[state] = log_probability(model, sample, position, [*state[1]])
            total -= known[state]
    return total / len(orders)


@torch.no_grad()
def test_the_estimate_tends_to_the_bound() -> None:
    model, sample = tiny_model(), text_sample("s", 8, supervised=ANSWER)
    copies = [replace(sample, id=f"copy {n}") for n in range(DRAWS)]
    batch = likelihood_of(model).batch(copies, [Stratum(n, DRAWS) for n in range(DRAWS)], draw=0)
    nats, tokens = answer_nats(batch, entropy_of(model, batch))
    assert tokens == ANSWER * DRAWS
    assert nats / DRAWS == pytest.approx(bound(model, sample), rel=0.03)


def test_next_token_prediction_gives_the_log_likelihood() -> None:
    model, sample = tiny_model(tiny_ar_config()), text_sample("s", 8, supervised=ANSWER)
    batch = likelihood_of(model).batch([sample], [Stratum(0, 1)], draw=0)
    logits_TV = packed_logits(model, pack([sample], model.geometry)).double().log_softmax(-1)
    ids = sample.text.input_ids
    expected = -sum(float(logits_TV[n - 1, ids[n]]) for n in range(len(ids) - ANSWER, len(ids)))
    nats, tokens = answer_nats(batch, entropy_of(model, batch))
    assert tokens == ANSWER
    assert nats == pytest.approx(expected, rel=1e-5)


def test_the_noise_depends_on_the_sample_and_the_draw_alone() -> None:
    likelihood, model = AnswerLikelihood(Prediction.masked, TOKENS, tiny_model().geometry, 8), tiny_config()
    samples = [text_sample(f"s{n}", 30, n, supervised=20) for n in range(3)]

    def hidden(chosen: list[Sample], draw: int) -> list[list[bool]]:
        strata = [Stratum(int(sample.id[1:]), 3) for sample in chosen]
        packed = likelihood.batch(chosen, strata, draw).packed
        return [(ids == model.tokens.mask).tolist() for ids in packed.token_ids_T.split(packed.lengths)]

    assert hidden(samples, 0) == [hidden([sample], 0)[0] for sample in samples]
    assert hidden(samples, 0) != hidden(samples, 1)


@pytest.mark.parametrize("tail", [0, 3])
def test_only_answers_count_and_the_eos_behind_them_are_cut_off(golden: Golden, tail: int) -> None:
    tokenizer = ChatTokenizer.load(golden.folder / "tokenizer")
    chat = [
        Message("user", "one"),
        Message("assistant", "two"),
        Message("user", "3"),
        Message("assistant", "4"),
    ]
    text = encode_chat(chat, tokenizer, eos_tail=tail)
    alone, without_tail = answers_alone(text, tokenizer.ids.eos), encode_chat(chat, tokenizer)
    np.testing.assert_array_equal(alone.input_ids, without_tail.input_ids)
    counted = alone.input_ids[alone.labels != IGNORED].tolist()
    assert tokenizer.decode(counted, special=True) == "two<|eot_id|>4<|eot_id|>"
