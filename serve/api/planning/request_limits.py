"""All counts of a request, checked in one place against the limits of the server and of the API key.

To add a count, yield it in ``RequestLimits.counts`` and give its limit in ``RequestLimits.__init__``. To
limit a count for a single API key, add an optional field with the name of the count to ``KeySettings``; a key
can only lower the limit of the server. Rate and concurrency of a key are not counts of a request: see
``serve.auth.rate_limits``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from pydantic_core import to_json

from serve.api.planning.prompts import characters, media_references
from serve.api.schemas.completion_requests import ChatRequest, CompletionRequest, DecodingBody
from serve.errors import ApiError
from serve.media.loader import MediaReference
from serve.settings import KeySettings, ServeSettings


@dataclass(frozen=True)
class Count:
    """A number in a request that has a limit."""

    name: str
    value: int
    error: Callable[[int, int], ApiError]
    """Makes the error for a value and the limit that it exceeds."""


class RequestLimits:
    """Limits of the counts of a request, by name."""

    def __init__(self, settings: ServeSettings, max_positions: int) -> None:
        """``max_positions`` is the context length of the model."""
        limits = settings.limits
        self._max_positions = max_positions
        self._server = {
            "choices": limits.choices,
            "prompts": limits.prompts,
            "stops": limits.stops,
            "max_tokens": limits.max_tokens,
            "messages": limits.messages,
            "tools": limits.tools,
            "images": settings.media.images,
            "videos": settings.media.videos,
            "characters": limits.characters_per_token * max_positions,
        }

    def limit(self, name: str, key: KeySettings | None) -> int:
        """The limit of a count for an API key; none is a request without a key."""
        own: int | None = getattr(key, name, None)
        return self._server[name] if own is None else min(self._server[name], own)

    def check(self, body: DecodingBody, key: KeySettings | None) -> None:
        """Raise ``ApiError`` 400 for the first count that is above its limit."""
        for count in self.counts(body):
            limit = self.limit(count.name, key)
            if count.value > limit:
                raise count.error(count.value, limit)

    def counts(self, body: DecodingBody) -> Iterator[Count]:
        """The counts of a request."""
        yield Count("choices", body.choices, partial(_too_many, "n", "answers"))
        yield Count("stops", len(body.stops), partial(_too_many, "stop", "texts"))
        if isinstance(body, ChatRequest):
            yield Count("messages", len(body.messages), partial(_too_many, "messages", "messages"))
            yield Count("tools", len(body.tools or ()), partial(_too_many, "tools", "tools"))
            media = media_references(body.messages)
            for name, is_video in (("images", False), ("videos", True)):
                found = [each for each in media if each.is_video is is_video]
                yield Count(name, len(found), partial(_too_many_media, name, found))
        if isinstance(body, CompletionRequest):
            yield Count("prompts", len(body.prompts), partial(_too_many, "prompt", "prompts"))
        for param, number in text_characters(body):
            yield Count("characters", number, partial(_too_long, param, self._max_positions))


def requested_max_tokens(body: DecodingBody) -> tuple[int | None, str]:
    """The longest answer that a request asks for, and the field that says so; raises ``ApiError`` 400 for two
    fields that differ."""
    if not isinstance(body, ChatRequest) or body.max_completion_tokens is None:
        return body.max_tokens, "max_tokens"
    if body.max_tokens not in (None, body.max_completion_tokens):
        message = "max_tokens and max_completion_tokens differ; keep one of them"
        raise ApiError(400, message, param="max_tokens")
    return body.max_completion_tokens, "max_completion_tokens"


def text_characters(body: DecodingBody) -> Iterator[tuple[str, int]]:
    """Characters of all texts of each prompt, with the path of its field; token ids count as none.

    Tools are a part of the prompt of messages.
    """
    if isinstance(body, CompletionRequest):
        suffix = len(body.suffix or "")
        for param, prompt in body.prompts.items():
            yield param, suffix + (len(prompt) if isinstance(prompt, str) else 0)
    else:
        assert isinstance(body, ChatRequest)
        tools = to_json(body.tools).decode() if body.tools else ""
        yield "messages", characters(body.messages) + len(tools)


def _too_many(param: str, unit: str, value: int, limit: int) -> ApiError:
    return ApiError(400, f"{param}: at most {limit} {unit} here, not {value}; ask for less", param=param)


def _too_many_media(name: str, found: list[MediaReference], value: int, limit: int) -> ApiError:
    message = f"{value} {name}; a request may have {limit} at most; send fewer"
    return ApiError(400, message, code=f"too_many_{name}", param=found[limit].param)


def _too_long(param: str, max_positions: int, value: int, limit: int) -> ApiError:
    message = (
        f"{param}: {value} characters are more than the {limit} that are allowed for the model's "
        f"{max_positions} tokens; shorten the text"
    )
    return ApiError(400, message, code="context_length_exceeded", param=param)
