"""Greedy answers to validation questions while the model is sharded over the ranks.

The decoding engine reads weights outside of forward passes, where ZeRO-3 has them in parts. Here each step is
a forward pass of the whole model over all prompts and canvases, without a KV cache, which gives the answers
of a refresh interval of 1. Every rank decodes the same few questions and takes the tokens of rank 0, so that
no rank runs another number of forward passes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from lladav.config.schema import Config, Prediction
from lladav.decoding.engine import sequence_for
from lladav.decoding.params import DecodingOptions
from lladav.decoding.prompts import prompt_length
from lladav.decoding.sampler import SamplingParams, sample
from lladav.decoding.sequence import SequenceState
from lladav.decoding.unmasking import unmask
from lladav.diffusion.training_batch import PredictedPositions
from lladav.inputs.chat import ChatTokenizer
from lladav.inputs.images import ViewGeometry
from lladav.inputs.packing import pack
from lladav.inputs.samples import IGNORED, IMAGE_PLACEHOLDER, Encoded, Sample
from train.trainer.tracking.tracker import ValidationAnswer
from train.trainer.zero_engine import ZeroEngine

DEFAULT_BLOCK_LENGTH = 32
"""Tokens of a decoding block if ``objective.block_length`` is not set; a block divides the answer."""


@dataclass(frozen=True)
class AskedSample:
    """A sample up to its first answer, and the texts of its question and of this answer."""

    prompt: Sample
    question: str
    expected: str

    @classmethod
    def of(cls, sample: Sample, tokenizer: ChatTokenizer) -> AskedSample:
        """The first question of a training sample."""
        start = int(np.argmax(sample.text.answer))
        text = sample.text.part(0, start)
        images = int((text.input_ids == IMAGE_PLACEHOLDER).sum())
        rest = sample.text.input_ids[start:].tolist()
        ends = [rest.index(end) for end in (tokenizer.ids.eot, tokenizer.ids.eos) if end in rest]
        answer = rest[: min(ends, default=len(rest))]
        prompt = Sample(sample.id, text, sample.visuals[:images])
        return cls(prompt, _question(text.input_ids.tolist(), tokenizer), tokenizer.decode(answer))

    def with_canvas(self, state: SequenceState) -> Sample:
        """The prompt and the part of the canvas that the next step attends to."""
        canvas = state.tokens_G[: state.length - state.prompt].astype(np.int32)
        text = self.prompt.text
        added = Encoded(
            canvas,
            np.full_like(canvas, IGNORED),
            np.full_like(canvas, text.turns[-1]),
            np.zeros(len(canvas), bool),
        )
        return replace(self.prompt, text=Encoded.joined([text, added]))


def _question(prompt: Sequence[int], tokenizer: ChatTokenizer) -> str:
    """The text of the last turn before the header of the answer; of a prompt without turns, all of it."""
    ids = [token for token in prompt if token != IMAGE_PLACEHOLDER]
    headers = [number for number, token in enumerate(ids) if token == tokenizer.ids.end_header]
    ends = [number for number, token in enumerate(ids) if token == tokenizer.ids.eot]
    return tokenizer.decode(ids[headers[-2] + 1 : ends[-1]] if len(headers) > 1 else ids).strip()


class ValidationQuestions:
    """Asks the model the first questions of held-out samples."""

    def __init__(self, config: Config, samples: Sequence[Sample]) -> None:
        """``samples`` are the same on all ranks."""
        self._config, self._geometry = config.model, ViewGeometry.of(config.model)
        self._tokenizer = ChatTokenizer.load(config.model.tokenizer)
        self._asked = [AskedSample.of(sample, self._tokenizer) for sample in samples]
        self._options = _options(config)

    def answers(self, engine: ZeroEngine) -> list[ValidationAnswer]:
        """Collective: the answers of the present weights."""
        states = [
            sequence_for(self._config, prompt_length(each.prompt, self._geometry), self._options)
            for each in self._asked
        ]
        with engine.evaluating() as evaluate:
            while running := [n for n, state in enumerate(states) if not state.done]:
                self._step([self._asked[n] for n in running], [states[n] for n in running], evaluate, engine)
        return [self._answer(*each) for each in zip(self._asked, states, strict=True)]

    def _step(
        self,
        asked: Sequence[AskedSample],
        states: Sequence[SequenceState],
        evaluate: Callable[[PredictedPositions], Any],
        engine: ZeroEngine,
    ) -> None:
        """Forward the prompts with their canvases once, and unmask tokens of each."""
        shown = [each.with_canvas(state) for each, state in zip(asked, states, strict=True)]
        packed = pack(shown, self._geometry)
        starts = np.cumsum([0, *packed.lengths[:-1]])
        outputs = [start + state.outputs for start, state in zip(starts, states, strict=True)]
        batch = PredictedPositions(packed, torch.from_numpy(np.concatenate(outputs)))
        tokens_M, confidence_M = self._most_probable(evaluate(batch.to(engine.device)))
        counts = [len(state.candidates) for state in states]
        for state, *own in zip(states, tokens_M.split(counts), confidence_M.split(counts), strict=True):
            _fill(state, *own)

    def _most_probable(self, logits_MV: Tensor) -> tuple[Tensor, Tensor]:
        """Collective: the most probable token of each position and its probability, as rank 0 finds them."""
        params = SamplingParams(len(logits_MV), self._options.forbidden)
        found = sample(logits_MV, [nn.Identity()], [params])
        both_2M = torch.stack((found.tokens_M.double(), found.confidence_M))
        dist.broadcast(both_2M, 0)
        tokens_M, confidence_M = both_2M.cpu()
        return tokens_M.long(), confidence_M

    def _answer(self, asked: AskedSample, state: SequenceState) -> ValidationAnswer:
        pictures = [visual.views[0] for visual in asked.prompt.visuals]
        text = self._tokenizer.decode(state.answer)
        return ValidationAnswer(asked.prompt.id, asked.question, text, asked.expected, pictures)


def _fill(state: SequenceState, tokens_N: Tensor, confidence_N: Tensor) -> None:
    """Write the tokens that the rule of an answer unmasks among its candidates."""
    chosen_N = unmask(confidence_N[None], None, [state.rule])[0]
    positions = state.candidates[chosen_N.numpy()].tolist()
    state.fill(state.span, positions, tokens_N[chosen_N].tolist(), confidence_N[chosen_N].tolist())


def _options(config: Config) -> DecodingOptions:
    tokens = config.data.validation.answer_tokens
    settings: dict[str, Any] = {"max_tokens": tokens}
    if config.model.prediction is Prediction.masked:
        settings["block_length"] = math.gcd(config.objective.block_length or DEFAULT_BLOCK_LENGTH, tokens)
        settings["allow_eos"] = config.model.allow_eos
    return DecodingOptions.for_chat(config.model.tokens, config.model.prediction, **settings)
