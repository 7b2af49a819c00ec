"""Answers of an untrained model within a structure: whatever holds for them, the structure guarantees."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lladav.decoding.engine import Engine, EngineConfig
from lladav.decoding.params import DecodingOptions
from lladav.inputs.chat import ChatTokenizer
from lladav.structured.compiling import Structure, StructureKind, StructureSpec
from tests.lladav.build import text_sample, tiny_config, tiny_model

MEMORY = 2**28
"""Bytes of the engine's KV cache."""
PROMPT = 6
"""Tokens of the prompt."""


@dataclass(frozen=True)
class StructuredRequest:
    """A structure to answer within."""

    structure: Structure
    temperature: float = 0.0
    seed: int = 0


@dataclass(frozen=True)
class UntrainedAnswer:
    """The text of an answer and its number of tokens, or the error."""

    text: str = ""
    tokens: int = 0
    error: str | None = None


def json_spec(schema: Any, **settings: Any) -> StructureSpec:
    """The spec of a schema."""
    return StructureSpec(StructureKind.json_schema, json.dumps(schema), **settings)


class UntrainedModel:
    """A tiny model with random weights and the vocabulary of a tokenizer."""

    def __init__(self, tokenizer: ChatTokenizer, max_positions: int = 4096, std: float = 0.3) -> None:
        language = {"vocab_size": tokenizer.vocab_size, "max_positions": max_positions}
        config = replace(tiny_config(**language), tokens=tokenizer.ids)
        self._tokenizer = tokenizer
        self._engine = Engine(tiny_model(config, std=std), EngineConfig(MEMORY))

    def answer(
        self, requests: Mapping[str, StructuredRequest], tokens_per_step: int = 4
    ) -> dict[str, UntrainedAnswer]:
        """The answers to requests by name, decoded together."""
        for name, request in requests.items():
            self._engine.submit(text_sample(name, PROMPT), self._options(request, tokens_per_step))
        answers: dict[str, UntrainedAnswer] = {}
        while self._engine.busy:
            for update in self._engine.step():
                if update.error is not None:
                    answers[update.id] = UntrainedAnswer(error=update.error)
                if update.answer is not None:
                    text = update.answer.text(self._tokenizer.token_bytes)
                    answers[update.id] = UntrainedAnswer(text, len(update.answer.tokens))
        return answers

    def answers(
        self, structures: Sequence[Structure], temperature: float = 0.0, seed: int = 0
    ) -> list[UntrainedAnswer]:
        """The answers within structures, in their order."""
        requests = {
            str(number): StructuredRequest(structure, temperature, seed)
            for number, structure in enumerate(structures)
        }
        found = self.answer(requests)
        return [found[name] for name in requests]

    def _options(self, request: StructuredRequest, tokens_per_step: int) -> DecodingOptions:
        return DecodingOptions.for_chat(
            self._tokenizer.ids,
            max_tokens=request.structure.max_tokens,
            stop=(),
            outline=request.structure.outline,
            temperature=request.temperature,
            seed=request.seed,
            tokens_per_step=tokens_per_step,
        )
