"""From the messages or the text of a request to the prompt of the model."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

import numpy as np

from lladav.inputs.chat import SYSTEM_PROMPT, ChatTokenizer, Message, encode_prompt, join_parts
from lladav.inputs.samples import IGNORED, Encoded, Sample
from serve.api.schemas import (
    ChatMessage,
    MediaPart,
    SystemMessage,
    TextPart,
    UserMessage,
)
from serve.errors import ApiError
from serve.media.loader import MediaReference

NAME = "request"
"""Id of every prompt; the engine worker gives each answer its own."""


def media_references(messages: Sequence[ChatMessage]) -> list[MediaReference]:
    """The images and videos of a conversation in the order of their marks."""
    return [
        MediaReference(part.url, f"messages[{number}].content[{index}].{part.type}.url", part.is_video)
        for number, message in enumerate(messages)
        for index, part in enumerate(_parts(message))
        if not isinstance(part, TextPart)
    ]


def characters(messages: Sequence[ChatMessage]) -> int:
    """Characters of all texts of a conversation."""
    parts = (part for message in messages for part in _parts(message))
    return sum(len(part.text) for part in parts if isinstance(part, TextPart))


def chat_prompt(messages: Sequence[ChatMessage], tokenizer: ChatTokenizer) -> Sample:
    """The conversation up to the beginning of its answer, without its images, which are read later.

    A conversation without a system message gets the model's default one.
    """
    mark = f"<image {uuid.uuid4()}>"
    turns = [_turn(message, mark) for message in messages]
    if turns[0].role != "system":
        turns.insert(0, Message("system", SYSTEM_PROMPT))
    return Sample(NAME, encode_prompt(turns, tokenizer))


def text_prompt(text: str, tokenizer: ChatTokenizer) -> Sample:
    """A prompt of plain text, without roles."""
    return _sample([tokenizer.ids.bos, *tokenizer.encode(text)])


def token_prompt(ids: Sequence[int], vocab_size: int, param: str) -> Sample:
    """A prompt of token ids as they are; raises ``ApiError`` for an id that is not below ``vocab_size``."""
    if (largest := max(ids)) >= vocab_size:
        message = f"{param}: {largest} is no token id; the model's are below {vocab_size}"
        raise ApiError(400, message, param=param)
    return _sample(ids)


def _sample(ids: Sequence[int]) -> Sample:
    array = np.array(ids, dtype=np.int32)
    zeros = np.zeros_like(array)
    return Sample(NAME, Encoded(array, np.full_like(array, IGNORED), zeros, zeros.astype(bool)))


def check_order(messages: Sequence[ChatMessage]) -> None:
    """Raise ``ApiError`` unless the last message is a user's and only the first is a system message."""
    for number, message in enumerate(messages):
        if number and isinstance(message, SystemMessage):
            raise _bad_role(number, "a system message stands first or nowhere; move it")
    if not isinstance(messages[-1], UserMessage):
        raise _bad_role(len(messages) - 1, "the last message is what is answered; end with one of the user")


def _bad_role(number: int, reason: str) -> ApiError:
    param = f"messages[{number}].role"
    return ApiError(400, f"{param}: {reason}", param=param)


def _turn(message: ChatMessage, mark: str) -> Message:
    role = "system" if isinstance(message, SystemMessage) else message.role
    texts = [part.text if isinstance(part, TextPart) else None for part in _parts(message)]
    return Message(role, join_parts(texts, mark), mark)


def _parts(message: ChatMessage) -> Sequence[TextPart | MediaPart]:
    content = message.content
    return [TextPart(type="text", text=content)] if isinstance(content, str) else content
