"""From a request to the options of the engine, each validated once."""

from __future__ import annotations

import random
from collections.abc import Mapping
from itertools import chain
from typing import Any

from lladav.config.schema import ModelConfig
from lladav.decoding.params import DecodingOptions
from lladav.errors import UserError
from lladav.inputs.chat import ChatTokenizer
from serve.api.planning.decoding_plans import decoding_planner
from serve.api.planning.request_limits import RequestLimits, requested_max_tokens
from serve.api.planning.structures import PlannedStructure, RequestedStructure
from serve.api.schemas.completion_requests import ChatRequest, CompletionRequest, DecodingBody
from serve.engine.refresh_policy import RefreshRange
from serve.errors import ApiError
from serve.settings import KeySettings, ServeSettings

NUM_SEEDS = 2**62
"""Seeds from which the server draws one for a request without a seed."""


class OptionsPlanner:
    """Plans the options of requests for one model."""

    def __init__(
        self,
        settings: ServeSettings,
        tokenizer: ChatTokenizer,
        model: ModelConfig,
        limits: RequestLimits,
    ) -> None:
        self._tokenizer, self._prediction, self._limits = tokenizer, model.prediction, limits
        self._default_max_tokens = settings.limits.default_max_tokens
        self._decoding = decoding_planner(model, settings, limits)
        chat = DecodingOptions.for_chat(tokenizer.ids, model.prediction)
        self._forbidden_without_end = (*chain.from_iterable(chat.stop), *chat.forbidden)

    def check(self, body: DecodingBody, structure: RequestedStructure | None) -> None:
        """Raise ``ApiError`` for fields and tokens that the model does not have."""
        self._decoding.check(body, structure)
        if outside := [token for token in body.biases if token >= self._tokenizer.vocab_size]:
            message = f"logit_bias: the vocabulary has no token {outside[0]}; remove it"
            raise ApiError(400, message, param="logit_bias")

    def max_tokens(self, body: DecodingBody, key: KeySettings | None, structured: bool = False) -> int:
        """Tokens of a text, or of an answer that has a structure, at most. Raises ``ApiError``."""
        limit, (requested, _) = self._limits.limit("max_tokens", key), requested_max_tokens(body)
        if requested is None and not structured:
            requested = self._default_max_tokens
        return limit if requested is None else min(requested, limit)

    def plan(
        self, body: DecodingBody, key: KeySettings | None, structure: PlannedStructure | None
    ) -> tuple[DecodingOptions, RefreshRange | None]:
        """The options and the range of refresh intervals, which is None for a model without one.

        Raises ``ApiError``.
        """
        common = _common(body)
        text = None
        if structure is None or structure.optional:
            plan = self._decoding.plan(body, key, self.max_tokens(body, key), None)
            text = self._validated({**plan.settings, **common, **self._of_text(body)}), plan.refresh
        if structure is None:
            assert text is not None
            return text
        plan = self._decoding.plan(body, key, structure.compiled.max_tokens, structure.compiled)
        optional = {} if text is None else {"text_options": text[0]}
        return self._validated({**plan.settings, **common, **optional}), plan.refresh

    def _of_text(self, body: DecodingBody) -> dict[str, Any]:
        """Options of an answer without a structure."""
        found: dict[str, Any] = {}
        if isinstance(body, CompletionRequest) and body.suffix:
            found["suffix"] = tuple(self._tokenizer.encode(body.suffix))
        if body.ignore_eos:
            found |= {"stop": (), "forbidden": self._forbidden_without_end}
        return found

    def _validated(self, settings: Mapping[str, Any]) -> DecodingOptions:
        try:
            return DecodingOptions.for_chat(self._tokenizer.ids, self._prediction, **settings)
        except UserError as error:
            raise ApiError(400, str(error).removeprefix("decoding: ")) from None


def _common(body: DecodingBody) -> dict[str, Any]:
    """Options besides decoding params, of any answer."""
    found: dict[str, Any] = {"seed": random.randrange(NUM_SEEDS) if body.seed is None else body.seed}
    if body.logit_bias:
        found["logit_bias"] = body.biases
    if isinstance(body, ChatRequest) and body.top_logprobs:
        found["top_logprobs"] = body.top_logprobs
    return found
