"""Bodies of ``/tokenize`` and ``/detokenize``."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from serve.api.schemas.body import Body, Text
from serve.api.schemas.chat_messages import ChatMessage
from serve.api.schemas.completion_requests import ChatRequest, CompletionRequest, DecodingBody, TokenIds


class TokenizeRequest(Body):
    """Body of ``POST /tokenize``: a prompt, or messages."""

    model: str | None = None
    prompt: Text | None = None
    messages: Annotated[list[ChatMessage], Field(min_length=1, fail_fast=True)] | None = None
    add_special_tokens: bool = True
    """Whether a prompt begins with BOS, as in ``/v1/completions``. Messages always do."""
    add_generation_prompt: Literal[True] = True
    """Messages are followed by the header of their answer, as in ``/v1/chat/completions``."""
    return_token_strs: bool | None = None
    """Whether the response has the names of the tokens."""

    @model_validator(mode="after")
    def _check_one(self) -> Self:
        if (self.prompt is None) is (self.messages is None):
            raise ValueError("needs either prompt or messages; give it one of them")
        return self

    def request(self, model: str) -> DecodingBody:
        """The request whose prompt is meant; ``model`` is the default."""
        model = self.model or model
        if self.messages is None:
            return CompletionRequest.model_validate({"model": model, "prompt": self.prompt or ""})
        return ChatRequest.model_validate({"model": model, "messages": self.messages})


class DetokenizeRequest(Body):
    """Body of ``POST /detokenize``."""

    model: str | None = None
    tokens: TokenIds
