"""``/tokenize`` and ``/detokenize`` as vLLM has them: the token ids of a prompt, and the text of token ids.

A prompt is that of ``/v1/completions``, messages are those of ``/v1/chat/completions``, so the ids are those
that the model gets.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request

from serve.api.planning.planner import unknown_model
from serve.api.routing.openapi import ERRORS, body_of
from serve.api.routing.service import Service
from serve.api.schemas.tokens import DetokenizeRequest, TokenizeRequest
from serve.api.transport.body_reading import BodyReader
from serve.api.transport.context import RequestContext


def add_tokenization(app: FastAPI, service: Service, reader: BodyReader) -> None:
    """Add ``/tokenize`` and ``/detokenize``."""
    settings, tokenizer = service.settings, service.tokenizer
    shared: dict[str, Any] = {"responses": ERRORS, "tags": ["tokens"]}

    def text_of(body: DetokenizeRequest) -> dict[str, str]:
        if body.model is not None and body.model not in settings.models:
            raise unknown_model(body.model, settings)
        return {"prompt": tokenizer.decode(body.tokens, special=True)}

    @app.post("/tokenize", **shared, openapi_extra=body_of(TokenizeRequest))
    async def tokenize(request: Request) -> dict[str, Any]:
        """Token ids of a prompt or of messages."""
        body, asked = await reader.of(
            request, TokenizeRequest, lambda body: (body, body.request(settings.name))
        )
        ids = await service.completions.prompt_ids(asked, RequestContext.of(request).key)
        if body.messages is None and not body.add_special_tokens:
            ids = ids[1:]
        names = [tokenizer.token_name(token) for token in ids] if body.return_token_strs else None
        return {
            "count": len(ids),
            "max_model_len": service.model.language.max_positions,
            "tokens": ids,
            "token_strs": names,
        }

    @app.post("/detokenize", **shared, openapi_extra=body_of(DetokenizeRequest))
    async def detokenize(request: Request) -> dict[str, str]:
        """Text of token ids, with the names of special tokens."""
        return await reader.of(request, DetokenizeRequest, text_of)
